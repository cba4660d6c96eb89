"""Geometry of puzzles: pieces, permutations, shuffle, unshuffle, hide. Pure tensor functions.

Shape legend: N images, C channels, H and W pixels a side, g pieces a side, P = g² pieces, K permutations.
A permutation π is written as the tuple (π(0), …, π(P-1)); position p of the puzzle shows piece π(p)
(row-major), and un-shuffling uses π⁻¹ (paper, section 3.1).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from puzzle_study.detectors.puzzle_ae.rules import ROTATIONS, resolved_permutations
from puzzle_study.errors import UserError

if TYPE_CHECKING:
    from puzzle_study.detectors.puzzle_ae.settings import Puzzle

DISPLACED_OF_NINE = 6
MOST_PIXELS = 2**27
"""Most pixels of one image's puzzles: 128 puzzles of 1024×1024. Each of the two index tables then takes 1 GiB."""

Permutation = tuple[int, ...]


@dataclass(frozen=True)
class PuzzleSet:
    """The K transformations that are used: permutations of a grid, or quarter turns for Rot-AE."""

    kind: str
    grid: int
    permutations: tuple[Permutation, ...]

    def __len__(self) -> int:
        return len(self.permutations)

    def of(self, kept: Iterable[int]) -> PuzzleSet:
        """Return some of the permutations, by their numbers."""
        return PuzzleSet(self.kind, self.grid, tuple(self.permutations[i] for i in kept))


def puzzle_set(puzzle: Puzzle, *, normal_class: str, dataset: str) -> PuzzleSet:
    """Return the puzzle set of a task (section 3.1; footnote 2 for nine pieces; section 5 for rotations)."""
    if puzzle.kind == "rotation":
        return PuzzleSet("rotation", 1, tuple((turns,) for turns in ROTATIONS))
    choice = resolved_permutations(puzzle, normal_class=normal_class, dataset=dataset)
    if choice == "all":
        return PuzzleSet("jigsaw", 2, all_permutations())
    if choice == "two_swapped":
        return PuzzleSet("jigsaw", puzzle.grid, transpositions(puzzle.grid**2))
    return PuzzleSet("jigsaw", 3, drawn_permutations(puzzle.count, puzzle.seed))


def all_permutations() -> tuple[Permutation, ...]:
    """Return the 23 permutations of four pieces without the identity."""
    return tuple(itertools.permutations(range(4)))[1:]


def transpositions(pieces: int) -> tuple[Permutation, ...]:
    """Return every permutation that swaps exactly two pieces: 6 of four, 36 of nine."""
    swapped = []
    for a, b in itertools.combinations(range(pieces), 2):
        order = list(range(pieces))
        order[a], order[b] = b, a
        swapped.append(tuple(order))
    return tuple(swapped)


@lru_cache
def _nine_piece_permutations() -> np.ndarray:
    """All 84 × 265 = 22,260 permutations of nine pieces that displace exactly six, in a fixed order."""
    six = np.array(list(itertools.permutations(range(DISPLACED_OF_NINE))))
    derangements = six[(six != np.arange(DISPLACED_OF_NINE)).all(axis=1)]
    every = np.tile(np.arange(9), (math.comb(9, DISPLACED_OF_NINE), len(derangements), 1))
    for row, moved in enumerate(itertools.combinations(range(9), DISPLACED_OF_NINE)):
        every[row][:, moved] = np.array(moved)[derangements]
    return every.reshape(-1, 9)


@lru_cache
def drawn_permutations(count: int, seed: int) -> tuple[Permutation, ...]:
    """Draw ``count`` nine-piece permutations far apart in Hamming distance, the first at random.

    Greedy farthest-point choice with random ties, so that a longer draw with the same seed begins with the
    shorter one.
    """
    every = _nine_piece_permutations()
    rng = np.random.default_rng([seed, 9])
    chosen = [int(rng.integers(len(every)))]
    nearest = (every != every[chosen[0]]).sum(axis=1)
    while len(chosen) < count:
        farthest = np.flatnonzero(nearest == nearest.max())
        chosen.append(int(rng.choice(farthest)))
        nearest = np.minimum(nearest, (every != every[chosen[-1]]).sum(axis=1))
    return tuple(tuple(int(piece) for piece in every[i]) for i in chosen)


