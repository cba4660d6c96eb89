"""Small sets in the original layouts, written on the spot, and the real ones where the machine has them."""

from __future__ import annotations

import gzip
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from puzzle_study import config
from puzzle_study import data as command
from puzzle_study.datasets import Task, load_task, task_specs
from puzzle_study.datasets.records import Bytes

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests share, so that real sets are decoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUZZLE_STUDY_CACHE", str(session_cache))


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    folder = tmp_path / "fresh-cache"
    monkeypatch.setenv("PUZZLE_STUDY_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with MNIST, Brain MRI and a set in MVTec AD's layout, as downloaded."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real images, which are not at {SHARED}")
    folder = tmp_path_factory.mktemp("real")
    shutil.copytree(SHARED / "mnist", folder / "mnist")
    for archive, name in (("brain_mri/brain_mri.tar", "brain_mri"), ("mvtec_like/magnetic_tile.tar", "mvtec")):
        with tarfile.open(SHARED / archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in every Python 3.10 and 3.11
            tar.extractall(folder / name)
    return folder


@pytest.fixture(scope="session")
def real_cifar() -> Path:
    """CIFAR-10 in the official layout, 200 images a batch."""
    folder = SHARED / "cifar10" / "cifar-10-batches-py-200"
    if not folder.is_dir():
        pytest.skip(f"needs real images, which are not at {folder}")
    return folder


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets methods of paths fail, as if the user had no permission."""

    def fail(*arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    def refuse(*methods: str) -> None:
        for method in methods:
            monkeypatch.setattr(Path, method, fail)

    return refuse


def said(*arguments: object, code: int = 0) -> str:
    """What ``python -m puzzle_study.data`` prints when it ends with an exit code."""
    result = CliRunner().invoke(command.main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def section(name: str, **settings: Any) -> config.Data:
    """The data section of a study file."""
    return config.Data.model_validate({"name": name, **settings})


def pixels(seed: int, *shape: int) -> Bytes:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx_bytes(array: Bytes) -> bytes:
    """An array in the IDX format."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def png(path: Path, seed: int = 0, size: tuple[int, int] = (20, 16), mode: str = "RGB") -> None:
    """Write a random picture; its format follows the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    Image.fromarray(pixels(seed, height, width, 3)).convert(mode).save(path)


@dataclass(frozen=True)
class Layouts:
    """Writes small sets below ``root``, in a folder named like the set."""

    root: Path

    def section(self, name: str, **settings: Any) -> config.Data:
        """The data section that leads to a set here."""
        return section(name, root=str(self.root), **settings)

    def task(self, name: str, **settings: Any) -> Task:
        """The first task of a set here."""
        data = self.section(name, **settings)
        return load_task(data, task_specs(data)[0])

    def mnist(self, name: str = "mnist", per_class: int = 6, zipped: bool = True) -> Path:
        """Ten classes, so many images of each in training and half of them in the test."""
        folder = self.root / name
        folder.mkdir(parents=True)
        for seed, (part, count) in enumerate((("train", per_class), ("t10k", per_class // 2))):
            labels = np.repeat(np.arange(10, dtype=np.uint8), count)
            files = {"images-idx3": pixels(seed, len(labels), 28, 28), "labels-idx1": labels}
            for kind, array in files.items():
                content = gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array)
                (folder / f"{part}-{kind}-ubyte{'.gz' if zipped else ''}").write_bytes(content)
        return folder

    def cifar_arrays(self, per_batch: int = 20) -> Iterator[tuple[str, Bytes, list[int]]]:
        """Six batches of pixels [N, 3072] and labels."""
        names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
        for seed, name in enumerate(names):
            yield name, pixels(seed, per_batch, 3072), [number % 10 for number in range(per_batch)]

    def cifar_python(self, protocol: int = 2) -> Path:
        """The Python version, as Python 3 writes it."""
        folder = self.root / "cifar10" / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        for name, data, labels in self.cifar_arrays():
            (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": labels}, protocol))
        return folder

    def cifar_binary(self) -> Path:
        """The binary version of the same images."""
        folder = self.root / "cifar10" / "cifar-10-batches-bin"
        folder.mkdir(parents=True)
        for name, data, labels in self.cifar_arrays():
            rows = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], data], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        return folder

    def categories(
        self, name: str = "mvtec", categories: Sequence[str] = ("bottle", "grid"), train: int = 10, test: int = 4
    ) -> Path:
        """MVTec AD's layout: training images, so many test images good and of either of two defects."""
        folder = self.root / name
        for seed, category in enumerate(categories):
            self.category(folder / category, 1000 * seed, train, test)
        return folder

    def category(self, folder: Path, seed: int = 0, train: int = 10, test: int = 4) -> Path:
        """One category."""
        for offset, place, count in ((0, "train/good", train), *((100, f"test/{kind}", test) for kind in KINDS)):
            for number in range(count):
                png(folder / place / f"{number:03d}.png", seed + offset + len(place) * 100 + number)
        for kind in KINDS[1:]:
            for number in range(test):
                png(folder / "ground_truth" / kind / f"{number:03d}_mask.png", mode="L")
        return folder

    def coil(self, objects: Sequence[int] = (1, 2, 17), angles: Sequence[int] = range(0, 360, 5)) -> Path:
        """COIL-100 with some of its objects."""
        folder = self.root / "coil100" / "coil-100"
        for number in objects:
            for angle in angles:
                png(folder / f"obj{number}__{angle}.png", number * 1000 + angle, (16, 16))
        return folder

    def head_ct(self, count: int = 40) -> Path:
        """Half of the images have a hemorrhage; RGB and RGBA take turns."""
        folder = self.root / "head_ct"
        for number in range(count):
            png(folder / "head_ct" / f"{number:03d}.png", number, mode="RGBA" if number % 2 else "RGB")
        lines = [f"{number}, {int(number < count // 2)}" for number in range(count)]
        (folder / "labels.csv").write_text("\n".join(["id, hemorrhage", *lines, ""]))
        return folder

    def brain_mri(self, normal: int = 20, tumor: int = 6, copies: int = 4) -> Path:
        """The last normal images are byte-identical copies of the first."""
        folder = self.root / "brain_mri"
        for number in range(normal - copies):
            png(folder / "no" / f"{number} no.jpg", number)
        for number in range(copies):
            original = (folder / "no" / f"{number} no.jpg").read_bytes()
            (folder / "no" / f"no {number}.jpeg").write_bytes(original)
        for number in range(tumor):
            png(folder / "yes" / f"Y{number}.JPG", 500 + number, mode="L")
        return folder


KINDS = ("good", "crack", "hole")


@pytest.fixture
def layouts(tmp_path: Path) -> Layouts:
    """Writer of small sets below ``tmp_path / "data"``."""
    return Layouts(tmp_path / "data")
