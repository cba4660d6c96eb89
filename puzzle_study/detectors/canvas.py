"""Flips, shifts and quarter turns of images as movements of pixels, each of which can be undone exactly.

A shift brings in pixels from beyond the edge and loses others. So an image is put on a canvas with its
reflection around it, and the canvas is cyclic: what leaves it on one side enters on the other. A movement then
only moves pixels, and the *window*, the image's original place, shows the moved image.

Shape legend: N images, K movements, P pairs of image and movement, C channels, M pixels a side of the canvas, S pixels
a side of the window, L = M·M.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from puzzle_study.config.types import Reading
from puzzle_study.detectors.base import Shape
from puzzle_study.detectors.devices import Precision
from puzzle_study.detectors.pretext import Pretext
from puzzle_study.detectors.puzzle_ae.puzzles import MOST_PIXELS
from puzzle_study.errors import UserError


class Movement(NamedTuple):
    """A flip left to right, then a shift, then quarter turns."""

    flip: bool
    down: int
    right: int
    turns: int


class Canvas(nn.Module):
    """Moves images of one shape.

    The image's own pixels are the first rows and columns of its canvas, so that ``[..., :H, :W]`` cuts it out.

    Args:
        height: of the images, in pixels.
        width: of the images, in pixels.
        side: S; the image is in the middle of the window, in a black frame if it is smaller.
        margin: pixels of reflection on each side of the window, equal to the largest shift.
        movements: the K movements.

    Raises:
        UserError: all canvases of one image have too many pixels for memory.
    """

    row_M: Tensor
    column_M: Tensor
    window_SS: Tensor
    move_K23: Tensor
    back_K23: Tensor

    def __init__(self, height: int, width: int, *, side: int, margin: int, movements: Sequence[Movement]) -> None:
        super().__init__()
        self.side, self.size, self.height, self.width = side, side + 2 * margin, height, width
        if len(movements) * self.size**2 > MOST_PIXELS:
            raise UserError(
                f"{len(movements)} views of {self.size}×{self.size} pixels are more than {MOST_PIXELS:,} pixels "
                f"together; lower data.size"
            )
        self.top, self.left = (side - height) // 2, (side - width) // 2
        self.register_buffer("row_M", self._reflected(self.top, margin), persistent=False)
        self.register_buffer("column_M", self._reflected(self.left, margin), persistent=False)
        place_S = torch.arange(side)
        row_S, column_S = (place_S - self.top) % self.size, (place_S - self.left) % self.size
        self.register_buffer("window_SS", row_S[:, None] * self.size + column_S, persistent=False)
        moves = [self._moved(movement) for movement in movements]
        self.register_buffer("move_K23", torch.tensor(moves), persistent=False)
        self.register_buffer("back_K23", torch.tensor([_inverse(move) for move in moves]), persistent=False)

    def prepare(self, x_NCHW: Tensor) -> Tensor:
        """Return the canvases of images, [N, C, M, M]."""
        below, beyond = self.side - self.height - self.top, self.side - self.width - self.left
        framed = F.pad(x_NCHW, (self.left, beyond, self.top, below))
        return framed.index_select(2, self.row_M).index_select(3, self.column_M)

    def move(self, canvas_PCMM: Tensor, k_P: Tensor) -> Tensor:
        """Return movement k of each canvas, same shape."""
        flat = canvas_PCMM.flatten(2)
        index_P1L = self._index(self.move_K23[k_P])[:, None]
        return flat.gather(2, index_P1L.expand(flat.shape)).reshape(canvas_PCMM.shape)

    def move_all(self, canvas_NCMM: Tensor, k_K: Tensor) -> Tensor:
        """Return some movements of each canvas, [N, K, C, M, M]."""
        images, channels = canvas_NCMM.shape[:2]
        index_KL = self._index(self.move_K23[k_K])
        moved = canvas_NCMM.flatten(2).index_select(2, index_KL.flatten())
        return moved.reshape(images, channels, len(index_KL), self.size, self.size).transpose(1, 2)

    def undo_all(self, moved_NKCMM: Tensor) -> Tensor:
        """Return all K moved canvases of each image moved back, same shape."""
        flat = moved_NKCMM.flatten(3)
        index = self._index(self.back_K23)[None, :, None].expand(flat.shape)
        return flat.gather(3, index).reshape(moved_NKCMM.shape)

    def window(self, canvas_PCMM: Tensor) -> Tensor:
        """Return the content of the window, [P, C, S, S]."""
        shown = canvas_PCMM.flatten(2).index_select(2, self.window_SS.flatten())
        return shown.reshape(*canvas_PCMM.shape[:2], self.side, self.side)

    def _reflected(self, before: int, margin: int) -> Tensor:
        """Return which pixel of the window each place of the canvas shows, edges twice."""
        place_M = torch.arange(self.size) + before
        place_M = torch.where(place_M < self.side + margin, place_M, place_M - self.size)
        place_M = torch.where(place_M < 0, -1 - place_M, place_M)
        return torch.where(place_M < self.side, place_M, 2 * self.side - 1 - place_M)

    def _moved(self, movement: Movement) -> list[list[int]]:
        """Return the map from a place on the moved canvas to its source, [2, 3]."""
        last = self.side - 1
        # Rows are the coordinates of the source as (row, column, 1) of the place, in the window's coordinates.
        row, column = [1, 0, 0], [0, 1, 0]
        for _ in range(movement.turns % 4):
            row, column = column, [-row[0], -row[1], last - row[2]]
        row, column = [*row[:2], row[2] + movement.down], [*column[:2], column[2] + movement.right]
        if movement.flip:
            column = [-column[0], -column[1], last - column[2]]
        # The canvas begins with the image, `top` and `left` from the window's corner.
        for line, origin in ((row, self.top), (column, self.left)):
            line[2] += line[0] * self.top + line[1] * self.left - origin
        return [row, column]

    def _index(self, move_P23: Tensor) -> Tensor:
        """Return which pixel of the canvas each place shows, [P, L]."""
        place_M = torch.arange(self.size, device=move_P23.device)
        row_P23 = move_P23[..., None, None]
        source = row_P23[:, :, 0] * place_M[:, None] + row_P23[:, :, 1] * place_M + row_P23[:, :, 2]
        row_PMM, column_PMM = (source % self.size).unbind(1)
        return (row_PMM * self.size + column_PMM).flatten(1)


def _inverse(move: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the inverse map: the transposed turn, and the shift turned and negated."""
    (a, b, down), (c, d, right) = move
    return [[a, c, -(a * down + c * right)], [b, d, -(b * down + d * right)]]


