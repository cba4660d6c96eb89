"""MNIST's format: what is read, and what each damage is called."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from puzzle_study.datasets import DATASETS, idx
from puzzle_study.datasets.arrays_unit import ArraysUnit
from puzzle_study.datasets.records import Bytes, Sizing
from puzzle_study.errors import UserError

from .conftest import Layouts, idx_bytes, pixels

SIZING = Sizing(size=28, channels=1)


def found(folder: Path) -> ArraysUnit:
    units = idx.find(folder, DATASETS["mnist"])
    assert units is not None
    return units[""]


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_images_labels_and_names(layouts: Layouts, zipped: bool) -> None:
    decoded = found(layouts.mnist(zipped=zipped)).decode(SIZING, {})
    assert decoded.images_NCHW.shape == (90, 1, 28, 28)
    assert np.array_equal(decoded.images_NCHW[:60, 0], pixels(0, 60, 28, 28))
    assert np.array_equal(decoded.images_NCHW[60:, 0], pixels(1, 30, 28, 28))
    assert (decoded.names[0], decoded.names[60], decoded.names[-1]) == ("train/00000", "t10k/00000", "t10k/00029")
    assert (decoded.classes[0], decoded.classes[59]) == ("0", "9")
    assert decoded.parts == ("train",) * 60 + ("test",) * 30


def test_dots_in_the_names_are_understood(layouts: Layouts) -> None:
    folder = layouts.mnist(zipped=False)
    (folder / "train-images-idx3-ubyte").rename(folder / "train-images.idx3-ubyte")
    assert "train-images.idx3-ubyte" in found(folder).files


def test_one_of_four_files_missing(layouts: Layouts) -> None:
    folder = layouts.mnist()
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz is missing; fetch the set again"):
        idx.find(folder, DATASETS["mnist"])


def test_nothing_there_is_no_error(tmp_path: Path) -> None:
    assert idx.find(tmp_path, DATASETS["mnist"]) is None


GOOD = idx_bytes(pixels(0, 5, 4, 4))
DAMAGE = {
    "empty": (b"", "starts with nothing, but"),
    "no IDX": (b"hello world, hello", "starts with 68656c6c, but .* starts with 00000803"),
    "labels for images": (idx_bytes(pixels(0, 5)), "starts with 00000801"),
    "half a header": (GOOD[:9], "header is incomplete"),
    "truncated": (GOOD[:-3], r"is truncated: 77 of 80 bytes"),
    "surplus": (GOOD + b"x", "has more data than the 5 items its header counts"),
    "no items": (idx_bytes(pixels(0, 0, 4, 4)), "impossible shape 0×4×4"),
    "too many items": (struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 28, 28), "impossible shape 4294967295×28×28"),
    "truncated gzip": (gzip.compress(GOOD)[:-9], "damaged or truncated"),
    "gzip with a wrong checksum": (gzip.compress(GOOD)[:-8] + b"\0" * 8, "damaged or truncated"),
    "gzip with broken data": (gzip.compress(idx_bytes(pixels(0, 9, 40, 40)))[:5000] + b"\xff" * 5000, "damaged or"),
    "gzip bomb": (gzip.compress(GOOD + bytes(10**7)), "has more data than"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    content, sentence = DAMAGE[damage]
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        idx.read_idx(path, dimensions=3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "array", "sentence"),
    [
        ("train-labels-idx1", np.zeros(59, dtype=np.uint8), "has 59 labels for the 60 images of train-images"),
        ("train-labels-idx1", np.full(60, 10, dtype=np.uint8), "train-labels.* holds the label 10, but the set's 10"),
        ("t10k-images-idx3", pixels(0, 30, 8, 8), "t10k has images of another size than train"),
    ],
)
def test_files_that_do_not_fit_together(layouts: Layouts, file: str, array: Bytes, sentence: str) -> None:
    folder = layouts.mnist()
    (folder / f"{file}-ubyte.gz").write_bytes(idx_bytes(array))
    with pytest.raises(UserError, match=sentence):
        found(folder).decode(SIZING, {})
    assert found(folder).inspect().counts == {"train": 0 if "train" in file else 60, "test": 30}


def test_without_read_permission(layouts: Layouts, refuse: Callable[..., None]) -> None:
    folder = layouts.mnist()
    refuse("open")
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz cannot be read by this user; give read perm"):
        idx.read_idx(folder / "train-images-idx3-ubyte.gz", dimensions=3)
