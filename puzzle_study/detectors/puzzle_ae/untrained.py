"""The untrained network of Puzzle-AE, which training must beat."""

from __future__ import annotations

from typing_extensions import Self

from puzzle_study.config.types import DetectorSettings
from puzzle_study.detectors.base import Context, Traits
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings


class UntrainedSettings(PuzzleSettings):
    """The settings of Puzzle-AE. Training settings have no effect."""

    @property
    def epochs_wanted(self) -> int:
        """None."""
        return 0

    @classmethod
    def beside(cls, other: DetectorSettings, defaults: DetectorSettings) -> UntrainedSettings:
        """Return the settings of the study's own Puzzle-AE, if it has one."""
        chosen = other if isinstance(other, PuzzleSettings) else defaults
        return cls.model_validate(dict(chosen) | {"train": _untrained(chosen).train})


def _untrained(settings: DetectorSettings) -> PuzzleSettings:
    assert isinstance(settings, PuzzleSettings)
    return settings.model_copy(update={"train": settings.train.model_copy(update={"epochs": 0, "lambda_": 0.0})})


class Untrained(PuzzleDetector):
    """A U-Net that has learned nothing."""

    name = "untrained"
    title = "untrained network"
    source = "the start of Puzzle-AE's training"
    Settings = UntrainedSettings
    traits = Traits(views=True, maps=True)

    @classmethod
    def build(cls, settings: PuzzleSettings, context: Context) -> Self:
        """Return a detector whose training has no epochs."""
        return super().build(_untrained(settings), context)
