"""Metrics by closed form, against slow obvious references, and by simulated coverage."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from puzzle_study.statistics import metrics

Samples = tuple[list[float], list[bool]]


@st.composite
def samples(draw: st.DrawFn) -> Samples:
    """Scores with many ties, both classes present."""
    normal = draw(st.lists(st.integers(-4, 4), min_size=1, max_size=25))
    anomalous = draw(st.lists(st.integers(-4, 4), min_size=1, max_size=25))
    order = draw(st.permutations(range(len(normal) + len(anomalous))))
    scores = [float(value) for value in normal + anomalous]
    labels = [False] * len(normal) + [True] * len(anomalous)
    return [scores[i] for i in order], [labels[i] for i in order]


def slow_auroc(scores: list[float], labels: list[bool]) -> float:
    """Compare every anomaly with every normal image."""
    normal, anomalous = (
        [score for score, label in zip(scores, labels, strict=True) if label == kind] for kind in (False, True)
    )
    wins = [1.0 if a > n else 0.5 if a == n else 0.0 for a, n in itertools.product(anomalous, normal)]
    return sum(wins) / len(wins)


def slow_fpr(scores: list[float], labels: list[bool], tpr: float) -> float:
    """Try every score as a threshold."""
    rates = []
    for threshold in scores:
        flagged = [score >= threshold for score in scores]
        caught = [flag for flag, label in zip(flagged, labels, strict=True) if label]
        false = [flag for flag, label in zip(flagged, labels, strict=True) if not label]
        if sum(caught) / len(caught) >= tpr:
            rates.append(sum(false) / len(false))
    return min(rates)


def slow_average_precision(scores: list[float], labels: list[bool]) -> float:
    """Walk down the distinct thresholds."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        flagged = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
        recall = sum(flagged) / sum(labels)
        total += (recall - recall_before) * sum(flagged) / len(flagged)
        recall_before = recall
    return total


@given(samples())
def test_auroc_counts_pairs(sample: Samples) -> None:
    assert metrics.auroc(*sample) == pytest.approx(slow_auroc(*sample))


@given(samples(), st.sampled_from([0.01, 0.07, 0.5, 0.95, 0.99, 0.995, 1.0]))
def test_fpr_is_the_smallest_over_all_thresholds(sample: Samples, tpr: float) -> None:
    assert metrics.fpr_at_tpr(*sample, tpr) == pytest.approx(slow_fpr(*sample, tpr))


@given(samples())
def test_average_precision_walks_down_the_thresholds(sample: Samples) -> None:
    assert metrics.average_precision(*sample) == pytest.approx(slow_average_precision(*sample))


@given(samples())
def test_auroc_is_not_folded(sample: Samples) -> None:
    scores, labels = sample
    turned = [-score for score in scores]
    assert metrics.auroc(turned, labels) == pytest.approx(1 - metrics.auroc(scores, labels))


def test_values_known_by_hand() -> None:
    scores, labels = [1.0, 2.0, 3.0, 4.0], [False, True, False, True]
    assert metrics.auroc(scores, labels) == 0.75
    assert metrics.fpr_at_tpr(scores, labels, 0.5) == 0.0
    assert metrics.fpr_at_tpr(scores, labels, 0.51) == 0.5
    assert metrics.average_precision(scores, labels) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics.auroc([5, 5, 5, 5], labels) == 0.5
    assert metrics.fpr_at_tpr([5, 5, 5, 5], labels, 0.95) == 1.0
    assert metrics.auroc([-np.inf, 0.0, np.inf], [False, False, True]) == 1.0


