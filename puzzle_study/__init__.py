"""Studies of anomaly detectors for images: which configuration works best, how stable it is, and how robust.

``run`` runs a study, ``load`` reads its results or a saved detector. ``PuzzleAE`` is Puzzle-AE as a scikit-learn
estimator, ``estimator`` gives the class for any other detector. They are imported on first use, so importing this
package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from puzzle_study.api import StudyResults, load, run
    from puzzle_study.inference.estimator import PuzzleAE, estimator

__all__ = ["PuzzleAE", "StudyResults", "__version__", "estimator", "load", "run"]

__version__ = "0.1.0"


_HOMES = {
    "PuzzleAE": "puzzle_study.inference.estimator",
    "StudyResults": "puzzle_study.api",
    "estimator": "puzzle_study.inference.estimator",
    "load": "puzzle_study.api",
    "run": "puzzle_study.api",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
