"""Feature maps at several scales, from any backbone made of convolutions.

A map of stride s has a value for every s x s pixels. Strides 4, 8, 16 and 32 are what detectors and segmenters build
on. Which layer gives which map is found by running the network once and looking at the sizes of what its layers
return, so a backbone needs no description.

Images keep their shape: they are filled up on the right and below to multiples of 32, so that every map divides them
without remainder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ls_backend.errors import SettingsError
from ls_backend.vision.backbones import DEFAULT, Backbone

STRIDES = (4, 8, 16, 32)
_PROBE_PX = 256  # large enough that no pooled output has the size of a map
_FILLING = 127  # middle grey, close to zero for every backbone once normalised


class Pyramid(nn.Module):
    """The convolutions of a backbone, as a module that returns maps.

    Its normalisation and dropout layers stay in evaluation mode: statistics of a handful of images are worse than those
    the network came with.

    Attributes:
        strides: Of the maps, in order.
        channels: Of the maps, in the same order.
    """

    def __init__(self, backbone: Backbone, *, strides: Sequence[int] = STRIDES, trainable: bool = False) -> None:
        """Copy the network of a backbone.

        Args:
            backbone: Stays as it is.
            strides: A choice of `STRIDES`.
            trainable: Whether the weights will learn.

        Raises:
            SettingsError: If the network makes no such maps; transformers do not.
        """
        super().__init__()
        self.network, self._mean, self._std = backbone.network()
        self.network.requires_grad_(requires_grad=trainable)
        self.strides = tuple(strides)
        self._maps: dict[str, torch.Tensor] = {}
        try:
            shapes = self._probe()
        except (RuntimeError, ValueError, AssertionError):  # networks that take images of one size only
            shapes = {}
        layers = [_layer(shapes, _PROBE_PX // stride) for stride in self.strides]
        missing = [str(stride) for stride, layer in zip(self.strides, layers, strict=True) if not layer]
        if missing:
            raise SettingsError(
                f"Backbone {backbone.name!r} has no feature maps of stride {', '.join(missing)}; boxes and regions "
                "need a network of convolutions that halves its maps to a 32nd of the image.",
                hint=f"Choose another backbone for this project, such as {DEFAULT}.",
            )
        self._layers = layers
        self.channels = tuple(shapes[layer][1] for layer in layers)
        for layer in layers:
            self.network.get_submodule(layer).register_forward_hook(partial(_keep, self._maps, layer))

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Compute the maps.

        Args:
            pixels: (n, 3, h, w) of 0 to 255, h and w multiples of 32, on the device of the backbone.

        Returns:
            For each stride (n, channels, h / stride, w / stride) float32.
        """
        self.network((pixels.float() - self._mean) / self._std)
        maps = [self._maps[layer] for layer in self._layers]
        self._maps.clear()  # or the last images would stay in memory
        return maps

    def train(self, mode: bool = True) -> Pyramid:  # noqa: FBT001, FBT002 - torch's own signature
        """Stay in evaluation mode, whatever the module around does."""
        del mode
        super().train(mode=False)
        return self

    def _probe(self) -> dict[str, torch.Size]:
        """Run the network once; returns the shapes of what its layers return, in the order they finish."""
        shapes: dict[str, torch.Size] = {}
        hooks = [
            layer.register_forward_hook(partial(_note, shapes, name))
            for name, layer in self.network.named_modules()
            if name
        ]
        with torch.inference_mode():
            grey = torch.zeros((1, 3, _PROBE_PX, _PROBE_PX), device=self._mean.device)
            self.network(grey.to(memory_format=torch.channels_last))
        for hook in hooks:
            hook.remove()
        return shapes


def by_shape(
    images: Sequence[NDArray[np.uint8]], device: torch.device | str
) -> list[tuple[NDArray[np.int64], torch.Tensor]]:
    """Stack images of any size for a `Pyramid`, so that what it sees of one does not depend on the others.

    Every image is filled up on the right and below to the next multiples of 32, with grey; images that are then equal
    in shape share a stack.

    Args:
        images: n arrays (h, w, 3) uint8 RGB.
        device: Where the stacks will be.

    Returns:
        For each shape the positions (b,) of its images, and their pixels (b, 3, height, width) uint8, channels last.
    """
    members: dict[tuple[int, int], list[int]] = {}
    for i, image in enumerate(images):
        members.setdefault(filled(image.shape[0], image.shape[1]), []).append(i)
    stacks = []
    for (height, width), rows in members.items():
        stack = np.full((len(rows), height, width, 3), _FILLING, np.uint8)
        for k, i in enumerate(rows):
            stack[k, : images[i].shape[0], : images[i].shape[1]] = images[i]
        stacks.append((np.array(rows, np.int64), torch.from_numpy(stack).to(device).permute(0, 3, 1, 2)))
    return stacks


def filled(height: int, width: int) -> tuple[int, int]:
    """Round an image's size up to multiples of 32."""
    return -(-height // 32) * 32, -(-width // 32) * 32


def _note(shapes: dict[str, torch.Size], name: str, _layer: nn.Module, _inputs: object, output: object) -> None:
    shapes.pop(name, None)  # a layer that runs twice counts where it ran last
    if isinstance(output, torch.Tensor):
        shapes[name] = output.shape


def _keep(maps: dict[str, torch.Tensor], name: str, _layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
    maps[name] = output


def _layer(shapes: dict[str, torch.Size], side: int) -> str:
    """Pick the last of the outermost layers that return maps of a side; "" without any.

    Outermost, because inside a block that halves the map the first convolution still has the old size.
    """
    fitting = [name for name, shape in shapes.items() if len(shape) == 4 and tuple(shape[2:]) == (side, side)]
    if not fitting:
        return ""
    outermost = min(name.count(".") for name in fitting)
    return [name for name in fitting if name.count(".") == outermost][-1]
