"""The bridge to torchattacks: an anomaly score shown as the two logits of a classifier.

The attacks of torchattacks raise the cross-entropy of a label. Here the label is always 0, "not yet where the attack
wants it", and what rises is u = ± (s - τ)/scale: + to raise a score, - to lower it, τ and scale measured on
validation scores so that u is of order one whatever the score's size. The logits are [-m, m] with

    m = -softplus(-asinh(u)) / 2.

Plain m = u would do for scores near τ. It fails far from it: the cross-entropy rounds to zero from u = -9 and its
gradient underflows from u = -44, which reads as robustness (a saturated softmax). asinh turns the exponential decay
into an algebraic one, and the softplus keeps m below 0: the label is never lost, so that attacks that stop or drop
an image once it is misclassified go on.

The adapter also watches: which rows had no gradient, whether anything was not finite, and the best iterate of each
row inside the ball, since most attacks return their last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puzzle_study.attacks.ball import Ball
from puzzle_study.attacks.objectives import Objective

QUANTILE = 0.95


@dataclass(frozen=True)
class Centre:
    """Threshold τ and scale, in units of the score."""

    threshold: float
    scale: float

    @classmethod
    def of(cls, validation_scores: Tensor) -> Centre:
        """Measure τ, the 95 % quantile, and the scale, the standard deviation, on scores of normal images.

        If all scores are equal, the scale is their size, or 1 if they are zero.
        """
        # On the CPU, so that a GPU is waited for once.
        score_N = validation_scores.detach().cpu().double().flatten()
        score_N = score_N[score_N.isfinite()]
        if not len(score_N):
            return cls(0.0, 1.0)
        spread, size = float(score_N.std(correction=0)), float(score_N.abs().mean())
        # A spread below the resolution of float32 is rounding, not variation.
        scale = spread if spread > 1e-6 * size else size
        return cls(float(score_N.quantile(QUANTILE)), scale or 1.0)


class ScoreLogits(nn.Module):
    """An objective as a classifier of two classes, and a witness of what the attack does to it.

    ``direction`` 1 raises the objective, -1 lowers it.

    Attributes:
        best_RCHW: best iterate of each row so far; its start if there was none.
        best_rank_R: what it reached, times the direction; -inf if there was none.
        without_gradient_R: rows of which some gradient was exactly zero everywhere.
        all_finite: false if a number or gradient was not finite; kept on the device, so no step waits for it.
    """

    def __init__(self, objective: Objective, start_RCHW: Tensor, *, ball: Ball, centre: Centre, direction: int) -> None:
        super().__init__()
        # torchattacks takes its device from the first parameter; a detector may have none.
        self.anchor = nn.Parameter(torch.zeros((), device=start_RCHW.device), requires_grad=False)
        self.objective = objective
        self.start_RCHW = start_RCHW
        self.ball, self.centre, self.direction = ball, centre, direction
        self.best_RCHW = start_RCHW.clone()
        self.best_rank_R = torch.full((len(start_RCHW),), -torch.inf, device=start_RCHW.device)
        self.without_gradient_R = torch.zeros(len(start_RCHW), dtype=torch.bool, device=start_RCHW.device)
        self.all_finite = torch.ones((), dtype=torch.bool, device=start_RCHW.device)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logits [B, 2]; B is a multiple of the rows."""
        value_B: Tensor = _watched(x_BCHW, self)
        u_B = self.direction * (value_B - self.centre.threshold) / self.centre.scale
        margin_B = -F.softplus(-torch.asinh(u_B)) / 2
        return torch.stack((-margin_B, margin_B), dim=1)

    def witness(self, x_BCHW: Tensor, rank_B: Tensor) -> None:
        """Keep the rows that are inside the ball, moved from the start and better than any before."""
        rows = len(self.start_RCHW)
        self.all_finite &= rank_B.isfinite().all()
        for x_RCHW, rank_R in zip(torch.split(x_BCHW, rows), torch.split(rank_B, rows), strict=True):
            reached_R = self.direction * rank_R.to(self.best_rank_R.dtype)
            allowed_R = self.ball.contains(x_RCHW, self.start_RCHW) & (x_RCHW != self.start_RCHW).flatten(1).any(1)
            better_R = allowed_R & (reached_R > self.best_rank_R)
            self.best_rank_R = torch.where(better_R, reached_R, self.best_rank_R)
            self.best_RCHW = torch.where(better_R[:, None, None, None], x_RCHW, self.best_RCHW)

    def witness_gradient(self, slope_BCHW: Tensor) -> None:
        """Note rows whose gradient is zero or not finite."""
        self.all_finite &= slope_BCHW.isfinite().all()
        zero_B = (slope_BCHW == 0).flatten(1).all(1)
        self.without_gradient_R |= zero_B.reshape(-1, len(self.start_RCHW)).any(0)


class _Watched(torch.autograd.Function):
    """The objective's values; their gradient is taken at once, chunk by chunk, and kept for the way back."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, logits: ScoreLogits) -> Tensor:
        if ctx.needs_input_grad[0]:
            value_B, rank_B, slope_BCHW = logits.objective.gradients(x_BCHW)
            ctx.save_for_backward(slope_BCHW)
            ctx.logits = logits
        else:
            value_B, rank_B = logits.objective.values(x_BCHW)
        logits.witness(x_BCHW.detach(), rank_B)
        return value_B

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (slope_BCHW,) = ctx.saved_tensors
        slope_BCHW = slope_BCHW * outer[0][:, None, None, None]
        ctx.logits.witness_gradient(slope_BCHW)
        return slope_BCHW, None


_watched: Any = _Watched.apply  # untyped in torch
