"""Attacks on detectors whose weakness is known, by closed form."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from puzzle_study.attacks.methods import METHODS
from puzzle_study.attacks.running import AttackResult
from puzzle_study.attacks.specs import attack_spec

from . import planted
from .planted import ATTACKS, EPSILON, attacked, fgsm


def attack(detector: torch.nn.Module, *methods: str, epsilon: float = EPSILON, **settings: Any) -> list[AttackResult]:
    # Between 0.2 and 0.8 the box [0, 1] does not cut the ball.
    x_NCHW = planted.images(4, low=51, high=204)
    with torch.no_grad():
        validation = detector(planted.images(16, seed=9).float() / 255).tolist()
    specs = [attack_spec("attack1", method, epsilon=epsilon, **settings) for method in methods]
    return attacked(detector, x_NCHW, *specs, validation=validation)


@pytest.mark.parametrize(
    ("method", "settings", "tolerance"),
    [
        *(
            (method, {"steps": 4, "target": t}, 1e-4)
            for method in ("fgsm", "bim", "mifgsm")
            for t in ("normal", "both")
        ),
        *(("pgd", {}, 0.1), ("rfgsm", {}, 0.1), ("apgd", {"steps": 20}, 0.1), ("ffgsm", {"steps": 1}, 0.2)),
        *((method, {"steps": 20, "step_size": 0.5}, 0.02) for method in ("pgdl2", "apgdl2")),
    ],
)
def test_linear_optimum(method: str, settings: dict[str, Any], tolerance: float) -> None:
    """In either ball; less closely from random starts."""
    detector = planted.Linear()
    (result,) = attack(detector, method, **settings)
    optimum = EPSILON * detector.weight.abs().sum()
    if METHODS[method].norm == "l2":
        optimum = EPSILON * planted.SIDE * detector.weight.norm()
    torch.testing.assert_close(result.scores - result.clean_scores, optimum.expand(4), rtol=tolerance, atol=0)
    if tolerance < 0.1:
        assert result.flags == ()
        assert result.max_perturbation == pytest.approx(EPSILON, rel=1e-4)


def test_linear_anomalies_are_lowered() -> None:
    detector = planted.Linear()
    x_NCHW = planted.images(4, low=51, high=204)
    optimum = EPSILON * detector.weight.abs().sum()
    for target, wanted in (("normal", (1, 0, 1, 0)), ("anomalous", (0, -1, 0, -1)), ("both", (1, -1, 1, -1))):
        spec = attack_spec("attack1", "fgsm", epsilon=EPSILON, target=target)
        (result,) = attacked(detector, x_NCHW, spec, labels=[False, True, False, True])
        torch.testing.assert_close(
            result.scores - result.clean_scores, optimum * torch.tensor(wanted), rtol=1e-4, atol=1e-7
        )
        assert result.indices.tolist() == [i for i, sign in enumerate(wanted) if sign]
        assert len(result.perturbed) == len(result.indices)


def test_linear_in_the_box() -> None:
    """Pixels at 0 and 1 cannot move outwards: the gain is what is left."""
    detector = planted.Linear()
    x_NCHW = planted.images(3) // 128 * 255
    (result,) = attacked(detector, x_NCHW, fgsm(epsilon=0.1))
    inwards = (detector.weight > 0) == (x_NCHW.flatten(1) == 0)
    torch.testing.assert_close(
        result.scores - result.clean_scores, 0.1 * (inwards * detector.weight.abs()).sum(1), rtol=1e-4, atol=0
    )
    assert float(result.perturbed.min()) >= 0
    assert float(result.perturbed.max()) <= 1


def test_constant_stays_and_is_flagged() -> None:
    methods = ("fgsm", "pgd", "mifgsm", "pgdl2", "apgd", "square", "noise")
    for result in attack(planted.Constant(), *methods, queries=5):
        torch.testing.assert_close(result.scores, result.clean_scores, rtol=0, atol=0)
        gradient = result.spec.method not in ("square", "noise")
        assert ("zero_gradient" in result.flags) == gradient, result.spec.method


def test_masked_gradients_are_flagged() -> None:
    one_step, pgd, noise, square = attack(planted.Masked(), "fgsm", "pgd", "noise", "square", queries=100)
    for result in (one_step, pgd):
        assert {"zero_gradient", "weaker_than_square"} <= set(result.flags)
    assert "zero_gradient" not in square.flags
    assert square.scores.mean() > noise.scores.mean()


def test_misleading_gradients_are_flagged() -> None:
    one_step, square = attack(planted.Misleading(), "fgsm", "square", queries=20)
    assert {"weaker_than_clean", "weaker_than_noise", "weaker_than_square"} <= set(one_step.flags)
    assert one_step.scores.mean() < one_step.clean_scores.mean()
    assert square.scores.mean() > square.clean_scores.mean()


def test_infinite_scores_count_as_no_attack() -> None:
    flat = torch.full((3, 1, planted.SIDE, planted.SIDE), 0.5)
    (result,) = attacked(planted.Endless(), flat, attack_spec("attack1", "pgd", epsilon=EPSILON))
    assert "non_finite" in result.flags
    torch.testing.assert_close(result.scores, result.clean_scores)


def test_only_attacks_through_all_permutations_break_the_obfuscated() -> None:
    x_NCHW = planted.marked_images(3)
    first, second, averaged = attacked(planted.obfuscated(), x_NCHW, *(fgsm(name, 0.02) for name in ATTACKS))
    torch.testing.assert_close(second.perturbed[:, :, 1:], x_NCHW[:, :, 1:], rtol=0, atol=1e-6)
    assert (first.scores > second.scores + 0.1).all()
    assert (averaged.scores > second.scores + 0.1).all()


def test_restarts_keep_the_best_of_each_image() -> None:
    runs = [attack_spec("attack1", "noise", epsilon=EPSILON, restarts=count) for count in (1, 2, 6)]
    one, two, six = attacked(planted.puzzle_detector(count=3), planted.images(5), *runs)
    assert (two.scores >= one.scores).all()
    assert (six.scores >= two.scores).all()
    assert (six.scores > one.scores).any()


def test_best_iterate_beats_the_last() -> None:
    """Steps of 2 ε overshoot a narrow peak at every other step; the recorder keeps the good one."""

    class Peak(torch.nn.Module):
        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            return 1 - (x_NCHW - 0.5).abs().mean((1, 2, 3)) * torch.where(x_NCHW.mean((1, 2, 3)) > 0.5, 3, 1)

    x_NCHW = torch.full((2, 1, 4, 4), 0.45)
    specs = [attack_spec("attack1", "bim", epsilon=0.2, steps=steps, step_size=0.4) for steps in (2, 3, 4, 5)]
    for shorter, longer in itertools.pairwise(attacked(Peak(), x_NCHW, *specs)):
        assert (longer.scores >= shorter.scores - 1e-6).all()


def test_epsilon_zero_changes_nothing() -> None:
    for result in attack(planted.Linear(), "fgsm", "apgd", "square", "noise", epsilon=0.0):
        assert result.max_perturbation == 0
        torch.testing.assert_close(result.scores, result.clean_scores, rtol=0, atol=0)


def test_rounding_undoes_small_perturbations() -> None:
    small, large = (attack(planted.Linear(), "fgsm", epsilon=value / 255)[0] for value in (0.4, 8))
    assert "undone_by_rounding" in small.flags
    assert "undone_by_rounding" not in large.flags
    assert large.max_perturbation == pytest.approx(8 / 255, abs=1e-6)
