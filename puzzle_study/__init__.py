"""Studies of anomaly detectors for images: which configuration works best, how stable it is, and how robust.

``run`` runs a study, ``load`` reads its results or a saved detector. Each detector is a scikit-learn estimator:
``PuzzleAE``, ``PatchCore``, ``PaDiM``, ``FeatureKNN`` and so on; ``estimator`` gives the class by the name in study
files. All are imported on first use, so importing this package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def _estimators() -> dict[str, str]:
    """Return each detector's class and its name in study files; Puzzle-AE's estimator has a class of its own."""
    from puzzle_study.detectors.registry import DETECTORS

    return {kind: name for kind, name in DETECTORS.classes.items() if name != DETECTORS.default}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name[:1].isupper() and name in (found := _estimators()):
        from puzzle_study.inference.estimator import estimator

        return estimator(found[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_estimators()})
