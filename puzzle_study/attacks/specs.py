"""What is attacked how: one :class:`AttackSpec` for every number in a table of attacks."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

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
        seed: of random starts, noise and drawn views.
        permutations_per_step: views that each gradient runs through, drawn anew for each step; None: all. Only for
            iterated gradients; without effect on attack2 and on scores to which not every view matters (min, max).
    """

    attack: str
    method: str
    epsilon: float
    steps: int
    step_size: float
    restarts: int
    target: str
    seed: int
    permutations_per_step: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what determines the attack; what is left at None is left out, so that finished results stay."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def attack_specs(attacks: config.Attacks) -> list[AttackSpec]:
    """Return the attacks of a study in a fixed order: attack by attack, method by method, ε as they are listed."""
    names = {"steps", "queries", "step_size", "restarts", "target", "seed", "permutations_per_step"}
    shared = attacks.model_dump(include=names)
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
    permutations_per_step: int | None = None,
) -> AttackSpec:
    """Return the spec of one attack; what a method does not use gets its one fixed value, so that equal is equal.

    Without more than a method it is one cheap run; a study's defaults are those of :class:`config.Attacks`.

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
        permutations_per_step=permutations_per_step if traits.uses_gradient and traits.iterated else None,
    )


def fits(spec: AttackSpec, traits: Traits) -> bool:
    """Whether a detector can be attacked so: it has views if they are perturbed, and gradients if they are used."""
    views = traits.views or not PLACES[spec.attack].needs_views
    return views and (traits.differentiable or not METHODS[spec.method].uses_gradient)


def fitting(attacks: config.Attacks, traits: Traits) -> list[AttackSpec]:
    """Return the attacks of a study that a detector can be attacked by.

    A detector without gradients that none of its methods fits is attacked by `square`, which asks for scores only.
    """
    found = [spec for spec in attack_specs(attacks) if fits(spec, traits)]
    if (
        not traits.differentiable
        and all(spec.method == "noise" for spec in found)
        and set(attacks.methods) != {"noise"}
    ):
        black_box = attacks.model_copy(update={"attacks": ("attack1",), "methods": ("square",)})
        found = attack_specs(black_box) + found
    return found


def strongest(attacks: config.Attacks, traits: Traits) -> AttackSpec | None:
    """Return the one attack of what needs one: attack1 by the first fitting method besides noise, at the largest ε."""
    one = attacks.model_copy(update={"attacks": ("attack1",), "epsilons": (max(attacks.epsilons),)})
    return next((spec for spec in fitting(one, traits) if spec.method != "noise"), None)


def measured_as(spec: AttackSpec) -> AttackSpec:
    """Return the spec that is run for another one: random signs on the image are those of every attack."""
    return replace(spec, attack="attack1") if spec.method == "noise" else spec
