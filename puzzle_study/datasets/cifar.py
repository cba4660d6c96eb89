"""CIFAR-10 in both of its authors' layouts: Python batches (pickles, never executed) and binary batches."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from puzzle_study.datasets.arrays_unit import ArraysUnit, Batch
from puzzle_study.datasets.catalogue import DatasetInfo
from puzzle_study.datasets.plain_pickle import read_pickle
from puzzle_study.datasets.records import Bytes, reading
from puzzle_study.errors import UserError

BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
FOLDERS = {"cifar-10-batches-py": "", "cifar-10-batches-bin": ".bin"}
PIXELS = 3 * 32 * 32
MAX_BYTES = 100 << 20
"""A batch has 31 MB; a larger file is something else."""


def find(folder: Path, info: DatasetInfo) -> dict[str, ArraysUnit] | None:
    """Return the set in ``folder`` (or its cifar-10-batches-* folder), or None if it has no batch."""
    layouts = [*((folder / name, suffix) for name, suffix in FOLDERS.items()), (folder, ""), (folder, ".bin")]
    for base, suffix in layouts:
        files = tuple(batch + suffix for batch in BATCHES)
        there = [(base / file).is_file() for file in files]
        if any(there):
            if not all(there):
                raise UserError(f"{base / files[there.index(False)]} is missing; fetch the set again")
            batches = tuple(
                Batch(name, "test" if name == "test_batch" else "train", base / file, partial(_read, base / file))
                for name, file in zip(BATCHES, files, strict=True)
            )
            return {"": ArraysUnit(base, files, info.classes or (), batches)}
    return None


def _read(path: Path) -> tuple[Bytes, Bytes]:
    """Return images [N, H, W, C] and labels [N]."""
    pixels_NP, label_N = (read_binary_batch if path.suffix == ".bin" else read_python_batch)(path)
    return pixels_NP.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), label_N


def read_python_batch(path: Path) -> tuple[Bytes, Bytes]:
    """Read a batch of the Python version: pixels, uint8 [N, 3072], and labels, uint8 [N]."""
    content = read_pickle(path, MAX_BYTES)
    items = content.items() if isinstance(content, dict) else ()
    entries = {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in items}
    pixels_NP, labels = entries.get("data"), entries.get("labels")
    if not isinstance(pixels_NP, np.ndarray) or not isinstance(labels, list) or pixels_NP.ndim != 2:
        raise UserError(
            f"{path} has no `data` array with a list of `labels`, so it is not a CIFAR-10 batch; fetch the set again"
        )
    if pixels_NP.shape[1] != PIXELS or len(pixels_NP) == 0:
        raise UserError(f"{path} holds data of shape {pixels_NP.shape}; a CIFAR-10 batch has {PIXELS} bytes per image")
    if len(labels) != len(pixels_NP):
        raise UserError(f"{path} has {len(labels):,} labels for {len(pixels_NP):,} images; fetch the set again")
    if not all(isinstance(label, int) and 0 <= label < 256 for label in labels):
        raise UserError(f"{path} holds labels other than class numbers, which are 0 to 9; fetch the set again")
    return pixels_NP, np.array(labels, dtype=np.uint8)


def read_binary_batch(path: Path) -> tuple[Bytes, Bytes]:
    """Read a batch of the binary version: pixels, uint8 [N, 3072], and labels, uint8 [N]."""
    with reading(path), path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if not content or len(content) > MAX_BYTES or len(content) % (1 + PIXELS):
        raise UserError(
            f"{path} has {len(content):,} bytes, which is not a multiple of {1 + PIXELS:,}; fetch the set again"
        )
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + PIXELS)
    return rows[:, 1:], rows[:, 0]
