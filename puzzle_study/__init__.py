"""Studies of Puzzle-AE: which configuration finds novelties, how stably, and under attack.

``PuzzleAE`` is the detector in scikit-learn's manner, ``load`` reads a finished one; both are imported when they are
first asked for, so that importing this package stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from puzzle_study.inference.estimator import PuzzleAE, load

__all__ = ["PuzzleAE", "__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in ("PuzzleAE", "load"):
        from puzzle_study.inference import estimator

        return getattr(estimator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
