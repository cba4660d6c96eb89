"""Interprets a score: its rank among the validation scores, and the threshold for a false-positive rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puzzle_study.detectors.base import Detector

FALSE_POSITIVE_RATE = 0.05
"""The default rate of ``score --fpr`` and studies."""
CONFIDENCE = 0.95
Scores = npt.NDArray[np.float64]


def fewest_images(rate: float) -> int:
    """Return how many validation images a false-positive rate in (0, 1) takes at least: 1 / (V + 1) is the lowest."""
    return max(1, math.ceil(1 / rate - 1e-9) - 1)


@dataclass(frozen=True, eq=False)
class Calibration:
    """The scores of the V validation images, normal images that were not used for training.

    Attributes:
        score_V: the scores in ascending order.
    """

    score_V: Scores

    @staticmethod
    def of(detector: Detector) -> Calibration:
        """Score a detector's validation errors with its own norm and aggregation."""
        score_V = detector.scores(detector.validation_NK).double().cpu().numpy()
        return Calibration(np.sort(score_V))

    def __len__(self) -> int:
        return len(self.score_V)

    @property
    def lowest_rate(self) -> float:
        """The lowest false-positive rate that this many validation images can guarantee: 1 / (V + 1)."""
        return 1 / (len(self) + 1)

    def threshold(self, rate: float) -> float:
        """Return the score above which an image is flagged.

        It is the ⌈(V + 1)(1 - rate)⌉-th lowest validation score (split conformal prediction): a new normal image, drawn
        like the validation images, scores above it with a probability of at most ``rate``, on average over
        validation sets. The plain quantile would promise too much: for V = 20 and a rate of 5 % one validation image
        is above it, but a new image is in 2 of 21 cases.

        Args:
            rate: false-positive rate in [0, 1). Below :attr:`lowest_rate` no score guarantees it, and the highest
                validation score is returned.
        """
        _, rank = self.ranks(rate)
        return float(self.score_V[rank - 1])

    def ranks(self, rate: float) -> tuple[int, int]:
        """Return a and b, if the threshold for a rate is the b-th lowest of a + b - 1 scores.

        Over validation sets, the rate of false alarms at that threshold has the distribution Beta(a, b).
        """
        rank = min(max(math.ceil((len(self) + 1) * (1 - rate) - 1e-9), 1), len(self))
        return len(self) + 1 - rank, rank

    def expected_rate(self, rate: float) -> float:
        """Return the rate of false alarms at the threshold for ``rate``, on average over validation sets."""
        above, below = self.ranks(rate)
        return above / (above + below)

    def highest_rate(self, rate: float, confidence: float = CONFIDENCE) -> float:
        """Return the rate of false alarms that the threshold for ``rate`` exceeds in few validation sets only.

        Args:
            rate: as for :meth:`threshold`.
            confidence: share of validation sets whose threshold keeps the rate that is returned.
        """
        from scipy.stats import beta

        return float(beta.ppf(confidence, *self.ranks(rate)))

    def percentile(self, score_N: Scores) -> Scores:
        """Return the percentage of validation scores that are at most each score, in [0, 100]."""
        below_N = np.searchsorted(self.score_V, score_N, side="right")
        return np.asarray(100 * below_N / len(self), dtype=np.float64)


def flagged_shares(validation_V: Scores, test_N: Scores, labels_N: npt.NDArray[np.bool_]) -> dict[str, float | None]:
    """Return the shares of normal and anomalous test images above the threshold for a false-positive rate of 5 %.

    The validation scores give the threshold; labels_N is True for anomalies. A share without images is None.
    """
    flagged_N = test_N > Calibration(np.sort(validation_V)).threshold(FALSE_POSITIVE_RATE)
    sides = {"flagged_normal": flagged_N[~labels_N], "flagged_anomalous": flagged_N[labels_N]}
    return {name: float(side.mean()) if len(side) else None for name, side in sides.items()}
