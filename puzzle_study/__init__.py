"""Studies of anomaly detectors for images: which configuration finds anomalies, how stably, and under attack.

``PuzzleAE`` is Puzzle-AE in scikit-learn's manner, ``estimator`` gives the class of any other detector, ``load`` reads
a finished one. They are imported when they are first asked for, so that importing this package stays light.
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
