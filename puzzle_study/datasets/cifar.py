"""CIFAR-10 in both of its authors' layouts: Python batches (pickles, never executed) and binary batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from puzzle_study.datasets.catalogue import DatasetInfo
from puzzle_study.datasets.images import resize_all
from puzzle_study.datasets.plain_pickle import read_pickle
from puzzle_study.datasets.records import Bytes, Decoded, Inspection, Sizing, attempt, groups_of, reading
from puzzle_study.errors import UserError

BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
FOLDERS = {"cifar-10-batches-py": "", "cifar-10-batches-bin": ".bin"}
PIXELS = 3 * 32 * 32
MAX_BYTES = 100 << 20
"""A batch has 31 MB; beyond this a file is something else."""


@dataclass(frozen=True)
class CifarUnit:
    """The six batches in ``base``, all of one layout."""

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
        """Read all batches; image 17 of the first is ``data_batch_1/00017`` in either layout."""
        images, labels, names, parts = [], [], [], []
        for batch, file in zip(BATCHES, self.files, strict=True):
            pixels_NP, label_N = self._read(file)
            images.append(pixels_NP)
            labels.append(label_N)
            names += [f"{batch}/{number:05d}" for number in range(len(label_N))]
            parts += ["test" if batch == "test_batch" else "train"] * len(label_N)
        images_NHWC = np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Decoded(
            images_NCHW=resize_all(images_NHWC, sizing),
            names=tuple(names),
            classes=tuple(self.classes[label] for label in np.concatenate(labels)),
            parts=tuple(parts),
            groups=groups_of([pixels.tobytes() for batch in images for pixels in batch]),
        )

    def inspect(self) -> Inspection:
        """Read all six batches."""
        read = [attempt(partial(self._read, file)) for file in self.files]
        counts = Counter({"train": 0, "test": 0})
        for batch, result in zip(BATCHES, read, strict=True):
            if not isinstance(result, UserError):
                counts["test" if batch == "test_batch" else "train"] += len(result[1])
        return Inspection(counts=counts, damaged=tuple(str(result) for result in read if isinstance(result, UserError)))

    def _read(self, file: str) -> tuple[Bytes, Bytes]:
        """Return pixels [N, 3072] and labels [N] of one batch."""
        read = read_binary_batch if file.endswith(".bin") else read_python_batch
        pixels_NP, label_N = read(self.base / file)
        if label_N.max() >= len(self.classes):
            raise UserError(f"{self.base / file} holds the label {label_N.max()}; CIFAR-10 has 0 to 9")
        return pixels_NP, label_N


def find(folder: Path, info: DatasetInfo) -> dict[str, CifarUnit] | None:
    """Return the set in ``folder`` (or its cifar-10-batches-* folder), or None where no batch is there.

    Raises:
        UserError: some batches are there, others are not.
    """
    layouts = [*((folder / name, suffix) for name, suffix in FOLDERS.items()), (folder, ""), (folder, ".bin")]
    for base, suffix in layouts:
        files = tuple(batch + suffix for batch in BATCHES)
        there = [(base / file).is_file() for file in files]
        if any(there):
            if not all(there):
                raise UserError(f"{base / files[there.index(False)]} is missing; fetch the set again")
            return {"": CifarUnit(base=base, files=files, classes=info.classes or ())}
    return None


def read_python_batch(path: Path) -> tuple[Bytes, Bytes]:
    """Read pixels, uint8 [N, 3072], and labels, uint8 [N], of a batch of the Python version.

    Raises:
        UserError: missing, unreadable, truncated, no CIFAR-10 batch, or a pickle that holds anything else.
    """
    content = read_pickle(path, MAX_BYTES)
    entries = {_text(key): value for key, value in content.items()} if isinstance(content, dict) else {}
    pixels_NP, labels = entries.get("data"), entries.get("labels")
    if not isinstance(pixels_NP, np.ndarray) or not isinstance(labels, list) or pixels_NP.ndim != 2:
        raise UserError(f"{path} has no `data` array with a list of `labels`, so it is no CIFAR-10 batch")
    if pixels_NP.shape[1] != PIXELS or len(pixels_NP) == 0:
        raise UserError(f"{path} holds data of shape {pixels_NP.shape}; a CIFAR-10 batch has {PIXELS} bytes an image")
    if len(labels) != len(pixels_NP):
        raise UserError(f"{path} has {len(labels):,} labels for {len(pixels_NP):,} images; fetch the set again")
    if not all(isinstance(label, int) and 0 <= label < 256 for label in labels):
        raise UserError(f"{path} holds labels that are no class numbers; CIFAR-10 has 0 to 9")
    return pixels_NP, np.array(labels, dtype=np.uint8)


def read_binary_batch(path: Path) -> tuple[Bytes, Bytes]:
    """Read pixels, uint8 [N, 3072], and labels, uint8 [N], of a batch of the binary version.

    Raises:
        UserError: missing, unreadable, or its length is no whole number of images.
    """
    with reading(path), path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if not content or len(content) > MAX_BYTES or len(content) % (1 + PIXELS):
        raise UserError(f"{path} has {len(content):,} bytes, no multiple of {1 + PIXELS:,}; fetch the set again")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + PIXELS)
    return rows[:, 1:], rows[:, 0]


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)