def test_exact_shares_do_not_ask_for_one_anomaly_more() -> None:
    scores = np.concatenate([np.arange(100.0), np.arange(100.0) + 0.5])
    labels = np.repeat([False, True], 100)
    assert metrics.fpr_at_tpr(scores, labels, 0.07) == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, np.nan, 2.0], [0, 1, 1], "1 of 3 scores are NaN"),
        ([1.0, 2.0], [1, 1], "both normal and anomalous images are needed, got 2 of 2"),
        ([1.0, 2.0], [0, 0], "both normal and anomalous images are needed, got 0 of 2"),
        ([], [], "both normal and anomalous images are needed, got 0 of 0"),
        ([1.0], [0, 1], r"must be two vectors of one length, got \(1,\), \(2,\)"),
        ([[1.0, 2.0]], [[0, 1]], "must be two vectors of one length"),
    ],
)
def test_bad_input_is_named(scores: list[float], labels: list[int], message: str) -> None:
    refusing: list[Callable[..., object]] = [metrics.auroc, metrics.average_precision]
    refusing += [partial(metrics.bootstrap_auroc, seed=0), partial(metrics.fpr_at_tpr, tpr=0.95)]
    if "both" in message:
        assert metrics.evaluate(scores, labels) is None
    else:
        refusing.append(metrics.evaluate)
    for metric in refusing:
        with pytest.raises(ValueError, match=message):
            metric(scores, labels)


@pytest.mark.parametrize("tpr", [0.0, -0.1, 1.01])
def test_bad_tpr_is_named(tpr: float) -> None:
    with pytest.raises(ValueError, match=r"tpr must be in \(0, 1\], got"):
        metrics.fpr_at_tpr([1.0, 2.0], [0, 1], tpr)


@given(samples(), st.integers(0, 3))
@settings(max_examples=25)
def test_resamples_are_those_drawn_one_by_one(sample: Samples, seed: int) -> None:
    scores, labels = np.array(sample[0]), np.array(sample[1])
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2)]
    anomalous, normal = scores[labels], scores[~labels]
    expected = []
    for _ in range(5):
        a = anomalous[streams[0].integers(len(anomalous), size=len(anomalous))]
        n = normal[streams[1].integers(len(normal), size=len(normal))]
        expected.append(slow_auroc([*n, *a], [False] * len(n) + [True] * len(a)))
    assert metrics._resampled_auroc(scores, labels, seed, 5) == pytest.approx(np.array(expected))


def test_bootstrap_is_seeded_and_independent_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    labels = generator.random(200) < 0.4
    scores = generator.normal(size=200) + labels
    whole = metrics.bootstrap_auroc(scores, labels, 3)
    monkeypatch.setattr(metrics, "_CHUNK_DRAWS", 1)
    assert metrics.bootstrap_auroc(scores, labels, 3) == whole
    assert metrics.bootstrap_auroc(scores, labels, 4) != whole


def test_bootstrap_covers_the_true_auroc() -> None:
    truth = norm.cdf(1 / np.sqrt(2))
    generator = np.random.default_rng(7)
    labels = np.repeat([False, True], [60, 80])
    rounds = 400
    covered = 0
    for seed in range(rounds):
        low, high = metrics.bootstrap_auroc(generator.normal(size=140) + labels, labels, seed, 300)
        covered += low <= truth <= high
    # A percentile interval at this size covers 93 to 95 %; four standard errors of 400 rounds are 4.4 points.
    assert 0.90 <= covered / rounds <= 0.985


def test_bootstrap_is_fast_enough_for_a_full_test_set() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(10_000) >= 1000
    started = time.perf_counter()
    metrics.bootstrap_auroc(generator.normal(size=10_000), labels, 0, 200)
    assert time.perf_counter() - started < 5


def test_evaluation_holds_the_single_values() -> None:
    generator = np.random.default_rng(1)
    labels = np.arange(300) >= 100
    scores = generator.normal(size=300) + labels
    evaluation = metrics.evaluate(scores, labels, seed=5)
    assert evaluation is not None
    assert evaluation.auroc == metrics.auroc(scores, labels)
    assert (evaluation.auroc_low, evaluation.auroc_high) == metrics.bootstrap_auroc(scores, labels, 5)
    assert evaluation.auroc_low < evaluation.auroc < evaluation.auroc_high
    assert evaluation.average_precision == metrics.average_precision(scores, labels)
    assert evaluation.fpr_at_tpr95 <= evaluation.fpr_at_tpr99 <= evaluation.fpr_at_tpr995
    assert evaluation.fpr_at_tpr99 == metrics.fpr_at_tpr(scores, labels, 0.99)
    assert (evaluation.n, evaluation.n_anomalies) == (300, 200)
    assert not evaluation.inverted
    turned = metrics.evaluate(-scores, labels)
    assert turned is not None
    assert turned.inverted
    assert turned.auroc < 0.5
