"""Backbones of timm, an extra; what can be tried without it is tried without it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ls_backend.errors import SettingsError
from ls_backend.vision import backbones, timm_models

NAME = "timm/test_resnet"


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason="TIMM IS NOT INSTALLED: its backbones are not tested (the extra timm)")


def state_of(timm, name, n_classes):
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=n_classes).state_dict()


def keep(state, folder, name=NAME):
    (folder / "timm").mkdir(exist_ok=True)
    save_file(state, folder / f"{name}.safetensors")


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SettingsError, match="timm") as caught:
        backbones.load(NAME, weights_dir=tmp_path, device="cpu")
    assert "pip install 'ls-backend[timm]'" in caught.value.hint


@pytest.mark.parametrize("n_classes", [1000, 7, 0])
def test_features_are_what_the_classifier_of_the_model_is_given(timm, n_classes, tmp_path):
    state = state_of(timm, "test_resnet", n_classes)
    keep(state, tmp_path)
    backbone = backbones.load(NAME, weights_dir=tmp_path, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    given = timm.get_pretrained_cfg("test_resnet")
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (given.mean, given.std))
    model = timm.create_model("test_resnet", pretrained=False, num_classes=n_classes).eval()
    model.load_state_dict(state)
    batch = ((torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std)[None]
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True).numpy()
    found = backbone.embed([image])
    assert (backbone.input_px, backbone.dim) == (160, expected.shape[1])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_transformer_works_too(timm, tmp_path):
    keep(state_of(timm, "test_vit", 5), tmp_path, "timm/test_vit")
    backbone = backbones.load("timm/test_vit", weights_dir=tmp_path, device="cpu")
    assert backbone.embed([np.zeros((50, 70, 3), np.uint8)]).shape == (1, backbone.dim)


def test_weights_of_another_model_are_refused(timm, tmp_path):
    keep(state_of(timm, "test_vit", 5), tmp_path)
    with pytest.raises(SettingsError, match="does not fit timm/test_resnet"):
        backbones.load(NAME, weights_dir=tmp_path, device="cpu")


def test_the_file_and_the_address_carry_the_name(timm, tmp_path):
    with pytest.raises(SettingsError, match=r"timm/resnet18\.safetensors") as caught:
        backbones.load("timm/resnet18", weights_dir=tmp_path, device="cpu")
    assert f"{timm_models.HUB}/timm/resnet18.a1_in1k/resolve/main/model.safetensors" in caught.value.hint


def test_an_unknown_model_is_answered_with_the_nearest(timm, tmp_path):
    for name in ("timm/resnet_18", "timm/../resnet18", "timm/"):
        with pytest.raises(SettingsError, match="unknown"):
            backbones.load(name, weights_dir=tmp_path, device="cpu")
    with pytest.raises(SettingsError, match="timm/resnet18"):
        backbones.load("timm/resnet_18", weights_dir=tmp_path, device="cpu")
