"""The section ``attacks`` of a study file. Like the other settings it imports neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from puzzle_study.attacks.methods import METHODS, REFUSED, refusal
from puzzle_study.attacks.registry import PLACES
from puzzle_study.config.types import (
    AttackSteps,
    Many,
    MostImages,
    OneOf,
    Perturbation,
    Section,
    Seed,
    StageSection,
    unit,
)

AttackName = Annotated[str, OneOf(lambda: PLACES)]


def _not_refused(method: str) -> str:
    """Refuse the torchattacks attacks that are not run, with the reason; `OneOf` refuses unknown names."""
    if method.lower() in {name.lower() for name in REFUSED}:
        raise ValueError(refusal(method))
    return method


AttackMethod = Annotated[str, AfterValidator(_not_refused), OneOf(lambda: METHODS)]


class Certify(Section):
    """Median smoothing: what no perturbation of an L2 norm can undercut (docs/attacks.md)."""

    sigma: float = Field(
        0.25, gt=0, le=2, json_schema_extra=unit("pixel value"), description="Deviation of the Gaussian noise."
    )
    samples: int = Field(
        1000, ge=50, le=1_000_000, json_schema_extra=unit("copies"), description="Noised copies scored of each image."
    )
    alpha: float = Field(
        0.001,
        gt=0,
        lt=0.5,
        json_schema_extra=unit("probability"),
        description="Probability that a bound of some image at a radius does not hold.",
    )


class Attacks(StageSection):
    """The test-time attacks of a study (paper, section 4.3)."""

    attacks: Many[AttackName] = Field(
        ("attack1", "attack2"),
        min_length=1,
        description="The paper's two attacks; `attack2_averaged` averages attack2's gradients before the sign.",
    )
    methods: Many[AttackMethod] = Field(
        ("apgd", "fgsm", "noise"),
        min_length=1,
        description="How the perturbation is found; `noise` (random signs) is the control.",
    )
    epsilons: Many[Perturbation] = Field(
        (0.05, 0.1, 0.2), min_length=1, description="Bounds of the perturbation, pixels in [0, 1]."
    )
    steps: AttackSteps = Field(20, description="Steps of iterated methods.")
    step_size: float = Field(
        0.5,
        gt=0,
        le=2,
        json_schema_extra=unit("share of ε"),
        description="Step of iterated methods as a fraction of ε; `apgd` and `square` choose their own.",
    )
    restarts: int = Field(
        3,
        ge=1,
        le=100,
        json_schema_extra=unit("runs"),
        description="Runs of methods with a random start; the best one is kept for each image.",
    )
    permutations_per_step: int | None = Field(
        None,
        ge=1,
        json_schema_extra=unit("views"),
        description="Views, such as permutations, that each gradient of an iterated method runs through, drawn anew "
        "for each step; null: all. For attack1 and attack2_averaged on scores that average over views (`avg`).",
    )
    queries: int = Field(
        200,
        ge=1,
        le=100_000,
        json_schema_extra=unit("scores"),
        description="Scores per image that `square` and `spsa` may use.",
    )
    target: Literal["normal", "anomalous", "both"] = Field(
        "normal",
        description="Images attacked: normal ones to higher scores (paper), anomalous ones to lower scores, or both.",
    )
    max_images: MostImages | None = Field(
        None, description="Most test images attacked, drawn in proportion from each class; null: all."
    )
    balanced: bool = Field(
        False,
        description="As many normal as anomalous test images: half of `max_images` of each, or as many of each as the "
        "smaller side has; each side in proportion to its classes.",
    )
    keep: Literal["examples", "all"] = Field(
        "examples",
        description="Perturbed images that stay: a few of the winner's for the report, or `all`, as floats in "
        "attacks/KEY.images.npz, so that others can check them.",
    )
    convergence: int = Field(
        8,
        ge=0,
        json_schema_extra=unit("images"),
        description="Images of each attacked side on which iterated attack1 at the largest ε is held to stronger runs "
        "(flag `not_converged`); 0: none.",
    )
    smallest: bool = Field(
        False,
        description="Also look, by bisection, for the smallest ε that takes each image across the threshold, and for "
        "the ε at which the AUROC passes 50 % (smallest_epsilon.csv), with the same attack as `matrix`.",
    )
    certify: Certify | None = Field(
        None,
        description="Also certify the AUROC and the false alarms of the smoothed score under L2 perturbations "
        "(certified.csv); left out: no.",
    )
    seed: Seed = Field(0, description="Seed of random starts and noise.")
    matrix: bool = Field(
        False,
        description="Also attack each aggregation and score by each (aggregation_matrix.csv), with attack1, the "
        "first of `methods` except noise, and the largest ε.",
    )
    transfer: bool = Field(
        False,
        description="Also score images attacked against one configuration by the others, for the same task and seed "
        "(transfer.csv), with the same attack as `matrix`.",
    )

    @model_validator(mode="after")
    def _something_to_transfer(self) -> Attacks:
        if (self.matrix or self.transfer or self.smallest) and set(self.methods) == {"noise"}:
            raise ValueError("matrix, transfer and smallest need a method besides noise")
        return self
