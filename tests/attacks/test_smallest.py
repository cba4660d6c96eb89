"""The smallest ε against its closed form on a linear score."""

from __future__ import annotations

import math

import pytest
import torch

from puzzle_study.attacks.smallest import ROUNDS, Smallest, smallest_epsilons
from puzzle_study.attacks.specs import AttackSpec, attack_spec

from . import planted

LABELS = torch.tensor([False, False, False, True, True, False])
SCORES = torch.tensor([0.9, 1.0, 1.1])
LARGEST = 0.1


def found(threshold: float, *, labels: torch.Tensor = LABELS, target: str = "both") -> Smallest:
    x_NCHW = planted.images(len(labels), low=77, high=178)
    return smallest_epsilons(planted.Linear(), x_NCHW, labels, SCORES, aimed(target), threshold=threshold)


def aimed(target: str) -> AttackSpec:
    return attack_spec("attack1", "fgsm", epsilon=LARGEST, target=target)


def clean() -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = planted.Linear()(planted.images(len(LABELS), low=77, high=178).float() / 255)
    return scores


@pytest.mark.parametrize("target", ["normal", "both"])
def test_each_image_needs_its_distance_to_the_threshold(target: str) -> None:
    score_N, norm = clean(), float(planted.Linear().weight.abs().sum())
    threshold = float(score_N.median()) + 0.5 * LARGEST * norm
    result = found(threshold, target=target)
    assert result.indices.tolist() == ([0, 1, 2, 5] if target == "normal" else list(range(6)))
    for index, epsilon in zip(result.indices.tolist(), result.epsilon_S.tolist(), strict=True):
        distance = (threshold - float(score_N[index])) * (-1 if LABELS[index] else 1) / norm
        if distance < 0:
            assert epsilon == 0
        elif distance > LARGEST:
            assert math.isinf(epsilon)
        else:
            assert distance <= epsilon <= distance + LARGEST / 2**ROUNDS + 1e-6
    assert (result.epsilon_S.isfinite() & (result.epsilon_S > 0)).any()


def test_the_auroc_passes_a_half_where_half_of_the_pairs_have_changed_places() -> None:
    score_N, norm = clean(), float(planted.Linear().weight.abs().sum())
    # The four lowest are the normal ones.
    labels = torch.zeros(6, dtype=torch.bool)
    labels[score_N.argsort()[4:]] = True
    gaps = (score_N[labels][:, None] - score_N[~labels]).flatten().sort().values
    expected = float(gaps[3:5].mean()) / norm
    half = found(1.0, labels=labels, target="normal").epsilon_half
    assert float(gaps[3]) / norm - 1e-6 <= half <= float(gaps[4]) / norm + LARGEST / 2**ROUNDS
    assert half == pytest.approx(expected, rel=0.5)


def test_without_both_sides_there_is_no_auroc() -> None:
    assert math.isnan(found(1.0, labels=torch.zeros(6, dtype=torch.bool)).epsilon_half)


def test_a_detector_that_is_inverted_needs_nothing() -> None:
    labels = torch.zeros(6, dtype=torch.bool)
    labels[clean().argmin()] = True
    assert found(1.0, labels=labels).epsilon_half == 0


def test_a_constant_score_is_never_changed() -> None:
    x_NCHW = planted.images(6)
    result = smallest_epsilons(planted.Constant(), x_NCHW, LABELS, SCORES, aimed("normal"), threshold=2.0)
    assert result.epsilon_S.isinf().all()
    assert result.epsilon_half == 0
