"""Flags that come from comparing attacks with each other."""

from __future__ import annotations

import pytest

from puzzle_study.attacks.flags import compared
from puzzle_study.attacks.specs import AttackSpec, attack_spec


def spec(
    method: str, epsilon: float = 0.1, steps: int = 10, attack: str = "attack1", target: str = "normal"
) -> AttackSpec:
    return attack_spec(attack, method, epsilon=epsilon, steps=steps, target=target)


@pytest.mark.parametrize(
    ("others", "mine", "expected"),
    [
        ([], (spec("fgsm"), 1.0, 0.5), []),
        ([], (spec("fgsm"), 1.0, 1.5), ["weaker_than_noise"]),
        ([], (spec("noise"), 1.0, 1.5), []),
        ([(spec("square"), 2.0)], (spec("fgsm"), 1.0, 0.5), ["weaker_than_square"]),
        ([(spec("square"), 2.0)], (spec("noise"), 1.0, 0.5), []),
        ([(spec("square", epsilon=0.2), 2.0)], (spec("fgsm"), 1.0, 0.5), []),
        ([(spec("square", attack="attack2"), 2.0)], (spec("fgsm"), 1.0, 0.5), []),
        ([(spec("square", target="both"), 2.0)], (spec("fgsm"), 1.0, 0.5), []),
        ([(spec("square"), 2.0)], (spec("pgdl2"), 1.0, 0.5), []),
        ([(spec("fgsm", epsilon=0.05), 2.0)], (spec("fgsm"), 1.0, 0.5), ["not_monotone_epsilon"]),
        ([(spec("pgd", epsilon=0.05), 2.0)], (spec("fgsm"), 1.0, 0.5), []),
        ([(spec("fgsm"), 2.0)], (spec("pgd"), 1.0, 0.5), ["not_monotone_steps"]),
        ([(spec("pgd"), 2.0)], (spec("fgsm"), 1.0, 0.5), []),
        ([(spec("pgd", steps=5), 2.0)], (spec("pgd"), 1.0, 0.5), ["not_monotone_steps"]),
        ([(spec("fgsm"), 1.0005)], (spec("pgd"), 1.0, 0.5), []),
        ([(spec("noise"), 2.0)], (spec("pgd"), 1.0, 0.5), []),
    ],
)
def test_comparisons(
    others: list[tuple[AttackSpec, float]], mine: tuple[AttackSpec, float, float], expected: list[str]
) -> None:
    one, strength, noise = mine
    found = [(one, strength, ["zero_gradient"]), *((other, reached, [""]) for other, reached in others)]
    assert compared(found, [noise] + [0.0] * len(others))[0] == ("zero_gradient", *expected)
