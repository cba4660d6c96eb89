"""Corruptions in a study file: the stage after the attacks, and the look at them at the end of every training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from puzzle_study.config.types import EachOnce, Many, MostImages, OneOf, Section, Seed, StageSection, unit
from puzzle_study.corruptions.base import SEVERITIES
from puzzle_study.corruptions.registry import CORRUPTIONS

Kind = Annotated[str, OneOf(lambda: CORRUPTIONS)]
Severity = Annotated[int, Field(ge=SEVERITIES[0], le=SEVERITIES[-1], json_schema_extra=unit("severity"))]


class Corruptions(StageSection):
    """What a study measures under natural changes of its test images: other light, focus, place, camera."""

    kinds: Annotated[Many[Kind] | None, EachOnce] = Field(
        None, min_length=1, description="Corruptions; null: all that the images' channels allow."
    )
    severities: Annotated[Many[Severity], EachOnce] = Field(
        SEVERITIES, min_length=1, description="Severities, each measured on the same images."
    )
    max_images: MostImages | None = Field(
        200, description="Most normal test images, and most anomalous ones; null: all."
    )
    seed: Seed = Field(0, description="Seed of directions, places and noise.")


class Corrupted(Section):
    """A look at corruptions at the end of every training, so that a search can optimise it without test labels."""

    kinds: Annotated[Many[Kind], EachOnce] = Field(
        ("dim_lamp", "brighter", "gaussian_noise", "defocus_blur", "shift"),
        min_length=1,
        description="Corruptions; the two numbers are means over them.",
    )
    severity: Severity = Field(2, description="Severity of each.")
    max_images: MostImages = Field(64, description="Most validation images corrupted, and most pseudo-anomalies.")
