"""Where a perturbed image may be: a ball around the clean one, and the box [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from puzzle_study.attacks.methods import Norm

# Adding and subtracting pixels in [0, 1] in float32 is off by less than this.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Ball:
    """All images with max|δ| ≤ ε (``linf``) or root mean square of δ ≤ ε (``l2``: ‖δ‖₂ ≤ ε·√(C·H·W)).

    The root mean square makes one list of ε serve both norms: the Euclidean ball contains the other one.
    """

    norm: Norm
    epsilon: float

    def radius(self, x_NCHW: Tensor) -> float:
        """Return ε in the plain norm of the images: max|δ| or ‖δ‖₂."""
        return self.epsilon if self.norm == "linf" else self.epsilon * math.sqrt(x_NCHW[0].numel())

    def size(self, x_NCHW: Tensor, start_NCHW: Tensor) -> Tensor:
        """Return max|δ| or the root mean square of δ of each image, shape [N]."""
        delta_NL = (x_NCHW - start_NCHW).flatten(1)
        return delta_NL.abs().amax(1) if self.norm == "linf" else delta_NL.square().mean(1).sqrt()

    def contains(self, x_NCHW: Tensor, start_NCHW: Tensor) -> Tensor:
        """Return which images are inside the ball and the box up to rounding, bool [N]."""
        in_box_N = ((x_NCHW >= -ROUNDING) & (x_NCHW <= 1 + ROUNDING)).flatten(1).all(1)
        return in_box_N & (self.size(x_NCHW, start_NCHW) <= self.epsilon + ROUNDING)

    def clip(self, x_NCHW: Tensor, start_NCHW: Tensor) -> Tensor:
        """Return the images brought into ball and box; what is not finite becomes the start."""
        delta_NCHW = torch.where(x_NCHW.isfinite(), x_NCHW - start_NCHW, 0)
        if self.norm == "linf":
            delta_NCHW = delta_NCHW.clamp(-self.epsilon, self.epsilon)
        else:
            size_N = delta_NCHW.flatten(1).square().mean(1).sqrt()
            shrink_N = (self.epsilon / size_N.clamp_min(1e-12)).clamp_max(1)
            delta_NCHW = delta_NCHW * shrink_N[:, None, None, None]
        # Towards the start, the box can only shrink δ: the result is inside both.
        return (start_NCHW + delta_NCHW).clamp(0, 1)
