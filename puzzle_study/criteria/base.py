"""What a criterion is given and what it answers.

Shape legend: N images, M candidates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from puzzle_study.statistics import metrics

Numbers: TypeAlias = npt.NDArray[np.floating]
Weights: TypeAlias = Mapping[str, float]
"""How much each kind of pseudo-anomaly counts; a kind that is not named does not."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one fitted detector under one reading, larger for anomalies.

    Attributes:
        validation_N: normal images that were not trained on, scored by the views that scored the pseudo-anomalies.
        pseudo_N: pseudo-anomalies made of validation images.
        pseudo_kinds: the kind of each.
        test_N: test images.
        labels_N: bool, True for anomalous test images; for criteria that use test labels only.
        val_error: mean error of the validation images, in the detector's own unit.
        earlier: scores of the validation images at the evaluations before the last one of the training, each [N].
    """

    validation_N: Numbers
    pseudo_N: Numbers
    pseudo_kinds: tuple[str, ...]
    test_N: Numbers
    labels_N: npt.NDArray[np.bool_]
    val_error: float = float("nan")
    earlier: tuple[Numbers, ...] = ()

    @cached_property
    def by_kind(self) -> dict[str, float]:
        """AUROC of validation images against the pseudo-anomalies of each kind."""
        return kind_aurocs(self.validation_N, self.pseudo_N, self.pseudo_kinds)

    @cached_property
    def auroc(self) -> float | None:
        """Test AUROC, or None if the test images are all normal or all anomalous."""
        both = 0 < int(self.labels_N.sum()) < len(self.labels_N)
        return metrics.auroc(self.test_N, self.labels_N) if both else None


@dataclass(frozen=True, eq=False)
class Candidate:
    """What may be chosen on one task: a configuration of a detector under one reading, by its scores.

    Attributes:
        configuration: its name; the readings of one training share it.
        detector: name of the detector.
        reading: name of the reading.
        runs: one for each seed, all of the same images.
        default: whether these are the detector's default settings.
        own: whether this is the reading of those settings, which is used if nobody chooses another one.
        may_win: whether it may be chosen, and is not there for a comparison of aggregations only.
    """

    configuration: str
    detector: str
    reading: str
    runs: tuple[Scored, ...]
    default: bool = False
    own: bool = True
    may_win: bool = True

    @property
    def name(self) -> str:
        """Configuration and reading."""
        return f"{self.configuration} {self.reading}"

    @cached_property
    def by_kind(self) -> dict[str, float]:
        """Mean over the seeds of the AUROC against each kind."""
        return {kind: fmean(run.by_kind[kind] for run in self.runs) for kind in self.runs[0].by_kind}

    @cached_property
    def auroc(self) -> float:
        """Mean test AUROC over the seeds, NaN without labels of both sorts."""
        found = [run.auroc for run in self.runs]
        return fmean(value for value in found if value is not None) if None not in found else float("nan")


class Criterion(ABC):
    """How the candidates for a task are compared.

    Attributes:
        title: name in sentences.
        column: what the search is told meanwhile, a column of a record's metrics or measurements.
        meaning: what it says, for tables.
        uses_labels: whether it looks at test labels.
        transductive: whether it looks at test images, without labels.
        compares: whether it looks at all candidates together, which only the end of a study allows.
        repeated: whether it needs several seeds, or several evaluations along a training.
        blends: whether the candidates that it puts first are used together.
    """

    title: ClassVar[str]
    column: ClassVar[str] = "selection"
    meaning: ClassVar[str]
    uses_labels: ClassVar[bool] = False
    transductive: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    repeated: ClassVar[bool] = False
    blends: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def goodness(cls, candidates: Sequence[Candidate], weights: Weights) -> Numbers:
        """Return how good each candidate is, [M]; a higher number is better, NaN says that it cannot tell."""


class Judging(Criterion):
    """A criterion that judges one fitted detector, whatever the others are; it has a column in each record."""

    @classmethod
    @abstractmethod
    def value(cls, scored: Scored, weights: Weights) -> float | None:
        """Return the number of the column, or None if the images do not allow it."""

    @classmethod
    def gain(cls, value: float) -> float:
        """Return a value, turned so that higher is better."""
        return value

    @classmethod
    def goodness(cls, candidates: Sequence[Candidate], weights: Weights) -> Numbers:
        """Return the mean over seeds, [M]."""
        found = []
        for candidate in candidates:
            values = [cls.value(run, weights) for run in candidate.runs]
            known = [value for value in values if value is not None]
            found.append(cls.gain(fmean(known)) if len(known) == len(values) else np.nan)
        return np.array(found)


class OfKinds(Judging):
    """A criterion that looks at the AUROC of each kind of pseudo-anomaly, and at nothing else."""

    @classmethod
    @abstractmethod
    def of_kinds(cls, by_kind: Mapping[str, float], weights: Weights) -> float:
        """Return the number from the AUROC of each kind; kinds without a weight do not count."""

    @classmethod
    def value(cls, scored: Scored, weights: Weights) -> float:
        """Return the number."""
        return cls.of_kinds(scored.by_kind, weights)


def kind_column(kind: str) -> str:
    """Return the column of a record's metrics with the AUROC against a kind."""
    return f"pseudo_{kind}"


def kind_aurocs(validation_N: Numbers, pseudo_N: Numbers, kinds: Sequence[str]) -> dict[str, float]:
    """Return the AUROC of validation images against the pseudo-anomalies of each kind, in [0, 1].

    Args:
        validation_N: scores of normal images, larger for anomalies.
        pseudo_N: scores of pseudo-anomalies.
        kinds: the kind of each pseudo-anomaly.
    """
    ordered = np.sort(validation_N)
    # Of each pseudo-anomaly the share of validation images that score lower, a tie counting half.
    below, upto = (np.searchsorted(ordered, pseudo_N, side=side) for side in ("left", "right"))
    share_N, kind_N = (below + upto) / (2 * len(ordered)), np.asarray(kinds)
    return {kind: float(share_N[kind_N == kind].mean()) for kind in dict.fromkeys(kinds)}


def counted(by_kind: Mapping[str, float], weights: Weights) -> tuple[list[str], Numbers, Numbers]:
    """Return the kinds that count, their numbers and their weights.

    All count alike if none of them has a weight: a single validation image lacks some kinds.
    """
    kinds = [kind for kind in by_kind if weights.get(kind, 0) > 0]
    weight = [weights[kind] for kind in kinds] or [1.0] * len(by_kind)
    kinds = kinds or list(by_kind)
    return kinds, np.array([by_kind[kind] for kind in kinds]), np.array(weight)
