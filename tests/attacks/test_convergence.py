"""Attacks held to stronger runs: what has not converged is told, and what has is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from puzzle_study.attacks.convergence import STEPS, Convergence, check_convergence, not_converged, to_check
from puzzle_study.attacks.specs import AttackSpec, attack_spec

from . import planted

LABELS = torch.tensor([False, True, False, True, False, False])


SCORES = torch.tensor([0.9, 1.0, 1.1])
SPREAD = float(SCORES.std(correction=0))


def spec(method: str, **changes: Any) -> AttackSpec:
    return attack_spec("attack1", method, **{"epsilon": 0.05, "steps": 3, **changes})


def checked(*specs: AttackSpec, count: int = 4) -> list[Convergence]:
    x_NCHW = planted.images(len(LABELS), low=51, high=204)
    return check_convergence(planted.Linear(), x_NCHW, LABELS, SCORES, specs, count=count)


def test_only_iterated_gradients_on_the_image_at_the_largest_epsilon_are_held_to_more() -> None:
    methods, epsilons = ("fgsm", "pgd", "apgd", "pgdl2", "square", "noise"), (0.1, 0.3, 0.2)
    every = [attack_spec(a, m, epsilon=e) for a in planted.ATTACKS for m in methods for e in epsilons]
    found = to_check(every)
    assert [(one.attack, one.method, one.epsilon) for one in found] == [
        ("attack1", name, 0.3) for name in ("pgd", "apgd", "pgdl2")
    ]
    assert to_check([spec("fgsm"), spec("pgd", epsilon=0)]) == []


@pytest.mark.parametrize("target", ["normal", "both"])
def test_steps_that_are_too_small_have_not_converged(target: str) -> None:
    """A linear score has its maximum in a corner that steps of 2 % of ε do not reach."""
    small, enough = spec("pgd", step_size=0.02, target=target), spec("pgd", step_size=2.0, target=target)
    weak, strong = checked(small, enough)
    assert not_converged(weak.columns())
    assert not not_converged(strong.columns())
    linear = float(planted.Linear().weight.detach().abs().sum()) * 0.05 / SPREAD
    assert strong.strongest == pytest.approx(linear, rel=1e-3)
    assert weak.strongest == pytest.approx(strong.strongest)
    assert list(weak.auroc_steps) == list(STEPS)
    assert weak.images == {"normal": 4, "both": 6}[target]


def test_images_are_few_and_of_both_sides() -> None:
    (one,) = checked(spec("pgd", target="both"), count=1)
    assert one.images == 2
    assert 0 <= one.auroc_strongest <= one.auroc <= 1
    assert checked(spec("pgd"), count=0) == []
    assert checked() == []


@pytest.mark.parametrize(
    ("strength", "strongest", "auroc", "best", "flagged"),
    [
        (1.0, 1.04, 0.5, 0.5, False),
        (1.0, 1.06, 0.5, 0.5, True),
        (1.0, 1.0, 0.5, 0.495, False),
        (1.0, 1.0, 0.5, 0.48, True),
        (1.0, 1.0, None, None, False),
        (-1.0, 0.0, None, None, True),
    ],
)
def test_what_counts_as_not_converged(
    strength: float, strongest: float, auroc: float | None, best: float | None, flagged: bool
) -> None:
    names = ("subset_strength", "subset_strength_strongest", "subset_auroc", "subset_auroc_strongest")
    assert not_converged(dict(zip(names, (strength, strongest, auroc, best), strict=True))) is flagged
