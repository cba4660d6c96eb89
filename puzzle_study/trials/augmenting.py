"""Training on mild corruptions (``data.augment``), for every detector alike.

Shape legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from puzzle_study.corruptions.corrupt import corrupt

MILD = (1, 2, 3)
"""Severities that a training draws from, so that tests of 4 and 5 are of what it has not seen."""
MOST_COPIES = 4


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed; the same seed and number of draw give the same bits.

    Attributes:
        kinds: names of corruptions; without any, images stay as they are.
        seed: of the training.
    """

    kinds: Sequence[str]
    seed: int

    def of_epoch(self, images_NCHW: Tensor, epoch: int) -> Tensor:
        """Return uint8 images, each left as it is or changed by one of the kinds, all with the same chance."""
        return self._drawn(images_NCHW, epoch, len(self.kinds) + 1) if self.kinds else images_NCHW

    def with_copies(self, images_NCHW: Tensor) -> Tensor:
        """Return uint8 images and, behind them, a copy of all for each kind, four at most, changed by random kinds."""
        copies = [self._drawn(images_NCHW, copy, len(self.kinds)) for copy in range(1, copies_of(self.kinds) + 1)]
        return torch.cat((images_NCHW, *copies)) if copies else images_NCHW

    def _drawn(self, images_NCHW: Tensor, draw: int, choices: int) -> Tensor:
        """Change each image by a kind, drawn by number; the number behind the last leaves it as it is."""
        rng = np.random.default_rng([self.seed, draw])
        kind_N, severity_N = rng.integers(choices, size=len(images_NCHW)), rng.choice(MILD, len(images_NCHW))
        seed, changed_NCHW = int(rng.integers(2**32)), images_NCHW.clone()
        for number, kind in enumerate(self.kinds):
            for severity in MILD:
                chosen = torch.from_numpy(np.flatnonzero((kind_N == number) & (severity_N == severity)))
                chosen = chosen.to(images_NCHW.device)
                changed_NCHW[chosen] = corrupt(images_NCHW[chosen], kind, severity, seed)
        return changed_NCHW


def copies_of(kinds: Sequence[str]) -> int:
    """Return how many changed copies of its training images a detector without epochs is fitted on besides."""
    return min(len(kinds), MOST_COPIES)
