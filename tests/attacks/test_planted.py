"""Attacks on detectors whose weakness is known, by closed form."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from puzzle_study.attacks.running import AttackResult, run_attacks
from puzzle_study.attacks.specs import AttackSpec, attack_spec

from . import planted

EPSILON = 0.05


def attack(detector: torch.nn.Module, *specs: AttackSpec, count: int = 4) -> list[AttackResult]:
    # Between 0.2 and 0.8 the box [0, 1] does not cut the ball.
    x_NCHW = planted.images(count, low=51, high=204)
    with torch.no_grad():
        validation = detector(planted.images(16, seed=9).float() / 255)
    return run_attacks(detector, x_NCHW, planted.normal_labels(count), validation, specs)


@pytest.mark.parametrize("target", ["normal", "both"])
@pytest.mark.parametrize("method", ["fgsm", "bim", "mifgsm"])
def test_linear_optimum(method: str, target: str) -> None:
    detector = planted.Linear()
    (result,) = attack(detector, attack_spec("attack1", method, epsilon=EPSILON, steps=4, target=target))
    optimum = EPSILON * detector.weight.abs().sum()
    torch.testing.assert_close(result.scores - result.clean_scores, optimum.expand(4), rtol=1e-4, atol=0)
    assert result.flags == ()
    assert result.max_perturbation == pytest.approx(EPSILON, abs=1e-6)


@pytest.mark.parametrize(("method", "steps"), [("pgd", 10), ("apgd", 20), ("rfgsm", 10), ("ffgsm", 1)])
def test_linear_optimum_from_random_starts(method: str, steps: int) -> None:
    detector = planted.Linear()
    (result,) = attack(detector, attack_spec("attack1", method, epsilon=EPSILON, steps=steps))
    optimum = EPSILON * detector.weight.abs().sum()
    torch.testing.assert_close(
        result.scores - result.clean_scores, optimum.expand(4), rtol=0.2 if method == "ffgsm" else 0.1, atol=0
    )


@pytest.mark.parametrize("method", ["pgdl2", "apgdl2"])
def test_linear_optimum_l2(method: str) -> None:
    detector = planted.Linear()
    (result,) = attack(detector, attack_spec("attack1", method, epsilon=EPSILON, steps=20, step_size=0.5))
    optimum = EPSILON * planted.SIDE * detector.weight.norm()
    torch.testing.assert_close(result.scores - result.clean_scores, optimum.expand(4), rtol=0.02, atol=0)
    assert result.max_perturbation == pytest.approx(EPSILON, rel=1e-4)


def test_linear_anomalies_are_lowered() -> None:
    detector = planted.Linear()
    x_NCHW, labels = planted.images(4, low=51, high=204), torch.tensor([False, True, False, True])
    optimum = EPSILON * detector.weight.abs().sum()
    for target, wanted in (("normal", (1, 0, 1, 0)), ("anomalous", (0, -1, 0, -1)), ("both", (1, -1, 1, -1))):
        spec = attack_spec("attack1", "fgsm", epsilon=EPSILON, target=target)
        (result,) = run_attacks(detector, x_NCHW, labels, torch.tensor([1.0, 1.1]), [spec])
        torch.testing.assert_close(
            result.scores - result.clean_scores, optimum * torch.tensor(wanted), rtol=1e-4, atol=1e-7
        )
        assert result.indices.tolist() == [i for i, sign in enumerate(wanted) if sign]
        assert len(result.perturbed) == len(result.indices)


def test_linear_in_the_box() -> None:
    """Pixels at 0 and 1 cannot move outwards: the gain is what is left."""
    detector = planted.Linear()
    x_NCHW = planted.images(3) // 128 * 255
    (result,) = run_attacks(
        detector,
        x_NCHW,
        planted.normal_labels(3),
        torch.tensor([1.0, 2.0]),
        [attack_spec("attack1", "fgsm", epsilon=0.1)],
    )
    inwards = (detector.weight > 0) == (x_NCHW.flatten(1) == 0)
    torch.testing.assert_close(
        result.scores - result.clean_scores, 0.1 * (inwards * detector.weight.abs()).sum(1), rtol=1e-4, atol=0
    )
    assert float(result.perturbed.min()) >= 0
    assert float(result.perturbed.max()) <= 1


def test_constant_stays_and_is_flagged() -> None:
    methods = ("fgsm", "pgd", "mifgsm", "pgdl2", "apgd", "square", "noise")
    for result in attack(planted.Constant(), *(attack_spec("attack1", m, epsilon=EPSILON, queries=5) for m in methods)):
        torch.testing.assert_close(result.scores, result.clean_scores, rtol=0, atol=0)
        gradient = result.spec.method not in ("square", "noise")
        assert ("zero_gradient" in result.flags) == gradient, result.spec.method


def test_masked_gradients_are_flagged() -> None:
    fgsm, pgd, noise, square = attack(
        planted.Masked(),
        attack_spec("attack1", "fgsm", epsilon=EPSILON),
        attack_spec("attack1", "pgd", epsilon=EPSILON),
        attack_spec("attack1", "noise", epsilon=EPSILON),
        attack_spec("attack1", "square", epsilon=EPSILON, queries=100),
    )
    assert "zero_gradient" in fgsm.flags
    assert "zero_gradient" in pgd.flags
    assert "weaker_than_square" in fgsm.flags
    assert "weaker_than_square" in pgd.flags
    assert "zero_gradient" not in square.flags
    assert square.scores.mean() > noise.scores.mean()


def test_misleading_gradients_are_flagged() -> None:
    fgsm, square = attack(
        planted.Misleading(),
        attack_spec("attack1", "fgsm", epsilon=EPSILON),
        attack_spec("attack1", "square", epsilon=EPSILON, queries=20),
    )
    assert {"weaker_than_clean", "weaker_than_noise", "weaker_than_square"} <= set(fgsm.flags)
    assert fgsm.scores.mean() < fgsm.clean_scores.mean()
    assert square.scores.mean() > square.clean_scores.mean()


def test_infinite_scores_count_as_no_attack() -> None:
    detector = planted.Endless()
    flat = torch.full((3, 1, planted.SIDE, planted.SIDE), 0.5)
    (result,) = run_attacks(
        detector,
        flat,
        planted.normal_labels(3),
        torch.tensor([1.0, 2.0]),
        [attack_spec("attack1", "pgd", epsilon=EPSILON)],
    )
    assert "non_finite" in result.flags
    torch.testing.assert_close(result.scores, result.clean_scores)


def test_only_attacks_through_all_permutations_break_the_obfuscated() -> None:
    detector = planted.obfuscated()
    x_NCHW = planted.marked_images(3)
    specs = [attack_spec(name, "fgsm", epsilon=0.02) for name in ("attack1", "attack2", "attack2_averaged")]
    first, second, averaged = run_attacks(
        detector, x_NCHW, planted.normal_labels(3), torch.tensor([0.9, 1.0, 1.1]), specs
    )
    torch.testing.assert_close(second.perturbed[:, :, 1:], x_NCHW[:, :, 1:], rtol=0, atol=1e-6)
    assert (first.scores > second.scores + 0.1).all()
    assert (averaged.scores > second.scores + 0.1).all()


def test_restarts_keep_the_best_of_each_image() -> None:
    detector = planted.puzzle_detector(count=3)
    x_NCHW = planted.images(5)
    validation = detector.scores(detector.validation_NK)
    runs = [attack_spec("attack1", "noise", epsilon=EPSILON, restarts=count) for count in (1, 2, 6)]
    one, two, six = run_attacks(detector, x_NCHW, planted.normal_labels(5), validation, runs)
    assert (two.scores >= one.scores).all()
    assert (six.scores >= two.scores).all()
    assert (six.scores > one.scores).any()


def test_best_iterate_beats_the_last() -> None:
    """Steps of 2 ε overshoot a narrow peak at every other step; the recorder keeps the good one."""

    class Peak(torch.nn.Module):
        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            return 1 - (x_NCHW - 0.5).abs().mean((1, 2, 3)) * torch.where(x_NCHW.mean((1, 2, 3)) > 0.5, 3, 1)

    x_NCHW = torch.full((2, 1, 4, 4), 0.45)
    results = [
        run_attacks(
            Peak(),
            x_NCHW,
            planted.normal_labels(2),
            torch.tensor([0.9, 1.0]),
            [attack_spec("attack1", "bim", epsilon=0.2, steps=steps, step_size=0.4)],
        )[0]
        for steps in (2, 3, 4, 5)
    ]
    for shorter, longer in itertools.pairwise(results):
        assert (longer.scores >= shorter.scores - 1e-6).all()


def test_epsilon_zero_changes_nothing() -> None:
    results = attack(
        planted.Linear(), *(attack_spec("attack1", m, epsilon=0.0) for m in ("fgsm", "apgd", "square", "noise"))
    )
    for result in results:
        assert result.max_perturbation == 0
        torch.testing.assert_close(result.scores, result.clean_scores, rtol=0, atol=0)


def test_rounding_undoes_small_perturbations() -> None:
    small, large = attack(
        planted.Linear(),
        attack_spec("attack1", "fgsm", epsilon=0.4 / 255),
        attack_spec("attack1", "fgsm", epsilon=8 / 255),
    )
    assert "undone_by_rounding" in small.flags
    assert "undone_by_rounding" not in large.flags
    assert math.isclose(large.max_perturbation, 8 / 255, abs_tol=1e-6)
