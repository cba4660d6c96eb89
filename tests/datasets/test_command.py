"""``python -m puzzle_study.data``: what it says, and its exit codes."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from puzzle_study.datasets import DATASETS, fingerprint, load_task, task_specs
from puzzle_study.errors import UserError

from .conftest import Layouts, png, said, section


def test_help_comes_without_heavy_imports() -> None:
    code = (
        "import sys; sys.argv = ['data', '--help']; from puzzle_study import data\n"
        "try: data.main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'PIL', 'sklearn', 'rich', 'pooch') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fetch" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command_of_three", [(), ("list",), ("fetch",), ("check",)])
def test_every_command_has_help_in_plain_words(command_of_three: tuple[str, ...], option: str) -> None:
    output = said(*command_of_three, option)
    assert "Usage:" in output
    assert "`" not in output


def test_list_says_what_is_there_and_where_the_rest_comes_from(layouts: Layouts) -> None:
    layouts.categories()
    layouts.mnist()
    (layouts.cifar_python() / "data_batch_1").unlink()
    listed = said("list", "--root", layouts.root)
    for name, info in DATASETS.items():
        assert f"{name}: {info.title}" in listed
        assert name == "folder" or f"source: {info.source}; licence: {info.licence}" in listed
    assert f"there: {layouts.root}/mvtec (bottle, grid)" in listed
    assert f"there: {layouts.root}/mnist" in listed
    assert re.search("cannot be used: .*data_batch_1 is missing", listed)
    assert "not there: run `python -m puzzle_study.data fetch coil100" in listed
    assert "not there: go to https://www.kaggle.com" in listed


def test_list_does_not_take_a_folder_of_ones_own_for_mvtec(layouts: Layouts) -> None:
    folder = layouts.category(layouts.root / "my screws")
    lines = said("list", "--root", folder).splitlines()
    mvtec, own = (lines.index(f"{name}: {DATASETS[name].title}") for name in ("mvtec", "folder"))
    assert lines[mvtec + 1].startswith("  not there: go to https://www.mvtec.com")
    assert lines[own + 1] == f"  there: {folder} (my screws)"


def test_check_says_what_is_unusual_about_ones_own_images(layouts: Layouts) -> None:
    folder = layouts.root / "screws"
    for number in range(40):
        png(folder / "train" / "good" / f"{number}.png", number, mode="L")
    png(folder / "test" / "good" / "0.png")
    notes = said("check", "folder", "--root", folder)
    assert "note: no anomalies in the test images (screws): no AUROC can be measured" in notes
    assert re.search("note: the training images are gray .* in 32 .*; set data.grayscale: true", notes)
    png(folder / "train" / "good" / "0.png")
    assert "gray" not in said("check", "folder", "--root", folder)


def test_list_tells_of_the_cache(layouts: Layouts, fresh_cache: Path) -> None:
    assert "Decoded images" not in said("list", "--root", layouts.root)
    data = section("digits")
    load_task(data, task_specs(data)[0])
    assert f"Decoded images take 0 MB in {fresh_cache}; you may delete them" in said("list")


@pytest.mark.parametrize("name", ["mvtec", "head_ct", "brain_mri"])
def test_sets_behind_an_account(tmp_path: Path, name: str) -> None:
    output = said("fetch", name, "--root", tmp_path, code=2)
    assert "cannot be fetched without an account: go to https://" in output
    assert f"unpack it so that {tmp_path}/{name}" in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fetch", "digits"), "digits comes with scikit-learn"),
        (("fetch", "folder"), "put normal images into train/good"),
        (("check", "cifar_10"), r"'cifar_10' .*digits, mnist.*; did you mean cifar10\?"),
        (("check", "x" * 5_000), r"^.{,1000}$"),
        (("check", "mnist", "--root", "nowhere"), "no such folder; run `python -m puzzle_study.data fetch mnist"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(arguments: tuple[str, ...], words: str) -> None:
    assert re.search(words, said(*arguments, code=2).splitlines()[-1])


def test_check_counts(layouts: Layouts) -> None:
    layouts.mnist()
    output = said("check", "mnist", "--root", layouts.root)
    assert f"mnist: 60 train and 30 test images in {layouts.root}/mnist" in output
    assert "train-images-idx3-ubyte.gz is not byte for byte the published file" in output
    assert "the whole set has 60,000 train and 10,000 test images" in output
    assert "digits: 1,198 train and 599 test images" in said("check", "digits")


def test_check_names_each_damaged_file_and_goes_on_after_a_broken_category(layouts: Layouts) -> None:
    folder = layouts.categories(categories=["bottle", "cable", "grid"])
    (folder / "bottle" / "test").rename(folder / "bottle" / "tset")
    damaged = [folder / "cable" / "train" / "good" / "001.png", folder / "grid" / "test" / "hole" / "002.png"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:60])
    output = said("check", "mvtec", "--root", layouts.root, code=2)
    assert f"damaged: {folder}/bottle/test is missing" in output
    for path in damaged:
        assert f"damaged: {path} is not a readable image" in output
    assert f"error: 3 files are damaged in {folder} (bottle, cable, grid); replace" in output


def test_check_of_arrays_names_the_file(layouts: Layouts) -> None:
    folder = layouts.cifar_binary()
    (folder / "data_batch_3.bin").write_bytes(b"short")
    output = said("check", "cifar10", "--root", layouts.root, code=2)
    assert f"cifar10: 80 train and 20 test images in {folder}" in output
    assert f"damaged: {folder}/data_batch_3.bin has 5 bytes" in output


def test_check_reports_copies_and_missing_poses(layouts: Layouts) -> None:
    layouts.brain_mri()
    assert "note: 4 files are byte-identical copies of others" in said("check", "brain_mri", "--root", layouts.root)
    folder = layouts.coil(objects=[3])
    (folder / "obj3__45.png").unlink()
    png(folder / "obj4__0.png")
    output = said("check", "coil100", "--root", layouts.root, code=2)
    assert f"damaged: {folder}/obj3__45.png is missing" in output
    assert output.count("obj4__") == 71


@pytest.mark.parametrize(("objects", "whole"), [([1, 2], True), ([1], False)])
def test_check_of_a_set_that_is_counted_in_all(
    layouts: Layouts, monkeypatch: pytest.MonkeyPatch, objects: list[int], whole: bool
) -> None:
    monkeypatch.setitem(DATASETS._found, "coil100", dataclasses.replace(DATASETS["coil100"], expected={"all": 144}))
    folder = layouts.coil(objects=objects)
    output = said("check", "coil100", "--root", layouts.root)
    assert f"coil100: {72 * len(objects)} images in {folder}\n" in output
    assert ("the whole set has 144 images, so this is part of it" in output) is not whole


@pytest.mark.parametrize(("asked", "other"), [("mnist", "fashion_mnist"), ("fashion_mnist", "mnist")])
def test_a_set_whose_files_have_the_same_names_is_refused(
    layouts: Layouts, monkeypatch: pytest.MonkeyPatch, asked: str, other: str
) -> None:
    folder = layouts.mnist("downloads")
    published = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setitem(DATASETS._found, other, dataclasses.replace(DATASETS[other], checksums=published))
    title, others = DATASETS[asked].title, DATASETS[other].title
    sentence = (
        f"{folder}/train-images-idx3-ubyte.gz is the file of {others}, not of {title}; set data.root to the folder of "
        f"{title}, or write {other} for {asked}\n"
    )
    assert said("check", asked, "--root", folder, code=2) == f"error: {sentence}"
    listed = said("list", "--root", folder)
    assert f"  cannot be used: {sentence}" in listed
    assert f"  there: {folder}\n" in listed
    with pytest.raises(UserError, match="is the file of"):
        fingerprint(section(asked, root=str(folder)))


def test_as_a_module_without_a_traceback(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "puzzle_study.data", "check", "mvtec", "--root", f"{tmp_path}/nowhere"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: data.root {tmp_path}/nowhere: no such folder; go to https://www.mvtec.com")
    assert len(result.stderr.splitlines()) == 1
