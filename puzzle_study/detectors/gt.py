"""GT: a network learns which of 72 flips, shifts and turns was applied; its answers to anomalies are unusual.

Shape legend: as in pretext.py.

As in the paper and its code: 2 flips × 9 shifts × 4 turns; shifts by a quarter of the side, with reflection beyond the
edge; images of 28 pixels in a black frame of 32; WRN-10-4; Adam, 128 transformed images in a step, ⌈200 / 72⌉ = 3
epochs over all 72 × N pairs. For each transformation a Dirichlet distribution is fitted to the softmax of the
transformed training images. The score is the negative mean of the 72 log-likelihoods. The code's penalty
2.5e-4 · ‖w‖² is a weight decay of 5e-4 here.

Differences from the code: the distributions are fitted to the first 500 training images instead of all.
Logarithms are those of log softmax, which cannot round to log 0. Sizes other than 28 are framed to the next multiple of
8. A canvas (canvas.py) makes each shift exactly reversible, so that attack2 works.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from puzzle_study.config.types import Layer
from puzzle_study.detectors.canvas import Moved, Movement
from puzzle_study.detectors.pretext import Epochs, PretextSettings, Train, Views

TRANSFORMATIONS = 2 * 3 * 3 * 4
STEPS, NEWTON_STEPS = 100, 3
SMALLEST_ALPHA = 1e-8
MOST_FITTED = 500
"""Training images for fitting the distributions; all of them would cost a ninth of the training."""
# Equal answers fit any sharpness.
SHARPEST = 1e4


class GTTrain(Train):
    """The training."""

    epochs: Epochs = 3
    views: Views = TRANSFORMATIONS


class GTSettings(PretextSettings):
    """The network, its training and the score."""

    DATASETS: ClassVar[Mapping[str, Layer]] = {"digits": {"preset": "fast"}, "folder": {"preset": "fast"}}
    ALONG: ClassVar[tuple[str, ...]] = ("train.epochs",)
    PRESETS: ClassVar[Mapping[str, Layer]] = {
        "paper": {},
        "fast": {"model": {"widen": 1}, "train": {"epochs": 12, "views": 4}},
    }
    SMALL: ClassVar[Layer] = {
        "model": {"widen": 1},
        "train": {"epochs": 4, "batch_size": 32, "views": 4, "precision": "float32"},
    }

    train: GTTrain = Field(GTTrain(), description="The training.")

    @property
    def transformations(self) -> int:
        """72."""
        return TRANSFORMATIONS


class GT(Moved):
    """A transformation's error is how much the answer differs from the answers to normal images."""

    name = "gt"
    title = "GT"
    source = "Golan, El-Yaniv 2018: Deep Anomaly Detection Using Geometric Transformations"
    Settings = GTSettings
    multiple = 8

    alpha_KK: Tensor

    def __init__(self, **network: Any) -> None:
        super().__init__(**network)
        self.register_buffer("alpha_KK", torch.ones(TRANSFORMATIONS, TRANSFORMATIONS))

    @classmethod
    def movements(cls, side: int) -> tuple[list[Movement], int]:
        """Return all combinations of flips, shifts and turns."""
        shifts = (0, -(side // 4), side // 4)
        return [Movement(*each) for each in itertools.product((False, True), shifts, shifts, range(4))], side // 4

    def losses(self, logit_PK: Tensor, k_P: Tensor) -> Tensor:
        """Return the negative log-likelihoods under the Dirichlet distribution of view k.

        Its constant is left out, as in the code, because it cancels with a view's mean loss.
        """
        loss_P: Tensor = ((1 - self.alpha_KK[k_P]) * logit_PK.log_softmax(1)).sum(1)
        return loss_P

    def settle(self, images_NCHW: Tensor) -> None:
        """Fit the Dirichlet distributions to the answers to training images."""
        images_NCHW = images_NCHW[:MOST_FITTED]
        sums: dict[int, tuple[Tensor, Tensor]] = {}

        def work(part: slice, x_NCHW: Tensor) -> None:
            logarithm_NKK = self.by_views(x_NCHW, self._log_softmax)
            sums[part.start] = logarithm_NKK.double().exp().sum(0), logarithm_NKK.double().sum(0)

        self.by_chunks(images_NCHW, work)
        mean_KK, log_mean_KK = (
            torch.stack(parts).sum(0) / len(images_NCHW) for parts in zip(*sums.values(), strict=True)
        )
        self.alpha_KK = dirichlet(mean_KK, log_mean_KK).float()

    def _log_softmax(self, x_NCHW: Tensor, views: slice) -> Tensor:
        """Return log softmax of the answers to some views, [N, K, K]."""
        view_NKCHW = self.views_of(self.prepare(x_NCHW), self.view_K[views])
        logarithm_PK = self.answer(view_NKCHW.flatten(0, 1)).log_softmax(1)
        return logarithm_PK.reshape(*view_NKCHW.shape[:2], -1)


def dirichlet(mean: Tensor, log_mean: Tensor) -> Tensor:
    """Return the likeliest Dirichlet parameters for samples (Minka 2000: fixed-point iteration), [..., K].

    ``mean`` and ``log_mean`` are the samples' means and those of their logarithms, [..., K], float64.
    """
    sharpness = (mean * (mean.clamp_min(1e-300).log() - log_mean)).sum(-1, keepdim=True)
    euler = -torch.digamma(torch.ones((), dtype=mean.dtype, device=mean.device))
    total = ((mean.shape[-1] - 1) * euler / sharpness.clamp_min(1e-12)).clamp_max(SHARPEST)
    alpha = (mean * total).clamp_min(SMALLEST_ALPHA)
    for _ in range(STEPS):
        target = torch.digamma(alpha.sum(-1, keepdim=True)) + log_mean
        alpha = _inverse_digamma(target).clamp(SMALLEST_ALPHA, SHARPEST)
    return alpha


def _inverse_digamma(y: Tensor) -> Tensor:
    """Return x with ψ(x) = y, by Newton's method from Minka's first guess."""
    x = torch.where(y >= -2.22, y.exp() + 0.5, -1 / (y - torch.digamma(torch.ones_like(y))))
    for _ in range(NEWTON_STEPS):
        x = x - (torch.digamma(x) - y) / torch.polygamma(1, x)
    return x
