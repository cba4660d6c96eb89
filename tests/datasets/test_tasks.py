"""The public interface, set by set."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from puzzle_study import config, datasets
from puzzle_study.datasets import TaskSpec, fingerprint, load_task, task_specs
from puzzle_study.errors import UserError

from .conftest import Layouts, png, section


def names(data: config.Data) -> list[str]:
    return [spec.normal_class for spec in task_specs(data)]


def test_the_package_is_light() -> None:
    heavy = ("torch", "numpy", "PIL", "sklearn", "pydantic")
    code = f"import sys, puzzle_study.datasets; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_what_the_package_offers_is_found_in_its_modules() -> None:
    assert all(getattr(datasets, name) for name in datasets.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load_tasks'"):
        _ = datasets.load_tasks


def test_digits() -> None:
    data = section("digits")
    assert names(data) == list("0123456789")
    task = load_task(data, TaskSpec("digits", "3"))
    assert task.train.shape[1:] == (1, 16, 16)
    assert len(task.train) + len(task.validation) == 122
    assert task.test.shape == (599, 1, 16, 16)
    assert (task.train.dtype, task.labels.dtype) == (torch.uint8, torch.bool)
    assert int(task.train.max()) == 255
    assert [task.test_classes[index] == "3" for index in range(599)] == (~task.labels).tolist()
    assert len(set(task.test_names)) == 599
    other = load_task(section("digits", split_seed=1), TaskSpec("digits", "3"))
    assert task.test_names == other.test_names, "the split into training and test images is fixed"
    assert not torch.equal(task.validation, other.validation)


SETS: dict[str, tuple[Callable[[Layouts], object], str, dict[str, Any], tuple[int, int, int], tuple[int, int, int]]] = {
    "MNIST": (lambda to: to.mnist(per_class=20), "mnist", {}, (17, 3, 100), (1, 28, 28)),
    "Fashion-MNIST": (lambda to: to.mnist("fashion_mnist", 20), "fashion_mnist", {}, (17, 3, 100), (1, 28, 28)),
    "CIFAR-10": (Layouts.cifar_python, "cifar10", {}, (8, 2, 20), (3, 32, 32)),
    "gray CIFAR-10": (Layouts.cifar_binary, "cifar10", {"grayscale": True, "size": 16}, (8, 2, 20), (1, 16, 16)),
    "COIL-100": (Layouts.coil, "coil100", {"normal_classes": [1, 2, 17], "size": 16}, (49, 9, 28), (3, 16, 16)),
    "MVTec AD": (lambda to: to.categories(train=20), "mvtec", {}, (17, 3, 12), (3, 128, 128)),
    "Head CT": (Layouts.head_ct, "head_ct", {}, (8, 2, 30), (1, 128, 128)),
    "Brain MRI": (Layouts.brain_mri, "brain_mri", {}, (8, 2, 16), (1, 256, 256)),
    "own images": (
        lambda to: to.category(to.root / "screws"),
        "folder",
        {"grayscale": True, "size": 32},
        (8, 2, 12),
        (1, 32, 32),
    ),
}


@pytest.mark.parametrize("case", SETS)
def test_sizes_and_shapes(layouts: Layouts, case: str) -> None:
    write, name, settings, sizes, shape = SETS[case]
    write(layouts)
    task = layouts.task(name, **settings)
    assert (len(task.train), len(task.validation), len(task.test)) == sizes
    assert {images.shape[1:] for images in (task.train, task.validation, task.test)} == {shape}
    assert 0 < int(task.labels.sum()) < len(task.labels)


def test_coil_is_drawn_repeatedly(layouts: Layouts) -> None:
    layouts.coil(objects=[1, 2, 17])
    specs = task_specs(layouts.section("coil100", normal_classes=[1, 2, 17], repeats=4, size=16))
    assert [spec.repeat for spec in specs] == [0, 1, 2, 3]
    assert {spec.normal_class for spec in specs[:3]} == {"obj1", "obj2", "obj17"}
    assert len({spec.normal_class for spec in task_specs(layouts.section("coil100"))}) == 30
    with pytest.raises(UserError, match="has no image of class obj99; the set is incomplete"):
        layouts.task("coil100", normal_classes=["obj99"], size=16)


def test_augmentation_never_sees_validation_images(layouts: Layouts) -> None:
    folder = layouts.categories(categories=["bottle"], train=20)
    plain, task = layouts.task("mvtec"), layouts.task("mvtec", augment_to=80)
    assert (len(plain.train), len(task.train), len(task.validation)) == (17, 80, 3)
    assert torch.equal(task.train[:17], plain.train)
    assert torch.equal(task.validation, plain.validation)
    # Uniform images show where a copy comes from: magnified, they stay what they are.
    for number in range(20):
        Image.new("RGB", (8, 8), (10 * number,) * 3).save(folder / "bottle" / "train" / "good" / f"{number:03d}.png")
    task = layouts.task("mvtec", augment_to=80)
    originals = set(task.train[:17].flatten(1).float().mean(1).tolist())
    counts = [task.train[17:].flatten(1).float().mean(1).tolist().count(value) for value in originals]
    assert sum(counts) == 63
    assert set(counts) <= {3, 4}


def test_augmented_copies_are_magnified(layouts: Layouts) -> None:
    layouts.categories(categories=["bottle"], train=3)
    task = layouts.task("mvtec", augment_to=40, size=32)
    copies = task.train[2:]
    assert len(np.unique(copies.numpy().reshape(len(copies), -1), axis=0)) == len(copies)
    assert torch.equal(task.train, layouts.task("mvtec", augment_to=40, size=32).train)
    assert len(layouts.task("mvtec", augment_to=1).train) == 2


def test_grayscale_files_become_colour(layouts: Layouts) -> None:
    folder = layouts.categories(categories=["grid"])
    for seed, path in enumerate((folder / "grid").glob("*/*/*.png")):
        png(path, seed, mode="L")
    assert layouts.task("mvtec").train.shape == (8, 3, 128, 128)


def test_classes_by_name_and_number(layouts: Layouts) -> None:
    layouts.categories(categories=["bottle", "screw", "my_part"])
    assert names(layouts.section("mvtec")) == ["bottle", "screw", "my_part"]
    assert names(layouts.section("mvtec", normal_classes=[9, "my_part"])) == ["screw", "my_part"]
    assert names(layouts.section("cifar10", normal_classes=["truck", 0, "airplane"])) == ["truck", "airplane"]
    assert names(layouts.section("fashion_mnist", normal_classes=[2])) == ["Pullover"]


@pytest.mark.parametrize(
    ("name", "wanted", "sentence"),
    [
        ("digits", 10, r"has no class number 10; its numbers are 0 to 9"),
        ("digits", -1, r"has no class number -1"),
        ("digits", "nine", r"has no class 'nine'; its classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9$"),
        ("fashion_mnist", "Trousers", r"its classes are T-shirt/top, .*; did you mean Trouser\?"),
        ("coil100", 0, r"has no class number 0; its numbers are 1 to 100"),
        ("coil100", "object5", r"its classes are obj1 to obj100; did you mean obj5\?"),
        ("brain_mri", "healthy", r"has no class 'healthy'; its classes are normal"),
        ("mvtec", "cable", r"folder of category 'cable' is not there \(only bottle, grid\)"),
        ("mvtec", "screws", r"MVTec AD has no class 'screws'; .*did you mean screw"),
    ],
)
def test_classes_that_do_not_exist(layouts: Layouts, name: str, wanted: int | str, sentence: str) -> None:
    layouts.categories()
    with pytest.raises(UserError, match=sentence):
        task_specs(layouts.section(name, normal_classes=[wanted]))


def test_names_and_limits_of_own_images(layouts: Layouts) -> None:
    layouts.category(layouts.root / "screws")
    task = layouts.task("folder", size=32, max_test_images=6)
    assert sorted(task.test_classes) == ["crack"] * 2 + ["good"] * 2 + ["hole"] * 2
    assert task.test_names[0].startswith("screws/test/crack/0")


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("seed", range(6))
def test_copies_never_straddle_a_split(layouts: Layouts, seed: int) -> None:
    layouts.brain_mri(normal=20, copies=8)
    task = layouts.task("brain_mri", split_seed=seed, validation_fraction=0.5, size=32)
    assert not rows(task.train) & rows(task.validation)
    assert not (rows(task.train) | rows(task.validation)) & rows(task.test)


def test_limits(layouts: Layouts) -> None:
    layouts.mnist(per_class=40)
    task = layouts.task("mnist", train_fraction=0.5, max_train_images=12, max_test_images=30)
    assert (len(task.train), len(task.validation), len(task.test)) == (10, 2, 30)
    assert sorted(task.test_classes) == sorted([*"0123456789"] * 3)
    tiny = layouts.task("mnist", train_fraction=0.001)
    assert (len(tiny.train), len(tiny.validation)) == (1, 1)


def test_a_damaged_image_stops_the_task_with_its_name(layouts: Layouts) -> None:
    folder = layouts.categories()
    (folder / "grid" / "test" / "hole" / "002.png").write_bytes(b"\x89PNG nonsense")
    data = layouts.section("mvtec")
    assert len(load_task(data, TaskSpec("mvtec", "bottle")).train) > 0
    with pytest.raises(UserError, match=r"grid/test/hole/002\.png is not a readable image"):
        load_task(data, TaskSpec("mvtec", "grid"))


def test_tensors_are_the_callers_own(layouts: Layouts) -> None:
    layouts.mnist()
    first = layouts.task("mnist")
    before = first.test.clone()
    first.test.zero_()
    assert torch.equal(layouts.task("mnist").test, before)


def test_tasks_of_another_set_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match="the task is one of mnist, the data section is digits"):
        load_task(section("digits"), TaskSpec("mnist", "0"))


def test_fingerprint_follows_content_and_decoding(layouts: Layouts) -> None:
    folder = layouts.categories()
    first = fingerprint(layouts.section("mvtec"))
    assert len(first) == 16
    assert int(first, 16) >= 0
    one = fingerprint(layouts.section("mvtec", normal_classes=["bottle"]))
    assert fingerprint(layouts.section("mvtec", size=64)) != first != one
    # It does not follow what a split draws.
    assert fingerprint(layouts.section("mvtec", split_seed=5, train_fraction=0.5)) == first
    png(folder / "grid" / "test" / "hole" / "001.png", 77_777)
    assert fingerprint(layouts.section("mvtec")) != first
    assert fingerprint(layouts.section("mvtec", normal_classes=["bottle"])) == one


def test_fingerprint_is_the_same_gzipped_or_not(layouts: Layouts, tmp_path: Path) -> None:
    layouts.mnist()
    other = Layouts(tmp_path / "other")
    other.mnist(zipped=False)
    assert fingerprint(layouts.section("mnist")) == fingerprint(other.section("mnist"))
