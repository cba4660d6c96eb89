"""Median smoothing against a linear score, whose quantiles under noise are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from puzzle_study.attacks.certify import RADII, bound, certify, noised_scores
from puzzle_study.statistics import metrics

from . import planted

SIGMA, SAMPLES = 0.03, 400
"""Small noise on gray images: nothing is clipped, so that the score stays linear."""
LABELS = torch.tensor([False] * 10 + [True] * 8)


def gray(count: int, seed: int = 0) -> torch.Tensor:
    return planted.images(count, low=90, high=166, seed=seed)


def scores_of(images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        scores: torch.Tensor = planted.Linear()(images.float() / 255)
    return scores.double().numpy()


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("radius", [0.0, 0.03, 0.045])
def test_bounds_hold_as_often_as_they_promise_and_are_close(radius: float, upper: bool) -> None:
    """In a ball of radius r the median of a linear score moves by r·‖w‖₂ and no further."""
    alpha, many = 0.05, 5000
    rng = np.random.default_rng(1)
    score_NS = np.sort(SIGMA * rng.standard_normal((many, SAMPLES)), axis=1)
    found = bound(score_NS, radius, sigma=SIGMA, alpha=alpha, upper=upper)
    truth = radius if upper else -radius
    holds = (found >= truth if upper else found <= truth).mean()
    # Three standard errors of a share of 5,000.
    assert holds >= 1 - alpha - 0.01
    assert holds < 1, "a bound that never fails is wider than it need be"
    assert np.abs(found - truth).mean() < 0.5 * SIGMA


def test_noised_scores_are_those_of_the_images_under_noise() -> None:
    images = gray(3)
    score_NS = noised_scores(planted.Linear(), images, sigma=SIGMA, samples=SAMPLES, seed=1)
    spread = SIGMA * float(planted.Linear().weight.detach().norm())
    assert np.median(score_NS, axis=1) == pytest.approx(scores_of(images), abs=5 * spread / SAMPLES**0.5)
    assert score_NS.std(axis=1) == pytest.approx([spread] * 3, rel=0.2)
    assert (np.diff(score_NS, axis=1) >= 0).all()
    again = noised_scores(planted.Linear(), images, sigma=SIGMA, samples=SAMPLES, seed=1)
    assert np.array_equal(score_NS, again)


@pytest.mark.parametrize("target", ["normal", "both"])
def test_the_certificate_is_below_what_the_strongest_perturbation_leaves(target: str) -> None:
    images, validation = gray(18), gray(30, seed=4)
    found = certify(
        planted.Linear(), images, LABELS, validation, sigma=SIGMA, samples=SAMPLES, alpha=0.01, target=target
    )
    norm, clean, labels = float(planted.Linear().weight.detach().norm()), scores_of(images), LABELS.numpy()
    assert [one.radius for one in found.certificates] == [SIGMA * factor for factor in RADII]
    for one in found.certificates:
        worst = clean + one.radius * norm * np.where(labels, -1 if target == "both" else 0, 1)
        assert one.auroc <= metrics.auroc(worst, labels) + 1e-9
    aurocs = [one.auroc for one in found.certificates]
    assert aurocs == sorted(aurocs, reverse=True)
    alarms = [share for one in found.certificates if (share := one.flagged_normal) is not None]
    catches = [one.flagged_anomalous for one in found.certificates]
    assert len(alarms) == len(RADII)
    assert alarms == sorted(alarms)
    if target == "normal":
        assert len(set(catches)) == 1
    assert found.auroc == pytest.approx(metrics.auroc(clean, labels), abs=0.1)


def test_a_radius_beyond_the_samples_certifies_nothing() -> None:
    score_NS = np.sort(np.random.default_rng(0).standard_normal((2, 50)), axis=1)
    assert np.isposinf(bound(score_NS, 3.0, sigma=1.0, alpha=1e-3, upper=True)).all()
    assert np.isneginf(bound(score_NS, 3.0, sigma=1.0, alpha=1e-3, upper=False)).all()
    found = certify(planted.Linear(), gray(18), LABELS, gray(10), sigma=SIGMA, samples=50, alpha=0.001)
    assert found.certificates[-1].auroc == 0
    assert found.certificates[-1].flagged_normal == 1


def test_a_constant_score_loses_nothing_within_reach() -> None:
    found = certify(planted.Constant(), gray(18), LABELS, gray(10), sigma=SIGMA, samples=400, alpha=0.01)
    assert [one.auroc for one in found.certificates[:3]] == [0.5] * 3


def test_images_of_one_side_have_shares_and_no_auroc() -> None:
    normal = torch.zeros(4, dtype=torch.bool)
    found = certify(planted.Linear(), gray(4), normal, gray(10), sigma=SIGMA, samples=60, alpha=0.01)
    assert np.isnan(found.auroc)
    assert all(one.flagged_anomalous is None and one.flagged_normal is not None for one in found.certificates)
