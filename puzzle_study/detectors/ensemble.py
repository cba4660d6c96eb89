"""Several fitted detectors as one: the mean of their normalised ranks.

It is made of the detectors of a study that chooses an ensemble, and is not trained by itself. Shape legend: N images,
V validation images, M members, Q knots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from puzzle_study.config.types import Reading
from puzzle_study.detectors.base import Context, Detector, Run, Shape, Traits
from puzzle_study.detectors.devices import Precision, known_precision
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError

MADE = "an ensemble is made of trained detectors; use selection: ensemble in a study"


class Ensemble(Detector):
    """View m of an image is the rank of its score by member m, among scores that the knots are the quantiles of.

    Eq. 6 divides the ranks of each member by their mean over the validation images; the score is the mean of the M.
    """

    name = "ensemble"
    title = "ensemble"
    source = "ranks averaged over detectors"
    squares = False

    knots_MQ: Tensor

    def __init__(self, members: Sequence[Detector], knots_MQ: Tensor, *, shape: Shape, reading: Reading) -> None:
        super().__init__(shape=shape, reading=reading, views=len(members))
        self.members = nn.ModuleList(members)
        self.register_buffer("knots_MQ", knots_MQ)
        traits = [member.traits for member in members]
        # Of the object: what an ensemble can do depends on its members.
        self.traits = Traits(  # type: ignore[misc]
            differentiable=all(trait.differentiable for trait in traits), random=any(trait.random for trait in traits)
        )

    @classmethod
    def of(cls, members: Sequence[Detector], knots_MQ: Tensor) -> Self:
        """Return a calibrated ensemble.

        Args:
            members: fitted and calibrated on the same images, each with the reading that it is used under.
            knots_MQ: ascending quantiles of each member's scores, from the lowest score to the highest.
        """
        made = cls(members, knots_MQ.float(), shape=members[0].shape, reading=Reading("mse", "avg"))
        made.validation_NK = made._ranks([member.scores(member.validation_NK) for member in members])
        return made

    @classmethod
    def build(cls, settings: Any, context: Context) -> Self:
        """Raise UserError: there are no settings to build it from."""
        raise UserError(MADE)

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Raise UserError: its members are fitted."""
        raise UserError(MADE)

    def errors(self, x_NCHW: Tensor) -> Tensor:
        return self._ranks([member(x_NCHW) for member in self._members()])

    @torch.no_grad()
    def error_matrix(self, images_NCHW: Tensor) -> Tensor:
        """Return the error matrix [N, M]; each member takes as many images at once as fit the memory for it."""
        return self._ranks([member.scores(member.error_matrix(images_NCHW)) for member in self._members()])

    def differentiable_views_at_once(self) -> int:
        return self.views * min(
            max(1, member.differentiable_views_at_once() // member.views) for member in self._members()
        )

    def _members(self) -> list[Detector]:
        return [member for member in self.members if isinstance(member, Detector)]

    def _ranks(self, scores: Sequence[Tensor]) -> Tensor:
        """Return the ranks [N, M] of scores, 0 to 1; beyond the highest knot they grow with the score."""
        ranks, tiny = [], torch.finfo(self.knots_MQ.dtype).tiny
        for score_N, knot_Q in zip(scores, self.knots_MQ, strict=True):
            # Of each step between two knots, how much of it lies below the score: a search has no gradient and no ONNX.
            width = (knot_Q[1:] - knot_Q[:-1]).clamp_min(tiny)
            below_N = ((score_N[:, None] - knot_Q[:-1]) / width).clamp(0, 1).mean(1)
            beyond_N = (score_N - knot_Q[-1]).clamp_min(0) / (knot_Q[-1] - knot_Q[0]).clamp_min(tiny)
            ranks.append(below_N + beyond_N)
        return torch.stack(ranks, 1)

    def describe(self) -> dict[str, Any]:
        return {
            "knots": self.knots_MQ.shape[1],
            "members": [
                {
                    "detector": member.name,
                    "reading": asdict(member.reading),
                    "precision": member.precision,
                    "validation": len(member.validation_NK),
                    "described": member.describe(),
                }
                for member in self._members()
            ],
        }

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        members = []
        for content in described["members"]:
            kind = DETECTORS[str(content["detector"])]
            read, exact = Reading(**content["reading"]), known_precision(content["precision"])
            member = kind.restore(content["described"], shape, read, exact)
            member.validation_NK = torch.empty(int(content["validation"]), member.views)
            members.append(member)
        return cls(members, torch.empty(len(members), int(described["knots"])), shape=shape, reading=reading)
