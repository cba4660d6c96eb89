"""Types and base classes for the sections of a study file."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
)
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from puzzle_study.errors import cut

MOST_EPOCHS = 100_000
MOST_SEED = 2**32 - 1
"""The limit of NumPy's older generator, which Optuna seeds."""
WantedPrecision = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
Layer = dict[str, Any]
"""Nested settings of a file, before they are validated."""
Item = TypeVar("Item")
Many = Annotated[tuple[Item, ...], Strict(False)]


def _each_once(value: tuple[Item, ...] | None) -> tuple[Item, ...] | None:
    """Refuse duplicates, which would run and count twice."""
    twice = next((item for number, item in enumerate(value or ()) if item in (value or ())[:number]), None)
    if twice is not None:
        raise ValueError(f"it names {cut(str(twice))} twice; leave one out")
    return value


EachOnce = AfterValidator(_each_once)


def unit(name: str) -> JsonDict:
    """Return a field's ``json_schema_extra`` with the unit of its numbers; – if they have none."""
    return {"unit": name}


def _quotient(value: Any) -> Any:
    """Read ``8/255`` as a number."""
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*([1-9]\d*)\s*", value)):
        return float(match[1]) / float(match[2])
    return value


Fraction = Annotated[float, Field(gt=0, le=1), BeforeValidator(_quotient)]
Perturbation = Annotated[float, Field(ge=0, le=1, json_schema_extra=unit("pixel value")), BeforeValidator(_quotient)]
Seed = Annotated[int, Field(ge=0, le=MOST_SEED, json_schema_extra=unit("seed"))]
ImageCount = Annotated[int, Field(ge=1, json_schema_extra=unit("images"))]
MostImages = Annotated[int, Field(ge=2, json_schema_extra=unit("images"))]
ConfigurationCount = Annotated[int, Field(ge=1, json_schema_extra=unit("configurations"))]
AttackSteps = Annotated[int, Field(ge=1, le=1000, json_schema_extra=unit("steps"))]
Scalar = bool | int | float | str


class Section(BaseModel):
    """A part of the study file: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StageSection(Section):
    """What the stages after the trainings, attacks and corruptions, have in common."""

    configurations: Many[Literal["winner", "default", "references", "all"]] = Field(
        ("winner", "default", "references"),
        min_length=1,
        description="Which configurations: the winner, with the error norm and aggregation that won; the default of "
        "each detector, or every complete one (`all`), with those of the study file; the `references`, with their own.",
    )
    top: ConfigurationCount | None = Field(
        None, description="Also the n best by selection, each with the norm and aggregation of its rank; null: none."
    )


def parted(aggregation: str) -> tuple[str, int | None]:
    """Return the aggregation's own name and how many views stand for all, None if all are read: ``max of 8``."""
    name, _, count = aggregation.partition(" of ")
    return name, int(count) if count else None


@dataclass(frozen=True)
class Reading:
    """How an error matrix becomes one score; changing it needs no training.

    Attributes:
        error: the error norm, ``l2`` or ``mse``.
        aggregation: name of the aggregation of normalised errors over the views: ``max``, or ``max of 8`` if 8 of the
            views stand for all.
    """

    error: str = "mse"
    aggregation: str = "avg"

    @staticmethod
    def of(error: str, aggregation: str, permutations: int | str = "all") -> Reading:
        """Return the reading of these settings of a score."""
        return Reading(error, aggregation if permutations == "all" else f"{aggregation} of {permutations}")

    @property
    def views(self) -> int | None:
        """How many views stand for all, or None if all are read."""
        return parted(self.aggregation)[1]

    @property
    def settings(self) -> dict[str, int | str]:
        """The settings of a score that :meth:`of` takes."""
        name, views = parted(self.aggregation)
        return {"error": self.error, "aggregation": name, "permutations": views or "all"}


@dataclass(frozen=True)
class Images:
    """What a trial's cost depends on, before any image is read.

    Attributes:
        train: number of training images.
        pixels: per image, H·W.
        channels: per image.
        normal_class: name of the task's normal class.
        dataset: name of the data set.
    """

    train: int
    pixels: int
    channels: int
    normal_class: str
    dataset: str


@dataclass(frozen=True)
class Costs:
    """A detector's rough cost in multiply-adds, used to estimate the time left.

    Attributes:
        fit: once, for all training images.
        epoch: per training image and epoch.
        score: per scored image.
        views: K, columns of the error matrix.
    """

    fit: float
    epoch: float
    score: float
    views: int = 1


