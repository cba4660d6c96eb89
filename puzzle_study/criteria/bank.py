"""Pseudo-anomalies: validation images that were spoiled, by which a winner is chosen without test labels.

Three kinds, each made of normal validation images only: ``cut_paste`` puts a patch of an image elsewhere in it,
``foreign_piece`` replaces a quarter by the same quarter of another image, ``local_noise`` covers a patch with
uniform noise. Shape legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TRIES = 8
SOURCES, PER_IMAGE = 200, 5
PATCH_SHARE = (0.2, 0.5)


@dataclass(frozen=True)
class PseudoAnomalies:
    """Spoiled images, uint8 [N, C, H, W], and the kind of each."""

    images: Tensor
    kinds: tuple[str, ...]


def make_pseudo_anomalies(validation_NCHW: Tensor, *, seed: int, per_image: int | None = None) -> PseudoAnomalies:
    """Spoil validation images in each of the three ways; a single one has no other to take a piece from, so in two.

    Of eight tries for each result the one that changes the image most is kept: a black patch on black is no anomaly.

    Args:
        validation_NCHW: uint8 images, on any device; the result is on the same.
        per_image: how many of each kind are made of one image; None: up to five if there are few images. Only the first
            200 are used: more would cost more than scoring the test set and tell little more.
        seed: seed of places and partners; the same images and seed give the same result on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen_NCHW = validation_NCHW[:SOURCES].cpu()
    times = per_image or _times(len(chosen_NCHW))
    source = chosen_NCHW.repeat_interleave(times, 0)
    images, kinds = [], []
    for kind, spoil in SPOILERS.items():
        if spoil is _foreign_piece and len(chosen_NCHW) == 1:
            continue
        tries_TNCHW = torch.stack([spoil(source, generator) for _ in range(TRIES)])
        change_TN = (tries_TNCHW.float() - source.float()).square().flatten(2).mean(2)
        images.append(tries_TNCHW[change_TN.argmax(0), torch.arange(len(source))])
        kinds += [kind] * len(source)
    return PseudoAnomalies(torch.cat(images).to(validation_NCHW.device), tuple(kinds))


def pseudo_anomalies_of(validation: int) -> int:
    """Return how many pseudo-anomalies are made of so many validation images."""
    sources = min(SOURCES, validation)
    return (len(SPOILERS) - (sources == 1)) * sources * _times(sources)


def _times(sources: int) -> int:
    return max(1, min(PER_IMAGE, SOURCES // sources))


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _patches(x_NCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a random rectangle for each image: mask [N, 1, H, W] and its corner and size [4, N]."""
    images, _, height, width = x_NCHW.shape
    h_N = (_uniform(images, *PATCH_SHARE, generator) * height).round().long().clamp_min(1)
    w_N = (_uniform(images, *PATCH_SHARE, generator) * width).round().long().clamp_min(1)
    top_N = (torch.rand(images, generator=generator) * (height - h_N + 1)).long()
    left_N = (torch.rand(images, generator=generator) * (width - w_N + 1)).long()
    row, column = torch.arange(height)[None, :], torch.arange(width)[None, :]
    in_row = (row >= top_N[:, None]) & (row < (top_N + h_N)[:, None])
    in_column = (column >= left_N[:, None]) & (column < (left_N + w_N)[:, None])
    return (in_row[:, :, None] & in_column[:, None, :])[:, None], torch.stack((top_N, left_N, h_N, w_N))


def _cut_paste(x_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    mask, (top_N, left_N, h_N, w_N) = _patches(x_NCHW, generator)
    images, channels, height, width = x_NCHW.shape
    from_top = (torch.rand(images, generator=generator) * (height - h_N + 1)).long()
    from_left = (torch.rand(images, generator=generator) * (width - w_N + 1)).long()
    row = (torch.arange(height)[None] + (from_top - top_N)[:, None]).clamp(0, height - 1)
    column = (torch.arange(width)[None] + (from_left - left_N)[:, None]).clamp(0, width - 1)
    index = (row[:, :, None] * width + column[:, None, :]).reshape(images, 1, -1).expand(-1, channels, -1)
    moved = x_NCHW.flatten(2).gather(2, index).reshape(x_NCHW.shape)
    return torch.where(mask, moved, x_NCHW)


def _foreign_piece(x_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    images, _, height, width = x_NCHW.shape
    partner = torch.randint(images, (images,), generator=generator)
    quarter_N = torch.randint(4, (images,), generator=generator)
    row = (torch.arange(height) >= height // 2).long()[:, None]
    column = (torch.arange(width) >= width // 2).long()[None, :]
    mask = (2 * row + column)[None] == quarter_N[:, None, None]
    return torch.where(mask[:, None], x_NCHW[partner], x_NCHW)


def _local_noise(x_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    mask, _ = _patches(x_NCHW, generator)
    noise = torch.randint(256, x_NCHW.shape, generator=generator, dtype=torch.uint8)
    return torch.where(mask, noise, x_NCHW)


SPOILERS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "cut_paste": _cut_paste,
    "foreign_piece": _foreign_piece,
    "local_noise": _local_noise,
}
