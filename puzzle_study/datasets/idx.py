"""MNIST and Fashion-MNIST in their authors' IDX format, gzipped or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np

from puzzle_study.datasets.arrays_unit import ArraysUnit, Batch
from puzzle_study.datasets.catalogue import DATASETS, DatasetInfo
from puzzle_study.datasets.records import Bytes, hexdigest, reading
from puzzle_study.errors import UserError

PARTS = {"train": "train", "t10k": "test"}
DIMENSIONS = {"images": 3, "labels": 1}
"""Of the two kinds of file; an IDX file of bytes starts with 0, 0, 8 and the dimensions."""
MAX_BYTES = 1 << 30
"""More than any set in this format has; a larger header is damaged, or a trap."""


def find(folder: Path, info: DatasetInfo) -> dict[str, ArraysUnit] | None:
    """Return the set in ``folder``, or None if all of its files are missing."""
    wanted = [(part, kind) for part in PARTS for kind in DIMENSIONS]
    found = [_present(folder, *each) for each in wanted]
    if not any(found):
        return None
    for each, path in zip(wanted, found, strict=True):
        if path is None:
            raise UserError(f"{folder / _spellings(*each)[0]} is missing; fetch the set again")
    paths = [path for path in found if path]
    _refuse_others(info, paths)
    batches = tuple(
        Batch(name, part, labels, partial(_read_part, images, labels))
        for (name, part), images, labels in zip(PARTS.items(), paths[::2], paths[1::2], strict=True)
    )
    return {"": ArraysUnit(folder, tuple(path.name for path in paths), info.classes or (), batches)}


def _read_part(images: Path, labels: Path) -> tuple[Bytes, Bytes]:
    images_NHW, label_N = read_idx(images, dimensions=3), read_idx(labels, dimensions=1)
    if len(label_N) != len(images_NHW):
        raise UserError(
            f"{labels} has {len(label_N):,} labels for the {len(images_NHW):,} images of {images.name}; fetch the set "
            f"again"
        )
    return images_NHW[..., None], label_N


def _refuse_others(info: DatasetInfo, paths: list[Path]) -> None:
    """Refuse a file whose published checksum belongs to another set with the same file names."""
    for other in map(DATASETS.__getitem__, info.alike):
        for path in paths:
            if hexdigest(path, "md5") in other.checksums.values():
                raise UserError(
                    f"{path} is the file of {other.title}, not of {info.title}; set data.root to the folder of "
                    f"{info.title}, or write {other.name} for {info.name}"
                )


def _spellings(part: str, kind: str) -> list[str]:
    """Names of one file on different mirrors: with dash or dot, gzipped or not."""
    stems = [f"{part}-{kind}{separator}idx{DIMENSIONS[kind]}-ubyte" for separator in "-."]
    return [stem + suffix for stem in stems for suffix in (".gz", "")]


def _present(folder: Path, part: str, kind: str) -> Path | None:
    return next((folder / name for name in _spellings(part, kind) if (folder / name).is_file()), None)


def read_idx(path: Path, *, dimensions: int) -> Bytes:
    """Read a file of unsigned bytes with this many dimensions."""
    with reading(path):
        try:
            with path.open("rb") as raw:
                zipped = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                # GzipFile reads like any binary file, but its stub is a separate class.
                return _parse(cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if zipped else raw, path, dimensions)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path} is damaged or truncated ({error}); fetch the set again") from None


def _parse(file: IO[bytes], path: Path, dimensions: int) -> Bytes:
    head = file.read(4 + 4 * dimensions)
    magic = bytes([0, 0, 8, dimensions])
    if head[:4] != magic:
        raise UserError(
            f"{path} starts with {head[:4].hex() or 'nothing'}, but an IDX file of this kind starts with "
            f"{magic.hex()}; put the original file there"
        )
    if len(head) < 4 + 4 * dimensions:
        raise UserError(f"{path} is truncated: its header is incomplete; fetch the set again")
    shape = struct.unpack(f">{dimensions}I", head[4:])
    expected = math.prod(shape)  # Python integers: a damaged header may overflow NumPy's
    if not 0 < expected <= MAX_BYTES:
        raise UserError(f"{path} claims the impossible shape {'×'.join(map(str, shape))}; fetch the set again")
    # One byte more than wanted shows surplus data, and makes gzip verify its checksum at the end.
    body = file.read(expected + 1)
    if len(body) < expected:
        raise UserError(f"{path} is truncated: {len(body):,} of {expected:,} bytes of data; fetch the set again")
    if len(body) > expected:
        raise UserError(f"{path} has more data than the {shape[0]:,} items its header counts; fetch the set again")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)
