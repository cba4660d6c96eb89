"""The public interface, set by set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from puzzle_study import config
from puzzle_study.datasets import Task, TaskSpec, fingerprint, load_task, task_specs
from puzzle_study.errors import UserError

from .conftest import Layouts, png, section


def names(data: config.Data) -> list[str]:
    return [spec.normal_class for spec in task_specs(data)]


def only_task(**settings: Any) -> Task:
    data = section(**settings)
    return load_task(data, task_specs(data)[0])


def test_the_package_is_light() -> None:
    heavy = ("torch", "numpy", "PIL", "sklearn", "pydantic")
    code = f"import sys, puzzle_study.datasets; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


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


def test_the_split_of_digits_into_training_and_test_is_fixed() -> None:
    tasks = [only_task(name="digits", split_seed=seed) for seed in (0, 1)]
    assert tasks[0].test_names == tasks[1].test_names
    assert not torch.equal(tasks[0].validation, tasks[1].validation)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_sets(layouts: Layouts, name: str) -> None:
    layouts.mnist(name, per_class=20)
    task = only_task(name=name, root=str(layouts.root), normal_classes=[2])
    assert task.train.shape == (17, 1, 28, 28)
    assert task.validation.shape == (3, 1, 28, 28)
    assert task.test.shape == (100, 1, 28, 28)
    assert task.spec.normal_class == {"mnist": "2", "fashion_mnist": "Pullover"}[name]


def test_cifar(layouts: Layouts) -> None:
    layouts.cifar_python()
    data = section("cifar10", root=str(layouts.root), normal_classes=["truck", 0, "airplane"])
    assert names(data) == ["truck", "airplane"]
    assert load_task(data, task_specs(data)[0]).test.shape == (20, 3, 32, 32)
    gray = only_task(name="cifar10", root=str(layouts.root), grayscale=True, size=16)
    assert gray.train.shape[1:] == (1, 16, 16)


def test_coil(layouts: Layouts) -> None:
    layouts.coil(objects=[1, 2, 17])
    data = section("coil100", root=str(layouts.root), normal_classes=[1, 2, 17], repeats=4, size=16)
    specs = task_specs(data)
    assert [spec.repeat for spec in specs] == [0, 1, 2, 3]
    assert {spec.normal_class for spec in specs[:3]} == {"obj1", "obj2", "obj17"}
    task = load_task(data, specs[0])
    assert task.train.shape == (49, 3, 16, 16)
    assert task.labels.tolist().count(True) == task.labels.tolist().count(False) == 14
    missing = section("coil100", root=str(layouts.root), normal_classes=["obj99"], size=16)
    with pytest.raises(UserError, match="holds no image of class obj99; the set is incomplete"):
        load_task(missing, task_specs(missing)[0])


def test_thirty_repeats_by_default(layouts: Layouts) -> None:
    layouts.coil(objects=[1], angles=[0])
    specs = task_specs(section("coil100", root=str(layouts.root)))
    assert len({spec.normal_class for spec in specs}) == 30


def test_augmentation_never_sees_validation_images(layouts: Layouts) -> None:
    folder = layouts.categories(categories=["bottle"], train=20)
    plain = only_task(name="mvtec", root=str(layouts.root))
    task = only_task(name="mvtec", root=str(layouts.root), augment_to=80)
    assert (len(plain.train), len(task.train), len(task.validation)) == (17, 80, 3)
    assert torch.equal(task.train[:17], plain.train)
    assert torch.equal(task.validation, plain.validation)
    # Uniform images show where a copy comes from: magnified, they stay what they are.
    from PIL import Image

    for number in range(20):
        Image.new("RGB", (8, 8), (10 * number,) * 3).save(folder / "bottle" / "train" / "good" / f"{number:03d}.png")
    task = only_task(name="mvtec", root=str(layouts.root), augment_to=80)
    originals = set(task.train[:17].flatten(1).float().mean(1).tolist())
    counts = [task.train[17:].flatten(1).float().mean(1).tolist().count(value) for value in originals]
    assert sum(counts) == 63
    assert set(counts) <= {3, 4}


def test_augmented_copies_are_magnified(layouts: Layouts) -> None:
    layouts.categories(categories=["bottle"], train=3)
    task = only_task(name="mvtec", root=str(layouts.root), augment_to=40, size=32)
    copies = task.train[2:]
    assert len(np.unique(copies.numpy().reshape(len(copies), -1), axis=0)) == len(copies)
    again = only_task(name="mvtec", root=str(layouts.root), augment_to=40, size=32)
    assert torch.equal(task.train, again.train)
    assert len(only_task(name="mvtec", root=str(layouts.root), augment_to=1).train) == 2


def test_grayscale_files_become_colour(layouts: Layouts) -> None:
    folder = layouts.categories(categories=["grid"])
    for seed, path in enumerate((folder / "grid").glob("*/*/*.png")):
        png(path, seed, mode="L")
    assert only_task(name="mvtec", root=str(layouts.root)).train.shape == (8, 3, 128, 128)


def test_mvtec_classes_by_name_and_number(layouts: Layouts) -> None:
    layouts.categories(categories=["bottle", "screw", "my_part"])
    root = str(layouts.root)
    assert names(section("mvtec", root=root)) == ["bottle", "screw", "my_part"]
    assert names(section("mvtec", root=root, normal_classes=[9, "my_part"])) == ["screw", "my_part"]
    with pytest.raises(UserError, match=r"folder of category 'cable' is not there \(only bottle, my_part, screw\)"):
        task_specs(section("mvtec", root=root, normal_classes=["cable"]))
    with pytest.raises(UserError, match=r"MVTec AD has no class 'screws'; .*did you mean screw"):
        task_specs(section("mvtec", root=root, normal_classes=["screws"]))


def test_own_images(layouts: Layouts) -> None:
    folder = layouts.category(layouts.root / "screws")
    task = only_task(name="folder", root=str(folder), grayscale=True, size=32, max_test_images=6)
    assert task.train.shape == (8, 1, 32, 32)
    assert sorted(task.test_classes) == ["crack"] * 2 + ["good"] * 2 + ["hole"] * 2
    assert task.test_names[0].startswith("test/crack/0")


def test_medical_sets(layouts: Layouts) -> None:
    layouts.head_ct()
    layouts.brain_mri()
    head = only_task(name="head_ct", root=str(layouts.root))
    assert (head.train.shape[1:], len(head.train), len(head.validation)) == ((1, 128, 128), 8, 2)
    assert head.test_classes.count("hemorrhage") == 20
    brain = only_task(name="brain_mri", root=str(layouts.root))
    assert brain.train.shape[1:] == (1, 256, 256)
    assert (int(brain.labels.sum()), len(brain.labels)) == (6, 16)


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("seed", range(6))
def test_copies_never_straddle_a_split(layouts: Layouts, seed: int) -> None:
    layouts.brain_mri(normal=20, copies=8)
    task = only_task(name="brain_mri", root=str(layouts.root), split_seed=seed, validation_fraction=0.5, size=32)
    assert not rows(task.train) & rows(task.validation)
    assert not (rows(task.train) | rows(task.validation)) & rows(task.test)


def test_limits(layouts: Layouts) -> None:
    layouts.mnist(per_class=40)
    task = only_task(name="mnist", root=str(layouts.root), train_fraction=0.5, max_train_images=12, max_test_images=30)
    assert (len(task.train), len(task.validation), len(task.test)) == (10, 2, 30)
    assert sorted(task.test_classes) == sorted([*"0123456789"] * 3)
    tiny = only_task(name="mnist", root=str(layouts.root), train_fraction=0.001)
    assert (len(tiny.train), len(tiny.validation)) == (1, 1)


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
    ],
)
def test_classes_that_do_not_exist(layouts: Layouts, name: str, wanted: int | str, sentence: str) -> None:
    layouts.mnist("fashion_mnist")
    layouts.coil(objects=[1], angles=[0])
    layouts.brain_mri()
    with pytest.raises(UserError, match=sentence):
        task_specs(section(name, root=str(layouts.root), normal_classes=[wanted]))


def test_a_damaged_image_stops_the_task_with_its_name(layouts: Layouts) -> None:
    folder = layouts.categories()
    (folder / "grid" / "test" / "hole" / "002.png").write_bytes(b"\x89PNG nonsense")
    data = section("mvtec", root=str(layouts.root))
    assert len(load_task(data, TaskSpec("mvtec", "bottle")).train) > 0
    with pytest.raises(UserError, match=r"grid/test/hole/002\.png is not a readable image"):
        load_task(data, TaskSpec("mvtec", "grid"))


def test_tensors_are_the_callers_own(layouts: Layouts) -> None:
    layouts.mnist()
    data = section("mnist", root=str(layouts.root))
    first = load_task(data, TaskSpec("mnist", "0"))
    before = first.test.clone()
    first.test.zero_()
    assert torch.equal(load_task(data, TaskSpec("mnist", "0")).test, before)


def test_tasks_of_another_set_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match="the task is one of mnist, the data section is digits"):
        load_task(section("digits"), TaskSpec("mnist", "0"))


def test_fingerprint_follows_content_and_decoding(layouts: Layouts) -> None:
    folder = layouts.categories()
    root = str(layouts.root)
    first = fingerprint(section("mvtec", root=root))
    assert len(first) == 16
    assert int(first, 16) >= 0
    one = fingerprint(section("mvtec", root=root, normal_classes=["bottle"]))
    assert fingerprint(section("mvtec", root=root, size=64)) != first != one
    # What a split draws is no matter of content.
    assert fingerprint(section("mvtec", root=root, split_seed=5, train_fraction=0.5)) == first
    png(folder / "grid" / "test" / "hole" / "001.png", 77_777)
    assert fingerprint(section("mvtec", root=root)) != first
    assert fingerprint(section("mvtec", root=root, normal_classes=["bottle"])) == one


def test_fingerprint_is_the_same_gzipped_or_not(layouts: Layouts, tmp_path: Path) -> None:
    layouts.mnist()
    other = Layouts(tmp_path / "other")
    other.mnist(zipped=False)
    prints = {fingerprint(section("mnist", root=str(place.root))) for place in (layouts, other)}
    assert len(prints) == 1
