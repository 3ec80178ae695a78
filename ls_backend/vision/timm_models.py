"""Backbones of timm, an extra: "timm/" and the name of the model there, which is also its name on the model hub.

The slash is a folder: weights are looked for, and downloaded to, `timm/<name>.safetensors` in the weights folder. timm
itself never reads a file or the network here.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ls_backend.errors import SettingsError
from ls_backend.vision.weights import Source

PREFIX = "timm/"
HUB = "https://huggingface.co"
_MAX_BYTES = 8 * 2**30  # timm does not tell how large its files are; this is beyond any of them


def has(name: str) -> bool:
    """Whether a backbone is one of timm's, by its name."""
    return name.startswith(PREFIX)


def source(name: str) -> Source:
    """Return where the published weights of a model can be had.

    Raises:
        SettingsError: If timm is not installed, does not know the name, or names no place for its weights.
    """
    given = _config(name)
    if not given.hf_hub_id:
        raise SettingsError(
            f"Backbone {name!r} has no published weights in timm; expected a checkpoint of your own.",
            hint=f"Put {name}.safetensors into the weights folder, or choose another model.",
        )
    file = given.hf_hub_filename or "model.safetensors"
    suffix = ".safetensors" if file.endswith(".safetensors") else ".pth"
    return Source(f"{HUB}/{given.hf_hub_id}/resolve/main/{file}", suffix, sha256="", max_bytes=_MAX_BYTES)


def build(
    name: str, path: Path, state: dict[str, torch.Tensor]
) -> tuple[nn.Module, int, int, list[float], list[float]]:
    """Build a model without its classifier: pooled features of the size timm gives them.

    Args:
        name: "timm/" and the model's name.
        path: Where the weights come from, for messages.
        state: The weights, with or without a classifier of any number of classes.

    Returns:
        Network, length of a feature vector, side of its square input in pixels, and mean and deviation of each
        channel of pixels from 0 to 255.

    Raises:
        SettingsError: If timm is not installed or does not know the name, or the weights do not fit.
    """
    given = _config(name)
    heads = given.classifier if isinstance(given.classifier, tuple | list) else (given.classifier,)
    outputs = [len(state[f"{head}.weight"]) for head in heads if f"{head}.weight" in state]
    n_classes = outputs[0] if outputs else 0
    try:
        # As a dictionary that timm converts where a model has another format on the hub; it reads no file by itself.
        network: nn.Module = _timm().create_model(
            name.removeprefix(PREFIX),
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": state, "num_classes": n_classes, "label_offset": 0},
            num_classes=n_classes,
        )
        network.reset_classifier(0)  # type: ignore[operator]
        side = int(given.input_size[-1])
        with torch.inference_mode():
            features = network.eval()(torch.zeros(1, 3, side, side))
    except (RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise SettingsError(f"Checkpoint {path.name} does not fit {name}: {reason}.") from error
    if features.ndim != 2:
        raise SettingsError(f"Backbone {name!r} has no pooled features; choose another model of timm.")
    mean, std = ([255.0 * value for value in values] for values in (given.mean, given.std))
    return network, features.shape[1], side, mean, std


def _timm() -> Any:  # noqa: ANN401 - an extra, so it is untyped here
    try:
        import timm  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise SettingsError(
            f"Backbones that begin with {PREFIX!r} need the package timm, which is not installed.",
            hint="Run `pip install 'ls-backend[timm]'` where the workers run, and restart them.",
        ) from error
    return timm


def _config(name: str) -> Any:  # noqa: ANN401 - timm's PretrainedCfg
    """Return what timm knows of the pretrained model."""
    timm = _timm()
    short = name.removeprefix(PREFIX)
    known = {*timm.list_models(), *timm.list_pretrained()}
    if short not in known:
        near = [f"{PREFIX}{one}" for one in difflib.get_close_matches(short, sorted(known), n=3)]
        raise SettingsError(
            f"Backbone {name!r} is unknown; expected {PREFIX} and a model of timm {timm.__version__}"
            + (f", such as {', '.join(near)}." if near else ".")
        )
    return timm.get_pretrained_cfg(short)