class Moved(Pretext):
    """A classifier of movements.

    Attributes:
        multiple: the side of the window is a multiple of this many pixels.
    """

    multiple: ClassVar[int] = 1

    def __init__(self, *, shape: Shape, **network: Any) -> None:
        side = -(-max(shape.height, shape.width) // self.multiple) * self.multiple
        movements, margin = self.movements(side)
        super().__init__(transformations=len(movements), pieces=1, shape=shape, **network)
        self.canvas = Canvas(shape.height, shape.width, side=side, margin=margin, movements=movements)

    @classmethod
    @abstractmethod
    def movements(cls, side: int) -> tuple[list[Movement], int]:
        """Return the K movements for windows of a side in pixels, and the largest shift."""

    @classmethod
    def made(cls, settings: Any, **network: Any) -> Self:
        """Return a detector with its initial weights."""
        return cls(**network)

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with a network of the described size."""
        depth, widen = int(described["depth"]), int(described["widen"])
        return cls(depth=depth, widen=widen, shape=shape, reading=reading, precision=precision)

    def prepare(self, x_NCHW: Tensor) -> Tensor:
        """Return the images' canvases."""
        return self.canvas.prepare(x_NCHW)

    def view(self, prepared_PCHW: Tensor, k_P: Tensor) -> Tensor:
        """Return movement k of each canvas."""
        return self.canvas.move(prepared_PCHW, k_P)

    def views_of(self, prepared_NCHW: Tensor, k_K: Tensor) -> Tensor:
        """Return some movements of each canvas."""
        return self.canvas.move_all(prepared_NCHW, k_K)

    def undo(self, view_NKCHW: Tensor) -> Tensor:
        """Return all canvases moved back."""
        return self.canvas.undo_all(view_NKCHW)

    def features(self, view_PCHW: Tensor) -> Tensor:
        """Return the features of the window's content, in [-1, 1]."""
        feature_PF: Tensor = self.trunk(2 * self.canvas.window(view_PCHW) - 1)
        return feature_PF
