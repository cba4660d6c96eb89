"""What an attack pushes: per row one number with its gradient, in as little memory as there is.

An objective knows the detector and, if an attack needs them, the true images and views of its rows.
It takes R rows, or a whole multiple of them laid out one full set after the other, as some attacks do for their
samples. Rows are independent of each other, so that values and gradients come chunk by chunk and are the same
for every chunk size (up to the last bits of a convolution).

Shape legend: R rows of an attack, B rows of one call (a multiple of R), K permutations, P pairs of row and
permutation, C channels, H and W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from puzzle_study.detectors import scoring
from puzzle_study.detectors.base import Detector, Viewed
from puzzle_study.detectors.devices import whole_float32
from puzzle_study.detectors.memory import AtOnce, halving


class Objective(nn.Module, ABC):
    """Rows of images to numbers; higher is more anomalous.

    Args:
        rows: R, how many rows the attack works on.
        at_once: how many views, or rows, are in memory together; halved when memory runs out.
        views_per_row: how many of those a row stands for.
    """

    def __init__(self, *, rows: int, at_once: AtOnce, views_per_row: int = 1) -> None:
        super().__init__()
        self.rows = rows
        self.at_once, self.views_per_row = at_once, views_per_row

    @abstractmethod
    def evaluate(self, x_BCHW: Tensor, row_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return for a chunk of rows what is pushed (differentiable) and what ranks iterates, each [B]."""

    def differentiate(self, x_BCHW: Tensor, row_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return :meth:`evaluate` of a chunk and the gradient of the first with respect to the rows."""
        leaf_BCHW = x_BCHW.detach().requires_grad_()
        value_B, rank_B = self.evaluate(leaf_BCHW, row_B)
        return value_B.detach(), rank_B.detach(), gradient(value_B.sum(), leaf_BCHW)

    def values(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is pushed and what ranks, each [B], chunk by chunk without gradients."""
        with torch.no_grad():
            value_B, rank_B = self._by_chunks(self.evaluate, x_BCHW)
        return value_B, rank_B

    def gradients(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return :meth:`values` and the gradient of the first [B, C, H, W], chunk by chunk."""
        with torch.enable_grad():
            value_B, rank_B, slope_BCHW = self._by_chunks(self.differentiate, x_BCHW)
        return value_B, rank_B, slope_BCHW

    def draw_views(self, count: int, seed: int) -> bool:
        """Let each gradient run through so many views drawn at random; return whether that is possible here.

        What is pushed, and what ranks iterates, are then estimates wherever there is a gradient.
        """
        return False

    def _by_chunks(self, work: Callable[[Tensor, Tensor], tuple[Tensor, ...]], x_BCHW: Tensor) -> list[Tensor]:
        """Return what ``work`` finds for chunk after chunk, with smaller chunks once memory has run out."""
        count = len(x_BCHW)
        if count == 0 or count % self.rows:
            raise RuntimeError(
                f"an attack asked about {count} rows of {self.rows}: it no longer says which row is which"
            )
        row_B = torch.arange(count, device=x_BCHW.device) % self.rows
        done, parts = 0, []

        def next_chunk() -> tuple[int, tuple[Tensor, ...]]:
            part = slice(done, min(done + max(1, self.at_once.count // self.views_per_row), count))
            return part.stop, work(x_BCHW[part], row_B[part])

        while done < count:
            done, found = halving(self.at_once, next_chunk)
            parts.append(found)
        return [torch.cat(part) for part in zip(*parts, strict=True)]


class WholeScore(Objective):
    """attack1 on any detector: the score of the image (rows are images)."""

    def __init__(self, detector: nn.Module, *, rows: int, at_once: AtOnce) -> None:
        super().__init__(rows=rows, at_once=at_once)
        self.detector = detector

    def evaluate(self, x_BCHW: Tensor, row_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score twice."""
        score_B = cast(Tensor, self.detector(x_BCHW)).reshape(len(x_BCHW))
        return score_B, score_B


class ThroughViews(Objective):
    """All K views of each image (rows are images): attack1 and attack2_averaged on a detector with views.

    Without ``true_NCHW`` the aggregated score is pushed, whose gradient runs through every view and through the
    image that it is compared with: attack1. With it, the mean of the normalised errors against the *true* image is
    pushed, whose gradient is the average of the K gradients, put back in order: attack2_averaged. Iterates are ranked
    by the aggregated score in both cases.

    The errors come first, and the gradient of the number with respect to them; then only the views that matter are
    differentiated, as many at once as fit. Under min and max that is one of the K.
    """

    def __init__(self, detector: Viewed, *, rows: int, at_once: AtOnce, true_NCHW: Tensor | None = None) -> None:
        super().__init__(rows=rows, at_once=at_once, views_per_row=detector.views)
        self.detector = detector
        self.true_NCHW = None if true_NCHW is None else detector.prepare(true_NCHW)
        self.drawn: tuple[int, torch.Generator] | None = None
        self.every_K = torch.arange(detector.views, device=detector.device)
        self.view_K = self.every_K

    def draw_views(self, count: int, seed: int) -> bool:
        """Draw views for each gradient if every view matters and some would be left out."""
        possible = self._every_view_matters() and count < self.detector.views
        self.drawn = (count, torch.Generator().manual_seed(seed)) if possible else None
        return possible

    def gradients(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return values and gradients through all views, or through those that are drawn for this call."""
        if self.drawn is not None:
            # Once for all chunks, so that their size does not matter.
            count, generator = self.drawn
            drawn_K = torch.randperm(self.detector.views, generator=generator)[:count].sort().values
            self.view_K = drawn_K.to(self.detector.device, non_blocking=True)
        try:
            return super().gradients(x_BCHW)
        finally:
            self.view_K = self.every_K

    def evaluate(self, x_BCHW: Tensor, row_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the aggregated score or the mean error against the true image, and the aggregated score."""
        return self._combine(*self._all_errors(x_BCHW, row_B))

    def differentiate(self, x_BCHW: Tensor, row_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the numbers and the gradient, in two passes unless every view fits and matters."""
        rows, count = len(x_BCHW), len(self.view_K)
        if rows * count <= self.at_once.count and self._every_view_matters():
            return super().differentiate(x_BCHW, row_B)
        with torch.no_grad():
            loss_BK, true_BK = self._all_errors(x_BCHW, row_B)
        loss_BK.requires_grad_()
        value_B, rank_B = self._combine(loss_BK, true_BK if self.true_NCHW is not None else loss_BK)
        weight_BK = gradient(value_B.sum(), loss_BK)
        leaf_BCHW = x_BCHW.detach().requires_grad_()
        slope_BCHW = torch.zeros_like(leaf_BCHW)
        pair_P2 = weight_BK.nonzero()
        for part_P2 in pair_P2.split(self.at_once.count) if len(pair_P2) else ():
            b_P, column_P = part_P2.unbind(1)
            loss_P, _ = self._errors(leaf_BCHW, row_B, b_P, self.view_K[column_P])
            slope_BCHW += gradient((loss_P * weight_BK[b_P, column_P]).sum(), leaf_BCHW)
        return value_B.detach(), rank_B.detach(), slope_BCHW

    def _every_view_matters(self) -> bool:
        return self.true_NCHW is not None or self.detector.reading.aggregation in scoring.DENSE

    def _combine(self, loss_BK: Tensor, true_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is pushed and what ranks, from the errors of the views that are looked at."""
        detector, validation_NK = self.detector, self.detector.validation_NK
        if len(self.view_K) < detector.views:
            validation_NK = validation_NK[:, self.view_K]
        score_B = scoring.scores(true_BK, validation_NK, detector.reading)
        if self.true_NCHW is None:
            return score_B, score_B
        return scoring.normalised(loss_BK, validation_NK, detector.reading.error).mean(1), score_B

    def _all_errors(self, x_BCHW: Tensor, row_B: Tensor) -> tuple[Tensor, Tensor]:
        rows, count = len(x_BCHW), len(self.view_K)
        b_P = torch.arange(rows, device=x_BCHW.device).repeat_interleave(count)
        k_P = self.view_K.repeat(rows)
        chunks = zip(b_P.split(self.at_once.count), k_P.split(self.at_once.count), strict=True)
        loss, true = zip(*(self._errors(x_BCHW, row_B, b, k) for b, k in chunks), strict=True)
        return torch.cat(loss).reshape(rows, count), torch.cat(true).reshape(rows, count)

    def _errors(self, x_BCHW: Tensor, row_B: Tensor, b_P: Tensor, k_P: Tensor) -> tuple[Tensor, Tensor]:
        """Mean square errors of pairs against the true image (or the image itself) and against the image itself."""
        prepared_PCHW = self.detector.prepare(x_BCHW)[b_P]
        answer = self.detector.answer(self.detector.view(prepared_PCHW, k_P))
        own_P = self.detector.compare(answer, prepared_PCHW, k_P)
        if self.true_NCHW is None:
            return own_P, own_P
        return self.detector.compare(answer, self.true_NCHW[row_B[b_P]], k_P), own_P.detach()


class OwnView(Objective):
    """attack2 (rows are pairs of image and view): each view against its true image.

    Rows are ordered image by image, each with its K views, already made and padded.
    """

    def __init__(self, detector: Viewed, true_NCHW: Tensor, *, at_once: AtOnce) -> None:
        super().__init__(rows=len(true_NCHW) * detector.views, at_once=at_once)
        self.detector = detector
        self.true_NCHW = detector.prepare(true_NCHW)

    def evaluate(self, x_BCHW: Tensor, row_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised error of each view twice."""
        image_B, k_B = row_B // self.detector.views, row_B % self.detector.views
        error_B = self.detector.compare(self.detector.answer(x_BCHW), self.true_NCHW[image_B], k_B)
        norm = self.detector.reading.error
        value_B = scoring.normed(error_B, norm) / scoring.normalisation(self.detector.validation_NK, norm)[k_B]
        return value_B, value_B


def normalised(detector: Detector, error_NK: Tensor) -> Tensor:
    """Return errors in the detector's norm, divided as eq. 6 says, shape [N, K]."""
    return scoring.normalised(error_NK, detector.validation_NK, detector.reading.error)


def gradient(total: Tensor, leaf: Tensor) -> Tensor:
    """Return the gradient of a sum, zero if the sum does not depend on the leaf; weights get none.

    It is contiguous, whatever layout the network works in: some attacks take views of it.
    """
    if not total.requires_grad:
        return torch.zeros_like(leaf)
    with whole_float32(leaf.device):
        (slope,) = torch.autograd.grad(total, leaf, allow_unused=True)
    return torch.zeros_like(leaf) if slope is None else slope.contiguous()
