"""Gradients through some views only: cheaper steps, the same honest score."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from puzzle_study.attacks.objectives import ThroughViews
from puzzle_study.attacks.specs import AttackSpec, attack_spec
from puzzle_study.detectors.memory import AtOnce

from . import planted
from .planted import attacked


def spec(method: str = "pgd", attack: str = "attack1", **changes: Any) -> AttackSpec:
    return attack_spec(
        attack, method, **{"epsilon": 0.06, "steps": 4, "seed": 3, "permutations_per_step": 3, **changes}
    )


@pytest.mark.parametrize("method", ["pgd", "apgd"])
def test_few_views_a_step_are_about_as_strong_and_the_score_is_that_of_all(method: str) -> None:
    detector, x_NCHW = planted.puzzle_detector(count=7), planted.images(2)
    some, every = attacked(detector, x_NCHW, spec(method), spec(method, permutations_per_step=None), compare=False)
    with torch.no_grad():
        torch.testing.assert_close(some.scores, detector(some.perturbed), rtol=1e-5, atol=0)
    assert some.strength > 0.7 * every.strength > 0
    (again,) = attacked(detector, x_NCHW, spec(method), compare=False)
    assert torch.equal(again.perturbed, some.perturbed)
    (other,) = attacked(detector, x_NCHW, spec(method, seed=4), compare=False)
    assert not torch.equal(other.perturbed, some.perturbed)


def test_the_number_of_images_in_memory_does_not_matter() -> None:
    detector, x_NCHW = planted.puzzle_detector(count=7), planted.images(2)
    whole, by_one = (attacked(detector, x_NCHW, spec(), compare=False, at_once=count)[0] for count in (500, 4))
    torch.testing.assert_close(whole.scores, by_one.scores, rtol=1e-3, atol=0)


@pytest.mark.parametrize("true", [False, True])
def test_a_gradient_is_that_of_the_views_that_were_drawn(true: bool) -> None:
    detector, x_NCHW = planted.puzzle_detector(), planted.images(2).float() / 255
    objective = ThroughViews(detector, rows=2, at_once=AtOnce(500), true_NCHW=x_NCHW.clone() if true else None)
    assert objective.draw_views(2, seed=0)
    drawn = torch.randperm(23, generator=torch.Generator().manual_seed(0))[:2]
    value_N, _, slope_NCHW = objective.gradients(x_NCHW)
    leaf_NCHW = x_NCHW.clone().requires_grad_()
    error_NK = detector.errors(leaf_NCHW)[:, drawn].sqrt() / detector.validation_NK[:, drawn].sqrt().mean(0)
    torch.testing.assert_close(value_N, error_NK.mean(1), rtol=1e-5, atol=0)
    if not true:
        (expected,) = torch.autograd.grad(error_NK.mean(1).sum(), leaf_NCHW)
        torch.testing.assert_close(slope_NCHW, expected, rtol=1e-3, atol=1e-5)
    # The next call draws others, and what is scored without gradients sees all.
    assert not torch.equal(objective.gradients(x_NCHW)[0], value_N)
    torch.testing.assert_close(objective.values(x_NCHW)[1], detector(x_NCHW), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("aggregation", "count"), [("max", 3), ("avg", 7)])
def test_where_not_every_view_matters_or_all_are_drawn_nothing_changes(aggregation: str, count: int) -> None:
    detector, x_NCHW = planted.puzzle_detector(aggregation=aggregation, count=7), planted.images(2)
    specs = [spec(steps=2, permutations_per_step=views) for views in (count, None)]
    some, every = attacked(detector, x_NCHW, *specs, compare=False)
    assert torch.equal(some.scores, every.scores)


def test_what_takes_one_gradient_or_none_draws_no_views() -> None:
    assert {spec(method).permutations_per_step for method in ("fgsm", "square", "noise")} == {None}
    assert "permutations_per_step" not in spec(permutations_per_step=None).to_json()
    assert spec().to_json()["permutations_per_step"] == 3
