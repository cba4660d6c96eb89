"""What a criterion is given and what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt


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