@dataclass(frozen=True)
class Rule:
    """A combination of a detector's settings that is refused.

    Attributes:
        settings: their dotted names.
        check: takes the detector's settings and the data section; raises a UserError if they cannot be combined.
    """

    settings: tuple[str, ...]
    check: Callable[[Any, Any], None]


@dataclass(frozen=True)
class Alike:
    """What trainings that are fitted together have in common: the shapes of their steps, and the images in one."""

    shape: Hashable
    batch_size: int


class DetectorSettings(Section):
    """Base class of a detector's settings, with their defaults, presets, variants and rules."""

    DATASETS: ClassVar[Mapping[str, Layer]] = {}
    """Defaults per data set."""
    PRESETS: ClassVar[Mapping[str, Layer]] = {}
    """Named sets of defaults; a detector that has some has a field ``preset``."""
    PRESETS_BY_DATASET: ClassVar[Mapping[str, Mapping[str, Layer]]] = {}
    VARIANTS: ClassVar[Mapping[str, Layer]] = {}
    """Named forms of the method, which override the study file; a detector that has some has a field ``variant``."""
    FREE: ClassVar[tuple[str, ...]] = ()
    """Settings that need no training; each fitted detector is read with each of their values."""
    EPOCHS: ClassVar[str] = "train.epochs"
    """The setting that says how many epochs there are."""
    ALONG: ClassVar[tuple[str, ...]] = ()
    """Settings whose values are met along one training (:meth:`along`)."""
    INERT_BY: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Per section, the settings that decide which of its settings are inert."""
    RULES: ClassVar[tuple[Rule, ...]] = ()
    PATHS: ClassVar[tuple[str, ...]] = ()
    """Settings that are file paths, relative to the current folder."""
    BUDGET: ClassVar[tuple[str, ...]] = ()
    """Whole numbers proportional to training time, to compare it with ``preset: paper``."""
    SMALL: ClassVar[Layer] = {}
    """Settings with which a fit of a few dozen 16×16 images takes a second; the conformance suite uses them."""
    LARGE: ClassVar[tuple[str, ...]] = ()
    """Settings to lower if memory runs out."""

    @classmethod
    def beside(cls, other: DetectorSettings, defaults: DetectorSettings) -> DetectorSettings:
        """Return this reference's settings, by default ``defaults``, beside a detector with the settings ``other``."""
        return defaults

    @property
    def reading(self) -> Reading:
        """How error matrices are read; with one view there is no choice."""
        return Reading()

    @property
    def precision_wanted(self) -> WantedPrecision:
        """Arithmetic of the convolutions."""
        return "float32"

    @property
    def epochs_wanted(self) -> int:
        """Epochs at most; 0 if fitted at once."""
        return 0

    def along(self) -> tuple[str, ...]:
        """Return the settings that change neither a step nor a draw, so that one training meets all their values.

        With :attr:`EPOCHS` among them, an epoch must not depend on how many follow. For any other,
        ``Detector.fit_along`` must fit several detectors that differ in it by one training.
        """
        return self.ALONG if self.epochs_wanted else ()

    def alike(self) -> Alike | None:
        """Return what trainings must have in common to be fitted together; None: each is fitted alone."""
        return None

    def costs(self, images: Images) -> Costs:
        """Return a trial's costs; by default distances between all pairs of images."""
        distance = images.pixels * images.channels
        return Costs(fit=images.train**2 * distance, epoch=0.0, score=images.train * distance)

    def notes(self, channels: int) -> list[str]:
        """Return sentences on what is unusual for this detector about images with this many channels."""
        return []

    def inert(self) -> dict[str, str]:
        """Return the settings that cannot change this configuration's training, each with the reason."""
        return {}


class OneOf:
    """Marks a string as a name in a registry, for pydantic and for the JSON Schema.

    Args:
        names: returns the names; called only when a value is checked, so it may import.
    """

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self._names = names

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"enum": list(self._names())}

    def _check(self, value: str) -> str:
        names = list(self._names())
        if value not in names:
            listed = ", ".join(f"'{name}'" for name in names)
            raise PydanticCustomError("literal_error", "Input should be one of {expected}", {"expected": listed})
        return value
