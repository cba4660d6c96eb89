"""What a criterion is given and what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from puzzle_study.statistics import metrics


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one fitted detector under one reading, larger for anomalies.

    Attributes:
        validation_N: normal images that were not trained on.
        pseudo_N: pseudo-anomalies made of validation images.
        pseudo_kinds: the kind of each.
        test_N: test images; for criteria that use test labels only.
        labels_N: bool, True for anomalies; likewise.
    """

    validation_N: npt.NDArray[np.float32]
    pseudo_N: npt.NDArray[np.float32]
    pseudo_kinds: tuple[str, ...]
    test_N: npt.NDArray[np.float32]
    labels_N: npt.NDArray[np.bool_]

    @cached_property
    def by_kind(self) -> dict[str, float]:
        """AUROC of validation images against the pseudo-anomalies of each kind."""
        return kind_aurocs(self.validation_N, self.pseudo_N, self.pseudo_kinds)


def kind_aurocs(
    validation_N: npt.NDArray[np.floating], pseudo_N: npt.NDArray[np.floating], kinds: Sequence[str]
) -> dict[str, float]:
    """Return the AUROC of validation images against the pseudo-anomalies of each kind, in [0, 1].

    Args:
        validation_N: scores of normal images, larger for anomalies.
        pseudo_N: scores of pseudo-anomalies.
        kinds: the kind of each pseudo-anomaly.
    """
    found, kind_N = {}, np.asarray(kinds)
    for kind in dict.fromkeys(kinds):
        of_kind = pseudo_N[kind_N == kind]
        labels = np.repeat([False, True], [len(validation_N), len(of_kind)])
        found[kind] = metrics.auroc(np.concatenate((validation_N, of_kind)), labels)
    return found


class Criterion(ABC):
    """A number by which configurations are compared; a higher one is better.

    Attributes:
        title: name in sentences.
        column: where it stands in a record's metrics and, with the aggregation behind it, in trials.csv.
        uses_labels: whether it looks at test images and their labels.
    """

    title: ClassVar[str]
    column: ClassVar[str]
    uses_labels: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def value(cls, scored: Scored) -> float | None:
        """Return the number, or None if the images do not allow it."""
