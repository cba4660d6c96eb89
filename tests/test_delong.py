"""DeLong's method against its textbook form and by simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from puzzle_study.statistics import metrics
from puzzle_study.statistics.delong import Placed, image_difference, place

Scores = np.ndarray


def images(count: int) -> np.ndarray:
    return np.array([f"test/{number:05d}" for number in range(count)])


def scored(generator: np.random.Generator, label_N: np.ndarray, strengths: tuple[float, ...]) -> list[Scores]:
    """Scores of several detectors for the same images, alike because an image is hard for all of them."""
    shared = generator.normal(size=len(label_N))
    return [strength * label_N + shared + 0.7 * generator.normal(size=len(label_N)) for strength in strengths]


def textbook(label_N: np.ndarray, first: Scores, second: Scores) -> tuple[float, float]:
    """DeLong's difference and standard error of two correlated AUROCs, pair by pair."""
    aurocs, by_anomaly, by_normal = [], [], []
    for score_N in (first, second):
        anomalous, normal = score_N[label_N], score_N[~label_N]
        won = np.array([[float(a > n) + 0.5 * float(a == n) for n in normal] for a in anomalous])
        aurocs.append(won.mean())
        by_anomaly.append(won.mean(1))
        by_normal.append(won.mean(0))
    covariance = np.cov(by_anomaly) / label_N.sum() + np.cov(by_normal) / (~label_N).sum()
    return aurocs[0] - aurocs[1], float(np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))


@pytest.mark.parametrize("steps", [0, 4], ids=["no ties", "ties"])
def test_difference_is_that_of_the_textbook(steps: int) -> None:
    label_N = np.repeat([False, True], [23, 17])
    pair = scored(np.random.default_rng(0), label_N, (1.5, 0.8))
    if steps:
        pair = [np.round(score_N * steps) / steps for score_N in pair]
    first, second = (place(score_N, label_N, images(40)) for score_N in pair)
    assert first.auroc == pytest.approx(metrics.auroc(pair[0], label_N))
    difference, error = textbook(label_N, *pair)
    found = image_difference([[first]], [[second]])
    reach = norm.ppf(0.975) * error
    assert (found.value, found.low, found.high) == pytest.approx((difference, difference - reach, difference + reach))
    assert found.images == 40


def test_the_order_of_images_does_not_matter() -> None:
    generator = np.random.default_rng(1)
    label_N = generator.random(50) < 0.4
    first, second = scored(generator, label_N, (1.0, 0.5))
    turned = generator.permutation(50)
    straight = place(second, label_N, images(50))
    shuffled = place(second[turned], label_N[turned], images(50)[turned])
    own = [[place(first, label_N, images(50))]]
    found, again = image_difference(own, [[straight]]), image_difference(own, [[shuffled]])
    assert (found.low, found.high) == pytest.approx((again.low, again.high))


def world(seed: int, count: int) -> tuple[list[list[Placed]], list[list[Placed]]]:
    """Two detectors on three tasks of the same images: what is normal in one task is an anomaly in the others.

    Detector A has two trainings a task, B one. That an image is hard is common to all trainings.
    """
    generator = np.random.default_rng(seed)
    class_N = np.repeat(np.arange(3), count)
    hard = generator.normal(size=3 * count)
    first: list[list[Placed]] = []
    second: list[list[Placed]] = []
    for task in range(3):
        label_N = class_N != task
        trainings = [
            place(strength * label_N + hard + 0.5 * generator.normal(size=3 * count), label_N, images(3 * count))
            for strength in (1.2, 1.2, 0.7)
        ]
        first.append(trainings[:2])
        second.append(trainings[2:])
    return first, second


@pytest.mark.slow
def test_interval_covers_where_tasks_and_trainings_share_images() -> None:
    one, other = (float(norm.cdf(strength / np.sqrt(2.5))) for strength in (1.2, 0.7))
    worlds = [world(seed, 30) for seed in range(300)]
    for truth, found in (
        (one - other, [image_difference(first, second) for first, second in worlds]),
        (one, [image_difference(first, []) for first, _ in worlds]),
    ):
        # 95 % with 4 standard errors of 300 rounds.
        assert np.mean([each.low <= truth <= each.high for each in found]) == pytest.approx(0.95, abs=0.051)
        errors = [(each.high - each.low) / 2 / norm.ppf(0.975) for each in found]
        # With images of their own for each task the variance of one detector comes out 2.5 times as large.
        assert np.mean(np.square(errors)) == pytest.approx(np.var([each.value for each in found]), rel=0.33)


def test_what_is_not_placed_otherwise_has_no_interval() -> None:
    label_N = np.repeat([False, True], 5)
    perfect = place(label_N.astype(float) + np.arange(10) / 100, label_N, images(10))
    found = image_difference([[perfect]], [[perfect]])
    assert found.value == 0
    assert np.isnan([found.low, found.high]).all()


def test_one_anomaly_has_no_interval() -> None:
    label_N = np.arange(10) == 9
    first, second = (place(score_N, label_N, images(10)) for score_N in (np.arange(10), np.arange(10)[::-1]))
    found = image_difference([[first]], [[second]])
    assert found.value == 1
    assert np.isnan([found.low, found.high]).all()
