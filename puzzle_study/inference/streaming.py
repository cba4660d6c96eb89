"""Runs image files through a detector in chunks, so that memory does not grow with their number.

Shape legend: N images of a chunk, C channels, H = W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from puzzle_study.datasets.images import decode_all
from puzzle_study.datasets.records import Sizing
from puzzle_study.detectors.base import Detector
from puzzle_study.errors import UserError

CHUNK_BYTES = 32 << 20
MOST_IMAGES = 512


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some files in their given order.

    Attributes:
        paths: the files.
        errors: for each file an empty string, or the reason why it is unreadable.
        images_NCHW: uint8, the readable ones.
    """

    paths: tuple[Path, ...]
    errors: tuple[str, ...]
    images_NCHW: Tensor

    @property
    def readable(self) -> list[Path]:
        """The files of :attr:`images_NCHW`."""
        return [path for path, error in zip(self.paths, self.errors, strict=True) if not error]


def sizing(detector: Detector) -> Sizing:
    """Return how files are decoded for a detector: like its training set.

    Raises:
        UserError: the detector was fitted on arrays with a shape that no image file has.
    """
    shape = detector.shape
    if shape.height != shape.width or shape.channels not in (1, 3):
        raise UserError(
            f"the detector reads {shape.channels}×{shape.height}×{shape.width} arrays, image files become squares of "
            f"1 or 3 channels; score arrays in Python: puzzle_study.load(FOLDER).score_samples(ARRAY)"
        )
    return Sizing(size=shape.height, channels=shape.channels)


def chunks(paths: Sequence[Path], how: Sizing) -> Iterator[Chunk]:
    """Decode files in order, and decode the next chunk while the current one is used."""
    size = min(MOST_IMAGES, max(1, CHUNK_BYTES // (how.channels * how.size**2)))
    parts = [tuple(paths[start : start + size]) for start in range(0, len(paths), size)]
    with ThreadPoolExecutor(max_workers=1) as ahead:
        pending: list[Future[Chunk]] = []
        for part in parts:
            pending.append(ahead.submit(_decode, part, how))
            if len(pending) > 1:
                yield pending.pop(0).result()
        for last in pending:
            yield last.result()


def _decode(paths: tuple[Path, ...], how: Sizing) -> Chunk:
    images_NCHW = np.empty((len(paths), how.channels, how.size, how.size), dtype=np.uint8)
    errors, read = [], 0
    for pixels_CHW in decode_all(paths, how):
        if isinstance(pixels_CHW, UserError):
            errors.append(str(pixels_CHW))
        else:
            images_NCHW[read] = pixels_CHW
            errors.append("")
            read += 1
    return Chunk(paths, tuple(errors), torch.from_numpy(images_NCHW[:read]))
