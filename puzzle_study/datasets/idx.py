"""MNIST and Fashion-MNIST in the IDX format of their authors, gzipped or not."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np

from puzzle_study.datasets.catalogue import DATASETS, DatasetInfo
from puzzle_study.datasets.images import resize_all
from puzzle_study.datasets.records import Bytes, Decoded, Inspection, Sizing, attempt, groups_of, md5, reading
from puzzle_study.errors import UserError

PARTS = ("train", "t10k")
KINDS = {"images": 3, "labels": 1}
"""Dimensions of the two kinds of file; an IDX file of bytes starts with 0, 0, 8, dimensions."""
MAX_BYTES = 1 << 30
"""More than any set in this format: beyond it a header is damaged, or a trap."""


@dataclass(frozen=True)
class IdxUnit:
    """The four files of a set; ``files`` are images and labels of training, then of test."""

    base: Path
    files: tuple[str, ...]
    classes: tuple[str, ...]
    name: str = ""
    origin: str = ""

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.base)

    def decode(self, sizing: Sizing, digests: Mapping[str, str]) -> Decoded:
        """Read both parts; image 17 of the test part is ``t10k/00017``."""
        images, labels, names, parts = [], [], [], []
        for part in PARTS:
            images_NHW, label_N = self._read(part)
            images.append(images_NHW)
            labels.append(label_N)
            names += [f"{part}/{number:05d}" for number in range(len(label_N))]
            parts += ["test" if part == "t10k" else "train"] * len(label_N)
        if images[0].shape[1:] != images[1].shape[1:]:
            raise UserError(
                f"{self.base / self.files[2]} holds images of another size than {self.files[0]}; fetch the set again"
            )
        images_NHWC = np.concatenate(images)[..., None]
        return Decoded(
            images_NCHW=resize_all(images_NHWC, sizing),
            names=tuple(names),
            classes=tuple(self.classes[label] for label in np.concatenate(labels)),
            parts=tuple(parts),
            groups=groups_of([image.tobytes() for image in images_NHWC]),
        )

    def inspect(self) -> Inspection:
        """Read all four files."""
        read = {part: attempt(partial(self._read, part)) for part in PARTS}
        return Inspection(
            counts={
                "test" if part == "t10k" else part: 0 if isinstance(result, UserError) else len(result[1])
                for part, result in read.items()
            },
            damaged=tuple(str(result) for result in read.values() if isinstance(result, UserError)),
        )

    def _read(self, part: str) -> tuple[Bytes, Bytes]:
        """Return images [N, H, W] and labels [N] of one part."""
        start = 2 * PARTS.index(part)
        images_path, labels_path = (self.base / name for name in self.files[start : start + 2])
        images_NHW, label_N = read_idx(images_path, dimensions=3), read_idx(labels_path, dimensions=1)
        _check_labels(label_N, len(images_NHW), len(self.classes), labels_path, images_path)
        return images_NHW, label_N


def find(folder: Path, info: DatasetInfo) -> dict[str, IdxUnit] | None:
    """Return the set in ``folder``, or None where none of its files is there.

    Raises:
        UserError: some of the four files are there, others are not, or one is of another set.
    """
    wanted = [(part, kind) for part in PARTS for kind in KINDS]
    found = [_present(folder, part, kind) for part, kind in wanted]
    if not any(found):
        return None
    for (part, kind), name in zip(wanted, found, strict=True):
        if name is None:
            raise UserError(f"{folder / spellings(part, kind)[0]} is missing; fetch the set again")
    unit = IdxUnit(base=folder, files=tuple(name for name in found if name), classes=info.classes or ())
    _refuse_others(info, unit)
    return {"": unit}


def _refuse_others(info: DatasetInfo, unit: IdxUnit) -> None:
    """Refuse a file that is, by its published checksum, one of a set whose files have the same names."""
    for other in map(DATASETS.__getitem__, info.alike):
        for file in unit.files:
            if md5(unit.base / file) in other.checksums.values():
                raise UserError(
                    f"{unit.base / file} is the file of {other.title}, not of {info.title}; name the folder of "
                    f"{info.title} in data.root, or write {other.name} for {info.name}"
                )


def spellings(part: str, kind: str) -> tuple[str, ...]:
    """Names under which mirrors keep one file: with dash or dot, gzipped or not."""
    stems = [f"{part}-{kind}{separator}idx{KINDS[kind]}-ubyte" for separator in "-."]
    return tuple(stem + suffix for stem in stems for suffix in (".gz", ""))


def read_idx(path: Path, *, dimensions: int) -> Bytes:
    """Read a file of unsigned bytes with so many dimensions.

    Raises:
        UserError: missing, unreadable, no IDX file of this kind, truncated, or longer than it says.
    """
    with reading(path):
        try:
            with path.open("rb") as raw:
                zipped = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                # GzipFile reads like any binary file; its stub is a class of its own.
                return _parse(cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if zipped else raw, path, dimensions)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path} is damaged or truncated ({error}); fetch the set again") from None


def _parse(file: IO[bytes], path: Path, dimensions: int) -> Bytes:
    head = file.read(4 + 4 * dimensions)
    magic = bytes([0, 0, 8, dimensions])
    if head[:4] != magic:
        raise UserError(
            f"{path} starts with {head[:4].hex() or 'nothing'} where an IDX file of this kind starts with "
            f"{magic.hex()}; put the original file there"
        )
    if len(head) < 4 + 4 * dimensions:
        raise UserError(f"{path} is truncated: its header is incomplete; fetch the set again")
    shape = struct.unpack(f">{dimensions}I", head[4:])
    # Python's whole numbers, because a damaged header may overflow NumPy's.
    expected = 1
    for side in shape:
        expected *= side
    if not 0 < expected <= MAX_BYTES:
        raise UserError(f"{path} claims the impossible shape {'×'.join(map(str, shape))}; fetch the set again")
    # One byte more than wanted: it shows surplus, and takes gzip to the checksum at its end.
    body = file.read(expected + 1)
    if len(body) < expected:
        raise UserError(f"{path} is truncated: {len(body):,} of {expected:,} bytes of data; fetch the set again")
    if len(body) > expected:
        raise UserError(f"{path} holds more data than the {shape[0]:,} items its header counts; fetch the set again")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _check_labels(label_N: Bytes, images: int, classes: int, labels_path: Path, images_path: Path) -> None:
    if len(label_N) != images:
        raise UserError(f"{labels_path} has {len(label_N):,} labels for the {images:,} images of {images_path.name}")
    if label_N.max() >= classes:
        raise UserError(f"{labels_path} holds the label {label_N.max()}, beyond the {classes} classes of the set")


def _present(folder: Path, part: str, kind: str) -> str | None:
    return next((name for name in spellings(part, kind) if (folder / name).is_file()), None)
