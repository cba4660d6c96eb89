"""Wide residual networks as features (Zagoruyko and Komodakis 2016), as in GT's code.

Shape legend: N images, C channels, H and W pixels, F features.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BASE = 16
"""Channels of the first convolution; the three groups have 1, 2 and 4 times as many, multiplied by the width."""
DEPTHS = (10, 16, 22, 28)


class Block(nn.Module):
    """Two 3×3 convolutions, each after batch norm and ReLU; the shortcut is a convolution if the channels change."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.convolution1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.convolution2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the sum of the two paths."""
        y = F.relu(self.norm1(x_NCHW), inplace=True)
        shortcut = x_NCHW if self.shortcut is None else self.shortcut(y)
        y = F.relu(self.norm2(self.convolution1(y)), inplace=True)
        return cast(Tensor, self.convolution2(y) + shortcut)


class WideResNet(nn.Module):
    """A wide residual network up to its pooled features, without dropout.

    Input [N, C, H, W] of any size, output [N, F] with F = 64 · ``widen``, float32.

    Args:
        channels: of the images.
        depth: 6n + 4 layers, n blocks in each of the three groups.
        widen: factor on the channels of the groups.
    """

    def __init__(self, *, channels: int, depth: int, widen: int) -> None:
        super().__init__()
        count = (depth - 4) // 6
        widths = [BASE, *(BASE * widen * factor for factor in (1, 2, 4))]
        self.stem = nn.Conv2d(channels, BASE, 3, 1, 1, bias=False)
        self.blocks = nn.Sequential(
            *(
                Block(widths[group] if number == 0 else widths[group + 1], widths[group + 1], stride=stride)
                for group in range(3)
                for number, stride in enumerate([1 if group == 0 else 2, *[1] * (count - 1)])
            )
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.features = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the features."""
        y = self.blocks(self.stem(x_NCHW.contiguous(memory_format=torch.channels_last)))
        return F.relu(self.norm(y), inplace=True).float().mean((2, 3))


def multiply_adds(*, pixels: int, channels: int, depth: int, widen: int) -> float:
    """Return the multiply-adds of the features of an image with this many pixels."""
    count, width = (depth - 4) // 6, BASE * widen
    total = 9.0 * channels * BASE * pixels
    inputs = BASE
    for group in range(3):
        outputs, left = width * 2**group, pixels / 4**group
        total += left * (10 * inputs * outputs + 9 * (2 * count - 1) * outputs**2)
        inputs = outputs
    return total
