"""Thresholds hold their false-positive rate on new images, percentiles are shares of the validation scores."""

from __future__ import annotations

import numpy as np
import pytest

from puzzle_study import score
from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE, Calibration, flagged_shares

TEN = Calibration(np.arange(1.0, 11.0))


@pytest.mark.parametrize(("rate", "threshold"), [(0.5, 6), (0.2, 9), (0.1, 10), (1 / 11, 10), (0.99, 1)])
def test_the_threshold_is_the_score_of_the_conformal_rank(rate: float, threshold: float) -> None:
    assert TEN.threshold(rate) == threshold


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.0909])
def test_a_rate_that_so_few_images_cannot_hold_gives_their_highest_score(rate: float) -> None:
    assert rate < TEN.lowest_rate == pytest.approx(1 / 11)
    assert TEN.threshold(rate) == 10


def test_rounding_of_the_rate_does_not_shift_the_rank() -> None:
    nineteen = Calibration(np.arange(1.0, 20.0))
    assert [nineteen.threshold(k / 20) for k in range(1, 20)] == [20.0 - k for k in range(1, 20)]


def test_the_shares_above_the_threshold_are_told_for_each_side_that_is_there() -> None:
    assert {one.name: one.default for one in score.main.params}["fpr"] == FALSE_POSITIVE_RATE
    validation, normal, anomalous = np.arange(20.0)[::-1], np.array([0, 19, 19.5, 30]), np.array([5.0, 40.0])
    both = np.repeat([False, True], [4, 2])
    assert flagged_shares(validation, np.append(normal, anomalous), both) == {
        "flagged_normal": 0.5,
        "flagged_anomalous": 0.5,
    }
    assert flagged_shares(validation, normal, both[:4]) == {"flagged_normal": 0.5, "flagged_anomalous": None}
    assert flagged_shares(validation, normal[:0], both[:0]) == {"flagged_normal": None, "flagged_anomalous": None}


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (20, 0.05), (30, 0.1), (200, 0.03)])
def test_new_normal_images_are_flagged_at_most_at_the_rate(count: int, rate: float) -> None:
    """Mean over 4,000 simulated studies of a skewed score, within four standard errors of the bound."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(4000):
        score = rng.lognormal(size=count + 50)
        threshold = Calibration(np.sort(score[:count])).threshold(rate)
        shares.append((score[count:] > threshold).mean())
    error = np.std(shares) / np.sqrt(len(shares))
    assert rate - 1 / (count + 1) - 4 * error < np.mean(shares) < rate + 4 * error


def test_a_percentile_counts_the_validation_scores_that_are_not_higher() -> None:
    found = TEN.percentile(np.array([0.5, 1.0, 5.5, 10.0, 99.0]))
    assert found.tolist() == [0, 10, 50, 100, 100]
