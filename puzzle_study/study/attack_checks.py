"""Units of the attack stage that say what its numbers are worth.

Have they converged, how much ε is enough, and what can no attack do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from puzzle_study import config
from puzzle_study.attacks.certify import certify
from puzzle_study.attacks.convergence import check_convergence
from puzzle_study.attacks.table import smallest_rows
from puzzle_study.detectors.base import Detector
from puzzle_study.results import Results
from puzzle_study.study.attack_units import Row, Unit, task_of


@dataclass(frozen=True)
class ConvergenceUnit(Unit):
    """Attacks on one detector, held to stronger runs on ``count`` images of each attacked side."""

    count: int = field(kw_only=True)
    kind = "convergence"

    def _determined_by(self) -> dict[str, Any]:
        return super()._determined_by() | {"count": self.count}

    def _rows(self, detector: Detector, images: Tensor, labels: Tensor, results: Results) -> list[Row]:
        validation = detector.scores(detector.validation_NK)
        checked = check_convergence(detector, images, labels, validation, self.specs, count=self.count)
        return [one.columns() for one in checked]


class SmallestUnit(Unit):
    """The smallest ε for each image of one detector, and the one at which its AUROC passes 50 %, by one attack."""

    kind = "smallest"

    def _rows(self, detector: Detector, images: Tensor, labels: Tensor, results: Results) -> list[Row]:
        (spec,) = self.specs
        return smallest_rows(detector, images, labels, spec)


@dataclass(frozen=True)
class CertifyUnit(Unit):
    """The smoothed score of one detector, certified at several radii; no attack is run."""

    settings: config.Certify = field(kw_only=True)
    target: str = field(kw_only=True)
    seed: int = field(kw_only=True)
    kind = "certified"

    def _determined_by(self) -> dict[str, Any]:
        return super()._determined_by() | self._certified() | {"seed": self.seed}

    def _certified(self) -> dict[str, Any]:
        return {"target": self.target, **self.settings.model_dump()}

    def _rows(self, detector: Detector, images: Tensor, labels: Tensor, results: Results) -> list[Row]:
        held_out = task_of(self.trial).validation
        chosen = self._certified() | {"seed": self.seed}
        found = certify(detector, images, labels, held_out, **chosen)
        common = {
            "aggregation": self.reading.aggregation,
            "error": self.reading.error,
            **self._certified(),
            "auroc_smoothed": found.auroc,
            "images": len(labels),
        }
        return [common | asdict(one) for one in found.certificates]
