"""Flags: signs that the number an attack gave may flatter the detector."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from puzzle_study.attacks.methods import METHODS
from puzzle_study.attacks.specs import AttackSpec

# Strengths are mean changes of the score in units of its spread over validation images; less does not count.
TOLERANCE = 1e-3

FLAGS: Mapping[str, str] = {
    "zero_gradient": "for some attacked image a gradient was exactly zero: gradients may be masked",
    "non_finite": "a score, gradient or pixel was infinite or not a number; such a result counts as no change",
    "outside_ball": "the attack itself left the ball of radius ε; it was brought back before scoring",
    "weaker_than_clean": "on average the attack moved scores the wrong way",
    "weaker_than_noise": "random signs of the same ε move scores more",
    "weaker_than_square": "random search without gradients moves scores more: gradients may be masked",
    "not_monotone_epsilon": "a smaller ε moves scores more",
    "not_monotone_steps": "fewer steps of the same size of ball move scores more",
    "not_converged": "a stronger run moves scores by 5 % more, or lowers the AUROC by another point (on a few images)",
    "undone_by_rounding": "rounding to 8 bits takes away more than half of the effect",
}


def control(spec: AttackSpec) -> AttackSpec:
    """Return the random signs that an attack is held to: one draw of the same ε, target and seed.

    They have max|δ| and root mean square ε, so that one control serves both balls, and every attack.
    """
    return replace(spec, attack="attack1", method="noise", steps=1, step_size=1.0, restarts=1)


def compared(
    found: Sequence[tuple[AttackSpec, float, Collection[str]]], noise: Sequence[float]
) -> list[tuple[str, ...]]:
    """Return for each attack its flags, with those that follow from comparing strengths, in the order of FLAGS.

    Args:
        found: attacks on one detector and one score, each with its strength (how far it moved scores on average, in
            the direction that it wants, in units of their spread) and the flags that it has by itself.
        noise: for each the strength of its :func:`control`.
    """
    flags = []
    for (spec, strength, own), control_strength in zip(found, noise, strict=True):
        stronger = [one for one, reached, _ in found if reached > strength + TOLERANCE and _same_aim(one, spec)]
        more = {
            "weaker_than_noise": spec.method != "noise" and control_strength > strength + TOLERANCE,
            "weaker_than_square": METHODS[spec.method].uses_gradient
            and any(one.method == "square" and one.epsilon == spec.epsilon for one in stronger),
            "not_monotone_epsilon": any(_same_but_smaller(one, spec) for one in stronger),
            "not_monotone_steps": any(_fewer_steps(one, spec) for one in stronger),
        }
        flags.append(tuple(name for name in FLAGS if name in own or more.get(name)))
    return flags


def _same_aim(other: AttackSpec, spec: AttackSpec) -> bool:
    norms = METHODS[other.method].norm, METHODS[spec.method].norm
    return (other.attack, other.target) == (spec.attack, spec.target) and norms[0] == norms[1]


def _same_but_smaller(other: AttackSpec, spec: AttackSpec) -> bool:
    return other.method == spec.method and other.steps == spec.steps and other.epsilon < spec.epsilon


def _fewer_steps(other: AttackSpec, spec: AttackSpec) -> bool:
    """Whether the other is the same method, or one gradient step, with fewer steps in the same ball."""
    mine, theirs = METHODS[spec.method], METHODS[other.method]
    comparable = other.method == spec.method or (mine.uses_gradient and theirs.uses_gradient and not theirs.iterated)
    return comparable and other.steps < spec.steps and other.epsilon == spec.epsilon
