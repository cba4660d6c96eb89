"""What stands beside a number that came from an attack: signs that it may flatter the detector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from puzzle_study.attacks.methods import METHODS
from puzzle_study.attacks.specs import AttackSpec

# Strengths are mean changes of the score in units of its spread over validation images; less is no difference.
TOLERANCE = 1e-3

FLAGS: Mapping[str, str] = {
    "zero_gradient": "a gradient was exactly zero for some attacked image: gradients may be masked",
    "non_finite": "a score, a gradient or a pixel was infinite or not a number; such results count as no attack",
    "outside_ball": "the attack itself left the ball of radius ε; it was brought back before scoring",
    "weaker_than_clean": "on average the attack moved scores the wrong way",
    "weaker_than_noise": "random signs of the same ε move scores more",
    "weaker_than_square": "random search without gradients moves scores more: gradients may be masked",
    "not_monotone_epsilon": "a smaller ε moves scores more",
    "not_monotone_steps": "fewer steps of the same size of ball move scores more",
    "undone_by_rounding": "rounding to 8 bits takes away more than half of the effect",
}


def control(spec: AttackSpec) -> AttackSpec:
    """Return the random signs that an attack is held to: one draw of the same ε, target and seed.

    They have max|δ| and root mean square ε, so that one control serves both balls, and every attack.
    """
    return replace(spec, attack="attack1", method="noise", steps=1, step_size=1.0, restarts=1)


def compared(found: Sequence[tuple[AttackSpec, float, Iterable[str]]], noise: Sequence[float]) -> list[tuple[str, ...]]:
    """Return for each attack its flags, with those that follow from comparing strengths, in the order of FLAGS.

    Args:
        found: attacks on one detector and one score, each with its strength and the flags that it has by itself.
        noise: for each the strength of its :func:`control`.
    """
    more = comparing_flags([spec for spec, _, _ in found], [strength for _, strength, _ in found], noise)
    return [
        tuple(name for name in FLAGS if name in {*own, *others})
        for (_, _, own), others in zip(found, more, strict=True)
    ]


def comparing_flags(specs: Sequence[AttackSpec], strengths: Sequence[float], noise: Sequence[float]) -> list[list[str]]:
    """Return for each attack the flags that follow from comparing it with the others.

    Args:
        specs: the attacks.
        strengths: how far each moved scores on average, in the direction that it wants, in units of their spread.
        noise: the same for random signs in the same ball.
    """
    flags = []
    for spec, strength, control in zip(specs, strengths, noise, strict=True):
        rivals = [
            (other, reached)
            for other, reached in zip(specs, strengths, strict=True)
            if other.attack == spec.attack
            and other.target == spec.target
            and METHODS[other.method].norm == METHODS[spec.method].norm
            and reached > strength + TOLERANCE
        ]
        found = []
        if spec.method != "noise" and control > strength + TOLERANCE:
            found.append("weaker_than_noise")
        if METHODS[spec.method].uses_gradient and any(
            other.method == "square" and other.epsilon == spec.epsilon for other, _ in rivals
        ):
            found.append("weaker_than_square")
        if any(_same_but_smaller(other, spec) for other, _ in rivals):
            found.append("not_monotone_epsilon")
        if any(_fewer_steps(other, spec) for other, _ in rivals):
            found.append("not_monotone_steps")
        flags.append(found)
    return flags


def _same_but_smaller(other: AttackSpec, spec: AttackSpec) -> bool:
    return other.method == spec.method and other.steps == spec.steps and other.epsilon < spec.epsilon


def _fewer_steps(other: AttackSpec, spec: AttackSpec) -> bool:
    """Whether the other is the same method, or one gradient step, with fewer steps in the same ball."""
    mine, theirs = METHODS[spec.method], METHODS[other.method]
    comparable = other.method == spec.method or (mine.uses_gradient and theirs.uses_gradient and not theirs.iterated)
    return comparable and other.steps < spec.steps and other.epsilon == spec.epsilon
