"""The study file: its sections, search axes, layers of defaults, checks, and how it is read.

The classes are light: they import neither torch nor Ray. What reads and checks a file stands in modules of its own.
"""

from puzzle_study.config.search import (
    AXIS_KINDS,
    NEED_TEST_LABELS,
    Axis,
    Objective,
    Racing,
    Search,
    Stopping,
)
from puzzle_study.config.study import (
    Attacks,
    Data,
    Evaluate,
    Resources,
    Robust,
    Settings,
    Study,
)
from puzzle_study.config.types import (
    MOST_EPOCHS,
    MOST_SEED,
    DetectorSettings,
    Layer,
    Reading,
    Scalar,
    Section,
)

__all__ = [
    "AXIS_KINDS",
    "MOST_EPOCHS",
    "MOST_SEED",
    "NEED_TEST_LABELS",
    "Attacks",
    "Axis",
    "Data",
    "DetectorSettings",
    "Evaluate",
    "Layer",
    "Objective",
    "Racing",
    "Reading",
    "Resources",
    "Robust",
    "Scalar",
    "Search",
    "Section",
    "Settings",
    "Stopping",
    "Study",
]
