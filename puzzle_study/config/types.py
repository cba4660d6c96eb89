"""What the sections of a study file are made of."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict

from puzzle_study.errors import cut

MOST_EPOCHS = 100_000
MOST_PERMUTATIONS = 512
MOST_BASE_CHANNELS = 256
MOST_SEED = 2**32 - 1
"""What NumPy's older generator, which Optuna seeds, takes; PyTorch takes more, and NumPy's newer one anything."""
Item = TypeVar("Item")
Many = Annotated[tuple[Item, ...], Strict(False)]


def _each_once(value: tuple[Item, ...] | None) -> tuple[Item, ...] | None:
    """Refuse a list that names something twice, which would be run twice and counted twice."""
    twice = next((item for number, item in enumerate(value or ()) if item in (value or ())[:number]), None)
    if twice is not None:
        raise ValueError(f"it names {cut(str(twice))} twice; leave one out")
    return value


EachOnce = AfterValidator(_each_once)


def _quotient(value: Any) -> Any:
    """Read ``8/255`` as the number it stands for."""
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*([1-9]\d*)\s*", value)):
        return float(match[1]) / float(match[2])
    return value


Fraction = Annotated[float, Field(gt=0, le=1), BeforeValidator(_quotient)]
Perturbation = Annotated[float, Field(ge=0, le=1), BeforeValidator(_quotient)]
Scalar = bool | int | float | str


class Section(BaseModel):
    """A part of the study file: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
