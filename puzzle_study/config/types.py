"""What the sections of a study file are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
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
"""What NumPy's older generator, which Optuna seeds, takes; PyTorch takes more, and NumPy's newer one anything."""
WantedPrecision = Literal["auto", "float32", "bfloat16"]
Layer = dict[str, Any]
"""Nested settings as they stand in a file, before they are validated."""
Item = TypeVar("Item")
Many = Annotated[tuple[Item, ...], Strict(False)]


def _each_once(value: tuple[Item, ...] | None) -> tuple[Item, ...] | None:
    """Refuse a list that names something twice, which would be run twice and counted twice."""
    twice = next((item for number, item in enumerate(value or ()) if item in (value or ())[:number]), None)
    if twice is not None:
        raise ValueError(f"it names {cut(str(twice))} twice; leave one out")
    return value


EachOnce = AfterValidator(_each_once)


def unit(name: str) -> JsonDict:
    """Return what a field passes as ``json_schema_extra``: what its numbers count; – if they have no unit."""
    return {"unit": name}


def _quotient(value: Any) -> Any:
    """Read ``8/255`` as the number it stands for."""
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


@dataclass(frozen=True)
class Reading:
    """How an error matrix becomes one score: it costs no training.

    Attributes:
        error: the norm of an error, ``l2`` or ``mse``.
        aggregation: of the normalised errors over the views, a name of the registry of aggregations.
    """

    error: str = "mse"
    aggregation: str = "avg"


@dataclass(frozen=True)
class Images:
    """What the cost of a trial depends on, before any image is read.

    Attributes:
        train: training images.
        pixels: of an image, H·W.
        channels: of an image.
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
    """What a detector costs in multiply-adds, roughly: enough to say how much time is left.

    Attributes:
        fit: at once, for all training images.
        epoch: for each training image in each epoch.
        score: for each image scored.
        views: K, columns of the error matrix.
    """

    fit: float
    epoch: float
    score: float
    views: int = 1


@dataclass(frozen=True)
class Rule:
    """What settings of a detector may not be together.

    Attributes:
        settings: their dotted names.
        check: takes the detector's settings and the data section; raises a UserError if they cannot be.
    """

    settings: tuple[str, ...]
    check: Callable[[Any, Any], None]


class DetectorSettings(Section):
    """The settings of one detector, with all that is special about them; the detector's own module derives from it."""

    DATASETS: ClassVar[Mapping[str, Layer]] = {}
    """Defaults by data set."""
    PRESETS: ClassVar[Mapping[str, Layer]] = {}
    """Named sets of defaults; a detector that has some has a field ``preset``."""
    PRESETS_BY_DATASET: ClassVar[Mapping[str, Mapping[str, Layer]]] = {}
    VARIANTS: ClassVar[Mapping[str, Layer]] = {}
    """Named forms of the method, stronger than the study file; a detector that has some has a field ``variant``."""
    FREE: ClassVar[tuple[str, ...]] = ()
    """Settings that need no training: each fitted detector is read by each of their values."""
    INERT_BY: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The settings that decide which ones of a section are inert, by the section's name."""
    RULES: ClassVar[tuple[Rule, ...]] = ()
    PATHS: ClassVar[tuple[str, ...]] = ()
    """Settings that are paths of files; those of a study file are taken from the current folder."""
    BUDGET: ClassVar[tuple[str, ...]] = ()
    """Whole numbers that make a training long, by which it is compared with that of ``preset: paper``."""
    SMALL: ClassVar[Layer] = {}
    """Settings with which a fit of some tens of 16×16 images takes a second; the conformance suite uses them."""
    LARGE: ClassVar[tuple[str, ...]] = ()
    """Settings to lower if memory runs out."""

    @classmethod
    def beside(cls, other: DetectorSettings, defaults: DetectorSettings) -> DetectorSettings:
        """Return the settings as a reference of a study, one of whose detectors has the settings ``other``.

        Args:
            other: settings of one of the study's detectors, of any class.
            defaults: this detector's defaults for the data set, or what another of the study's detectors made of them.
        """
        return defaults

    @property
    def reading(self) -> Reading:
        """How error matrices are read; a detector with one view has nothing to choose."""
        return Reading()

    @property
    def precision_wanted(self) -> WantedPrecision:
        """Arithmetic: ``auto``, ``float32`` or ``bfloat16``."""
        return "float32"

    @property
    def epochs_wanted(self) -> int:
        """Epochs at most; 0 for what is fitted at once."""
        return 0

    def costs(self, images: Images) -> Costs:
        """Return what a trial costs; by default distances between all pairs of images."""
        distance = images.pixels * images.channels
        return Costs(fit=images.train**2 * distance, epoch=0.0, score=images.train * distance)

    def notes(self, channels: int) -> list[str]:
        """Return what is unusual for this detector about images of so many channels, in sentences."""
        return []

    def inert(self) -> dict[str, str]:
        """Return the settings that cannot change this configuration's training, each with the reason."""
        return {}


class OneOf:
    """Marks a text of a section as one of the names of a registry, for pydantic and for the JSON Schema.

    Args:
        names: returns the names; called when a value is checked, so that it may import.
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
