"""Trees of image files: which layouts are understood, and what is said about those that are not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from puzzle_study.datasets import DATASETS, finding
from puzzle_study.datasets.files_unit import FilesUnit
from puzzle_study.datasets.records import Sizing
from puzzle_study.errors import UserError

from .conftest import SHARED, Layouts, png


def unit(name: str, root: Path, category: str = "") -> FilesUnit:
    result = finding.units(name, str(root))[category]
    assert isinstance(result, FilesUnit)
    return result


def test_categories_below_the_root(layouts: Layouts) -> None:
    layouts.categories()
    assert list(finding.units("mvtec", str(layouts.root))) == ["bottle", "grid"]
    bottle = unit("mvtec", layouts.root, "bottle")
    assert Counter((image.part, image.class_name) for image in bottle.images) == {
        ("train", "good"): 10,
        ("test", "good"): 4,
        ("test", "crack"): 4,
        ("test", "hole"): 4,
    }
    assert bottle.files[0] == "bottle/train/good/000.png"
    assert len(bottle.masks()) == 8


@pytest.fixture
def screws(layouts: Layouts) -> Path:
    """A category that is the user's own."""
    return layouts.category(layouts.root / "screws")


def test_a_category_as_root(screws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unit("folder", screws, "screws").files[0] == "train/good/000.png"
    monkeypatch.chdir(screws)
    assert list(finding.units("folder", ".")) == ["screws"]


def test_other_files_are_passed_over(screws: Path) -> None:
    for name in ("notes.txt", ".DS_Store", "._001.png"):
        (screws / "train" / "good" / name).write_text("no image")
    png(screws / "train" / "good" / "PHOTO.JPG")
    assert len(unit("folder", screws, "screws").images) == 23


def test_empty_class(screws: Path) -> None:
    (screws / "test" / "bent").mkdir()
    with pytest.raises(UserError, match=r"screws/test/bent has no images; put PNG or JPEG files there, or remove"):
        _ = unit("folder", screws, "screws").images


@pytest.mark.parametrize(
    ("keep", "sentence"),
    [("good", r"screws/test lacks a folder for a defect"), ("crack", r"screws/test lacks the folder good")],
)
def test_a_published_set_needs_both_kinds_and_a_folder_of_ones_own_does_not(
    screws: Path, keep: str, sentence: str
) -> None:
    for place in (screws / "test").iterdir():
        if place.name != keep:
            place.rename(screws / place.name)
    with pytest.raises(UserError, match=sentence):
        _ = unit("mvtec", screws, "screws").images
    images = unit("folder", screws, "screws").images
    assert {(image.part, image.class_name) for image in images} == {("train", "good"), ("test", keep)}


def test_defects_among_training_images(screws: Path) -> None:
    png(screws / "train" / "scratch" / "0.png")
    with pytest.raises(UserError, match=r"train/scratch: training images must all be normal; move .* to train/good"):
        _ = unit("folder", screws, "screws").images


def test_missing_folders(screws: Path) -> None:
    (screws / "test").rename(screws / "tests")
    with pytest.raises(UserError, match=r"screws/test is missing"):
        _ = unit("mvtec", screws, "screws").images
    assert {image.part for image in unit("folder", screws, "screws").images} == {"train"}
    with pytest.raises(UserError, match=r"data\.root .*nowhere: no such folder; put normal images into train/good"):
        finding.units("folder", str(screws.parent / "nowhere"))


def test_coil_in_the_order_of_objects_and_angles(layouts: Layouts) -> None:
    layouts.coil(objects=[10, 2], angles=[100, 5, 0])
    coil = unit("coil100", layouts.root)
    assert [image.name for image in coil.images] == [
        f"obj{number}__{angle}.png" for number in (2, 10) for angle in (0, 5, 100)
    ]
    assert [image.class_name for image in coil.images] == ["obj2"] * 3 + ["obj10"] * 3
    assert len(coil.missing) == 2 * 69
    assert "obj10__95.png" in coil.missing


def test_the_names_of_the_real_coil(tmp_path: Path) -> None:
    manifest = SHARED / "coil100" / "coil-100.manifest.tsv"
    if not manifest.is_file():
        pytest.skip(f"needs the list of COIL-100's files, which is not at {manifest}")
    names = [line.split("\t")[0] for line in manifest.read_text().splitlines()]
    names = [Path(name).name for name in names if name.endswith(".png")]
    for name in names:
        (tmp_path / name).touch()
    coil = unit("coil100", tmp_path)
    assert len(coil.images) == 7200
    assert coil.missing == ()
    assert Counter(image.class_name for image in coil.images) == {f"obj{number}": 72 for number in range(1, 101)}


@pytest.mark.parametrize("below", ["head_ct", "head_ct/head_ct", "."])
def test_head_ct_wherever_the_archive_was_unpacked(layouts: Layouts, below: str) -> None:
    folder = layouts.head_ct()
    if below != "head_ct":
        (folder / "head_ct").rename(folder / "images")
        (folder / below).mkdir(parents=True, exist_ok=True)
        for path in (folder / "images").iterdir():
            path.rename(folder / below / path.name)
    head = unit("head_ct", layouts.root)
    assert Counter(image.class_name for image in head.images) == {"normal": 20, "hemorrhage": 20}
    assert head.images[0].class_name == "hemorrhage"
    assert head.files[-1] == "labels.csv"


TABLES = {
    "another header": ("id,label\n0,1\n", r"labels\.csv has another header than `id, hemorrhage`"),
    "empty": ("", "has another header"),
    "no number": ("id, hemorrhage\nzero, 1\n", "line 2: expected a number and 0 or 1, got 'zero, 1'"),
    "twice": ("id, hemorrhage\n0, 1\n0, 0\n", "line 3: image 0 has a line already"),
    "too short": ("id, hemorrhage\n0, 1\n", r"labels\.csv has no line for 001\.png"),
    "too long": ("id, hemorrhage\n0, 1\n1, 1\n2, 0\n3, 0\n4, 0\n", r"004\.png is missing, though labels\.csv has"),
    "no text": ("id, hemorrhage\n\udcff, 1", "cannot be read as a table"),
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_that_do_not_fit(layouts: Layouts, table: str) -> None:
    content, sentence = TABLES[table]
    folder = layouts.head_ct(count=4)
    (folder / "labels.csv").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=sentence):
        finding.units("head_ct", str(layouts.root))


def test_head_ct_without_images(layouts: Layouts) -> None:
    folder = layouts.head_ct(count=4)
    (folder / "head_ct").rename(layouts.root / "elsewhere")
    with pytest.raises(UserError, match=r"head_ct/head_ct has no PNG files; unpack the archive"):
        finding.units("head_ct", str(layouts.root))


def test_brain_mri_knows_its_copies(layouts: Layouts) -> None:
    layouts.brain_mri()
    brain = unit("brain_mri", layouts.root)
    assert Counter(image.class_name for image in brain.images) == {"normal": 20, "tumor": 6}
    digests = {image.name: str((brain.base / image.name).read_bytes()) for image in brain.images}
    decoded = brain.decode(Sizing(size=16, channels=1), digests)
    assert len(np.unique(decoded.groups)) == 22


def test_brain_mri_needs_both_folders(layouts: Layouts) -> None:
    folder = layouts.brain_mri()
    (folder / "yes").rename(layouts.root / "yess")
    with pytest.raises(UserError, match=r"brain_mri/yes is missing"):
        _ = unit("brain_mri", layouts.root).images


def test_inspection_names_every_damaged_file(layouts: Layouts) -> None:
    folder = layouts.categories()
    (folder / "bottle" / "train" / "good" / "003.png").write_text("x")
    (folder / "bottle" / "ground_truth" / "hole" / "001_mask.png").write_text("x")
    inspection = unit("mvtec", layouts.root, "bottle").inspect()
    assert inspection.counts == {"train": 10, "test": 12}
    damaged = [sentence.split(" is not a readable")[0].split("/bottle/")[1] for sentence in inspection.damaged]
    assert damaged == ["train/good/003.png", "ground_truth/hole/001_mask.png"]


@pytest.mark.parametrize("name", ["mnist", "cifar10", "coil100", "mvtec", "head_ct", "brain_mri", "folder"])
def test_an_empty_root_says_how_to_get_the_set(tmp_path: Path, name: str) -> None:
    files = "images in MVTec AD's layout" if name == "folder" else re.escape(f"files of {DATASETS[name].title}")
    with pytest.raises(UserError, match=rf"it has no {files}; (run `python -m|go to https://|put normal images)"):
        finding.units(name, str(tmp_path))


def test_the_root_defaults_to_data(layouts: Layouts, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.categories()
    monkeypatch.chdir(layouts.root.parent)
    assert list(finding.units("mvtec", None)) == ["bottle", "grid"]


def test_folders_without_read_permission(layouts: Layouts, refuse: Callable[..., None]) -> None:
    layouts.categories()
    refuse("iterdir")
    with pytest.raises(UserError, match=r"data/mvtec cannot be read by this user; give read permission"):
        finding.units("mvtec", str(layouts.root))
