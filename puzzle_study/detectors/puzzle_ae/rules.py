"""Which settings of puzzles can be combined, and how many permutations they give.

Imports no torch, so that a study file can be checked before anything is trained.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from puzzle_study.config.types import Rule
from puzzle_study.datasets.catalogue import DATASETS
from puzzle_study.errors import UserError

if TYPE_CHECKING:
    from puzzle_study.config import Data
    from puzzle_study.detectors.puzzle_ae.settings import Puzzle, PuzzleSettings

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
ROTATIONS = (1, 2, 3)
FOUR_PIECES = math.factorial(4) - 1


def resolved_permutations(puzzle: Puzzle, *, normal_class: str, dataset: str) -> Literal["all", "two_swapped", "drawn"]:
    """Return which permutations of pieces are used, with ``auto`` resolved; UserError if the grid has none of them."""
    choice = puzzle.permutations
    if choice == "auto":
        texture = dataset == "mvtec" and normal_class in TEXTURES
        choice = "two_swapped" if texture else ("all" if puzzle.grid == 2 else "drawn")
    if choice == "all" and puzzle.grid != 2:
        raise UserError("puzzle.permutations `all` needs puzzle.grid 2: nine pieces have 22,260; use `drawn`")
    if choice == "drawn" and puzzle.grid != 3:
        raise UserError("puzzle.permutations `drawn` needs puzzle.grid 3; four pieces have `all` 23 or `two_swapped`")
    return choice


def hidden_style(hide: str, channels: int) -> str | None:
    """Resolve ``auto``: black for one channel (inpainting), gray for three (colorization); None for ``none``."""
    if hide == "auto":
        return "black" if channels == 1 else "gray"
    if hide == "gray" and channels == 1:
        raise UserError("puzzle.hide `gray` changes nothing in images of one channel; use black, none or auto")
    return None if hide == "none" else hide


def scored_by_all(settings: PuzzleSettings) -> bool:
    """Return whether all 23 permutations score, even if fewer trained."""
    return settings.score.puzzle_set == "all" and settings.puzzle.kind == "jigsaw" and settings.puzzle.grid == 2


def scoring_permutations(settings: PuzzleSettings, *, normal_class: str, dataset: str) -> int:
    """Return how many permutations are available for scoring."""
    puzzle = settings.puzzle
    if puzzle.kind == "rotation":
        return len(ROTATIONS)
    if scored_by_all(settings):
        return FOUR_PIECES
    choice = resolved_permutations(puzzle, normal_class=normal_class, dataset=dataset)
    return {"all": FOUR_PIECES, "two_swapped": math.comb(puzzle.grid**2, 2), "drawn": puzzle.count}[choice]


def check_count(count: int, available: int) -> None:
    """Refuse to score with more permutations than there are."""
    if count > available:
        raise UserError(
            f"score.permutations must be `all` or at most {available}, the K of this puzzle set; got {count}"
        )


def _check_permutations(settings: PuzzleSettings, data: Data) -> None:
    if settings.puzzle.kind == "jigsaw":
        resolved_permutations(settings.puzzle, normal_class="", dataset=data.name)


def _check_hidden(settings: PuzzleSettings, data: Data) -> None:
    hidden_style(settings.puzzle.hide, 1 if data.grayscale else DATASETS[data.name].channels)


def _check_scored(settings: PuzzleSettings, data: Data) -> None:
    if isinstance(settings.score.permutations, int):
        for name in _normal_classes(data):
            available = scoring_permutations(settings, normal_class=name, dataset=data.name)
            check_count(settings.score.permutations, available)


def _normal_classes(data: Data) -> list[str]:
    """Return the names of the normal classes, or a placeholder if only the files know them."""
    info = DATASETS[data.name]
    known = dict(enumerate(info.classes or (), info.first_number))
    return [known.get(name, "") if isinstance(name, int) else name for name in data.normal_classes or ("",)]


RULES = (
    Rule(("puzzle.permutations", "puzzle.grid", "puzzle.kind"), _check_permutations),
    Rule(("puzzle.hide", "data.grayscale"), _check_hidden),
    Rule(
        ("score.permutations", "score.puzzle_set", *(f"puzzle.{n}" for n in ("permutations", "count", "grid", "kind"))),
        _check_scored,
    ),
)