def padded_side(side: int, grid: int) -> int:
    """Return the smallest multiple of ``grid`` that is at least ``side`` (28 → 30 for nine pieces)."""
    return -(-side // grid) * grid


def pad(x_NCHW: Tensor, grid: int) -> Tensor:
    """Pad bottom and right with zeros (black) to multiples of ``grid`` (footnote 2 of the paper)."""
    height, width = x_NCHW.shape[-2:]
    right, bottom = padded_side(width, grid) - width, padded_side(height, grid) - height
    return F.pad(x_NCHW, (0, right, 0, bottom)) if right or bottom else x_NCHW


def check_memory(puzzles: PuzzleSet, height: int, width: int) -> None:
    """Raise UserError if one image's puzzles have more than :data:`MOST_PIXELS` pixels."""
    if len(puzzles) * height * width > MOST_PIXELS:
        raise UserError(
            f"{len(puzzles)} puzzles of {height}×{width} pixels are more than {MOST_PIXELS:,} pixels together; "
            f"lower data.size or puzzle.count"
        )


class Puzzler:
    """Makes the puzzles of a set for one image shape, with one gather over a whole batch.

    For each transformation k, ``source_KL[k]`` has, for every pixel of the puzzle (L = H·W, row-major), the
    pixel of the image that it shows, and ``target_KL[k]`` the inverse map.

    Args:
        puzzles: the puzzle set.
        height: image height in pixels, a multiple of the grid (see :func:`pad`).
        width: image width in pixels, likewise; equal to ``height`` for rotations.
        device: for the index tables.

    Raises:
        ValueError: the sides do not fit the grid, or a rotation gets an image that is not square.
        UserError: the index tables would be too large.
    """

    def __init__(self, puzzles: PuzzleSet, *, height: int, width: int, device: torch.device | str = "cpu") -> None:
        if height % puzzles.grid or width % puzzles.grid:
            raise ValueError(f"{height}×{width} pixels do not divide into {puzzles.grid}×{puzzles.grid} pieces")
        check_memory(puzzles, height, width)
        self.puzzles = puzzles
        self.height, self.width = height, width
        pixel_HW = torch.arange(height * width).reshape(height, width)
        if puzzles.kind == "rotation":
            if height != width:
                raise ValueError(f"rotations need square images, got {height}×{width}")
            source = [torch.rot90(pixel_HW, turns, (0, 1)).reshape(-1) for (turns,) in puzzles.permutations]
        else:
            pieces = _piece_pixels(pixel_HW, puzzles.grid)
            source = [_assemble(pieces[list(order)], puzzles.grid, height, width) for order in puzzles.permutations]
        self.source_KL = torch.stack(source).to(device)
        self.target_KL = self.source_KL.argsort(dim=1)
        self.piece_PL = _piece_masks(pixel_HW, max(puzzles.grid, 2)).to(device)

    def __len__(self) -> int:
        return len(self.puzzles)

    def shuffle(self, x_NCHW: Tensor, k_N: Tensor) -> Tensor:
        """Return the puzzle k_N[n] of each image n, shape [N, C, H, W]."""
        flat = x_NCHW.flatten(2)
        return flat.gather(2, self.source_KL[k_N][:, None, :].expand(flat.shape)).reshape(x_NCHW.shape)

    def shuffle_all(self, x_NCHW: Tensor, permutations: slice = slice(None)) -> Tensor:
        """Return all or some puzzles of every image, shape [N, K, C, H, W]."""
        images, channels = x_NCHW.shape[:2]
        source_KL = self.source_KL[permutations]
        flat = x_NCHW.reshape(images, channels, -1).index_select(2, source_KL.reshape(-1))
        return flat.reshape(images, channels, len(source_KL), self.height, self.width).transpose(1, 2)

    def unshuffle_all(self, puzzle_NKCHW: Tensor) -> Tensor:
        """Put every puzzle of every image back in order, shape [N, K, C, H, W]."""
        flat = puzzle_NKCHW.flatten(3)
        index = self.target_KL[None, :, None, :].expand(flat.shape)
        return flat.gather(3, index).reshape(puzzle_NKCHW.shape)

    def hide(self, x_NCHW: Tensor, piece_N: Tensor, how: str) -> Tensor:
        """Turn piece piece_N[n] of each image ``black`` or ``gray`` (mean over channels), before shuffling."""
        mask_N1HW = self.piece_PL[piece_N].reshape(-1, 1, self.height, self.width)
        if how == "black":
            return x_NCHW.masked_fill(mask_N1HW, 0)
        if how == "gray":
            return torch.where(mask_N1HW, x_NCHW.mean(1, keepdim=True), x_NCHW)
        raise ValueError(f"a piece can be hidden black or gray, not {how}")

    @property
    def pieces(self) -> int:
        """How many pieces can be hidden."""
        return len(self.piece_PL)


def _piece_pixels(pixel_HW: Tensor, grid: int) -> Tensor:
    """Pixels of each piece, shape [P, H/g, W/g]."""
    height, width = pixel_HW.shape
    split = pixel_HW.reshape(grid, height // grid, grid, width // grid)
    return split.transpose(1, 2).reshape(grid * grid, height // grid, width // grid)


def _assemble(pieces_Phw: Tensor, grid: int, height: int, width: int) -> Tensor:
    """Put pieces row by row and return their pixels in reading order, shape [H·W]."""
    rows = pieces_Phw.reshape(grid, grid, height // grid, width // grid).transpose(1, 2)
    return rows.reshape(height * width)


def _piece_masks(pixel_HW: Tensor, grid: int) -> Tensor:
    """Which pixels belong to each piece, bool [P, H·W]; with odd sides the first pieces get the extra pixel."""
    height, width = pixel_HW.shape
    row = (torch.arange(height) * grid // height)[:, None]
    column = (torch.arange(width) * grid // width)[None, :]
    piece_HW = row * grid + column
    return torch.stack([(piece_HW == piece).reshape(-1) for piece in range(grid * grid)])
