"""A small network that tests export, with what the pages say of an export."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Two maps, the second through attention over positions, from a few weights."""

    mean: Tensor

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((channels, 1, 1), 0.5))
        self.first, self.norm = nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.second, self.drop = nn.Conv2d(8, 16, 3, 2, 1), nn.Dropout(0.5)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.norm(self.first(x - self.mean)).relu()
        second = self.drop(self.second(first))
        flat = second.flatten(2).transpose(1, 2)
        mixed = flat + self.attention(flat, flat, flat, need_weights=False)[0]
        return [first, mixed.transpose(1, 2).reshape(second.shape)]


class Vectors(nn.Module):
    """A network that gives one vector for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = Small()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.maps(x)[1].mean((2, 3))
        return found


def made(network: type[nn.Module] = Small, **arguments: int) -> nn.Module:
    """A network with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network(**arguments).eval()


def exported(path: Path, network: nn.Module, *, image: Sequence[int] = (3, 32, 32), free: bool = True) -> Path:
    """Write a network as a user does."""
    shapes = ({0: torch.export.Dim("N")},) if free else None
    program = torch.export.export(network, (torch.zeros(2, *image),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    if not any(name.endswith("models/model.json") for name in zipfile.ZipFile(path).namelist()):
        pytest.skip(f"PyTorch {torch.__version__} writes such files in an older form")
    return path
