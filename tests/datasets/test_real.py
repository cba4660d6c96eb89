"""The sets as they are downloaded; skipped where the machine does not have them."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
import torch

from puzzle_study.datasets import DATASETS, fingerprint, load_task, task_specs
from puzzle_study.errors import UserError

from .conftest import said, section


def test_mnist(real: Path) -> None:
    data = section("mnist", root=str(real))
    specs = task_specs(data)
    assert [spec.normal_class for spec in specs] == list("0123456789")
    task = load_task(data, specs[8])
    # 5,851 training images of an eight, 974 test images.
    assert (len(task.train), len(task.validation)) == (5851 - 878, 878)
    assert task.test.shape == (10_000, 1, 28, 28)
    assert int((~task.labels).sum()) == 974
    assert (task.test_classes[0], task.test_names[0]) == ("7", "t10k/00000")
    assert fingerprint(data) == fingerprint(data)
    few = load_task(data.model_copy(update={"max_test_images": 500}), specs[8])
    assert (len(few.test), few.test_classes.count("8")) == (500, 49)


def test_the_checksums_of_the_catalogue_are_those_of_mnist(real: Path) -> None:
    checksums = DATASETS["mnist"].checksums
    assert len(checksums) == 8
    for path in (real / "mnist").glob("*.gz"):
        assert hashlib.md5(path.read_bytes()).hexdigest() == checksums[path.name]
        assert hashlib.md5(gzip.decompress(path.read_bytes())).hexdigest() == checksums[path.stem]


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_is_not_taken_for_fashion_mnist(real: Path, tmp_path: Path, zipped: bool) -> None:
    for path in (real / "mnist").glob("*.gz"):
        content = path.read_bytes()
        (tmp_path / (path.name if zipped else path.stem)).write_bytes(content if zipped else gzip.decompress(content))
    data = section("fashion_mnist", root=str(tmp_path), normal_classes=[3])
    with pytest.raises(UserError, match="is the file of MNIST, not of Fashion-MNIST"):
        fingerprint(data)
    assert fingerprint(data.model_copy(update={"name": "mnist"}))


def test_cifar(real_cifar: Path) -> None:
    data = section("cifar10", root=str(real_cifar), normal_classes=["cat"])
    task = load_task(data, task_specs(data)[0])
    assert len(task.train) + len(task.validation) == 100
    assert task.test.shape == (200, 3, 32, 32)
    assert int((~task.labels).sum()) == 20


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_brain_mri(real: Path, seed: int) -> None:
    data = section("brain_mri", root=str(real), split_seed=seed, size=64)
    task = load_task(data, task_specs(data)[0])
    assert len(task.train) + len(task.validation) == 88
    assert (int(task.labels.sum()), len(task.labels)) == (155, 165)
    parts = [
        {image.numpy().tobytes() for image in images}
        for images in (task.train, task.validation, task.test[~task.labels])
    ]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]


@pytest.mark.slow
def test_magnetic_tile(real: Path) -> None:
    data = section("mvtec", root=str(real), augment_to=800)
    (spec,) = task_specs(data)
    assert spec.normal_class == "magnetic_tile"
    task = load_task(data, spec)
    assert (task.train.shape, len(task.validation)) == ((800, 3, 128, 128), 60)
    assert (int(task.labels.sum()), len(task.labels)) == (392, 512)
    own = section("folder", root=str(real / "mvtec" / "magnetic_tile"))
    assert torch.equal(load_task(own, task_specs(own)[0]).test, task.test)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "brain_mri", "mvtec"])
def test_the_check_finds_nothing_wrong(real: Path, name: str) -> None:
    output = said("check", name, "--root", real)
    assert "every file can be read" in output
    assert name == "mvtec" or "the whole set has" not in output
    assert "not byte for byte" not in output
