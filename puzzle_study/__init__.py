"""Studies of anomaly detectors for images: which configuration works best, how stable it is, and how robust.

``PuzzleAE`` is Puzzle-AE as a scikit-learn estimator, ``estimator`` gives the class for any other detector, ``load``
reads a saved one. They are imported on first use, so importing this package stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from puzzle_study.inference.estimator import PuzzleAE, estimator, load

__all__ = ["PuzzleAE", "__version__", "estimator", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in ("PuzzleAE", "estimator", "load"):
        from puzzle_study.inference import estimator as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
