"""What is attacked how: one :class:`AttackSpec` for every number in a table of attacks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from puzzle_study import config
from puzzle_study.attacks.methods import METHODS, refusal
from puzzle_study.attacks.registry import PLACES
from puzzle_study.errors import UserError

if TYPE_CHECKING:
    from puzzle_study.detectors.base import Traits


@dataclass(frozen=True)
class AttackSpec:
    """One attack, fully determined.

    Attributes:
        attack: ``attack1``, ``attack2`` (paper, section 4.3) or ``attack2_averaged``.
        method: a key of :data:`puzzle_study.attacks.methods.METHODS`.
        epsilon: bound of the perturbation for pixels in [0, 1]: of max|δ|, or of the root mean square of δ for
            methods in the L2 ball (‖δ‖₂ ≤ ε·√(C·H·W), which contains the max-norm ball of the same ε).
        steps: gradient steps; 1 for one-step methods and ``noise``; scores asked per image for black boxes.
        step_size: step as a fraction of ε.
        restarts: runs from which the best is kept image by image; 1 for methods without chance.
        target: ``normal``, ``anomalous`` or ``both``.
        seed: of random starts and noise.
    """

    attack: str
    method: str
    epsilon: float
    steps: int
    step_size: float
    restarts: int
    target: str
    seed: int


def attack_specs(attacks: config.Attacks) -> list[AttackSpec]:
    """Return the attacks of a study in a fixed order: attack by attack, method by method, ε as they are listed."""
    shared = attacks.model_dump(include={"steps", "queries", "step_size", "restarts", "target", "seed"})
    return [
        attack_spec(attack, method, epsilon=epsilon, **shared)
        for attack, method, epsilon in itertools.product(attacks.attacks, attacks.methods, attacks.epsilons)
    ]


def attack_spec(
    attack: str,
    method: str,
    *,
    epsilon: float,
    steps: int = 10,
    queries: int = 200,
    step_size: float = 0.25,
    restarts: int = 1,
    target: str = "normal",
    seed: int = 0,
) -> AttackSpec:
    """Return the spec of one attack; what a method does not use gets its one fixed value, so that equal is equal.

    Raises:
        UserError: there is no such method, or it is an attack of torchattacks that does not fit, with the reason.
    """
    if method not in METHODS:
        raise UserError(refusal(method))
    traits = METHODS[method]
    return AttackSpec(
        attack=attack,
        method=method,
        epsilon=float(epsilon),
        steps=queries if traits.black_box else steps if traits.iterated else 1,
        step_size=float(step_size) if traits.iterated and not traits.adapts_step else traits.one_step_size,
        restarts=restarts if traits.random else 1,
        target=target,
        seed=seed,
    )


def fits(spec: AttackSpec, traits: Traits) -> bool:
    """Whether a detector can be attacked so: it has views if they are perturbed, and gradients if they are used."""
    views = traits.views or not PLACES[spec.attack].needs_views
    return views and (traits.differentiable or not METHODS[spec.method].uses_gradient)


def measured_as(spec: AttackSpec) -> AttackSpec:
    """Return the spec that is run for another one: random signs on the image are those of every attack."""
    return replace(spec, attack="attack1") if spec.method == "noise" else spec
