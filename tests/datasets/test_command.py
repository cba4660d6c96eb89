"""``python -m puzzle_study.data``: what it says, and its exit codes."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from puzzle_study import data as command
from puzzle_study.datasets import DATASETS, fingerprint, load_task, task_specs
from puzzle_study.errors import UserError

from .conftest import Layouts, png, section


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command.main, arguments)


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
    result = run(*command_of_three, option)
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert "`" not in result.output


def test_list_says_what_is_there_and_where_the_rest_comes_from(layouts: Layouts) -> None:
    layouts.categories()
    layouts.mnist()
    folder = layouts.cifar_python()
    (folder / "data_batch_1").unlink()
    result = run("list", "--root", str(layouts.root))
    assert result.exit_code == 0
    for name, info in DATASETS.items():
        assert f"{name}: {info.title}" in result.output
        assert name == "folder" or f"source: {info.source}; licence: {info.licence}" in result.output
    assert f"there: {layouts.root}/mvtec (bottle, grid)" in result.output
    assert f"there: {layouts.root}/mnist" in result.output
    assert "not to be used: " in result.output
    assert "data_batch_1 is missing" in result.output
    assert "not there: run `python -m puzzle_study.data fetch coil100" in result.output
    assert "not there: go to https://www.kaggle.com" in result.output


def test_list_does_not_take_a_folder_of_ones_own_for_mvtec(layouts: Layouts) -> None:
    folder = layouts.category(layouts.root / "my screws")
    said = run("list", "--root", str(folder)).output.splitlines()
    mvtec, own = (said.index(f"{name}: {DATASETS[name].title}") for name in ("mvtec", "folder"))
    assert said[mvtec + 1].startswith("  not there: go to https://www.mvtec.com")
    assert said[own + 1] == f"  there: {folder} (my screws)"


def test_check_says_what_is_unusual_about_ones_own_images(layouts: Layouts) -> None:
    folder = layouts.root / "screws"
    for number in range(40):
        png(folder / "train" / "good" / f"{number}.png", number, mode="L")
    png(folder / "test" / "good" / "0.png")
    said = run("check", "folder", "--root", str(folder)).output
    assert "note: no anomalies in the test images (screws): no AUROC can be measured" in said
    assert "note: the training images are gray but are read as colour (all channels are equal in the 32" in said
    assert "set data.grayscale: true" in said
    png(folder / "train" / "good" / "0.png")
    assert "gray" not in run("check", "folder", "--root", str(folder)).output


def test_list_tells_of_the_cache(layouts: Layouts, fresh_cache: Path) -> None:
    assert "Decoded images" not in run("list", "--root", str(layouts.root)).output
    data = section("digits")
    load_task(data, task_specs(data)[0])
    assert f"Decoded images take 0 MB in {fresh_cache}, which may be deleted" in run("list").output


@pytest.mark.parametrize("name", ["mvtec", "head_ct", "brain_mri"])
def test_sets_behind_an_account(tmp_path: Path, name: str) -> None:
    result = run("fetch", name, "--root", str(tmp_path))
    assert result.exit_code == 2
    assert "cannot be fetched without an account: go to https://" in result.output
    assert f"unpack it so that {tmp_path}/{name}" in result.output
    assert len(result.output.splitlines()) == 1


def test_nothing_to_fetch() -> None:
    assert "digits comes with scikit-learn" in run("fetch", "digits").output
    assert "put normal images into train/good" in run("fetch", "folder").output


def test_mistyped_name() -> None:
    result = run("check", "cifar_10")
    assert result.exit_code == 2
    assert "'cifar_10' is none of digits, mnist" in result.output
    assert "did you mean cifar10?" in result.output


def test_a_long_mistyped_name_is_not_repeated_whole() -> None:
    result = run("check", "x" * 5_000)
    assert result.exit_code == 2
    assert len(result.output) < 1_000


def test_check_of_a_set_that_is_not_there(tmp_path: Path) -> None:
    result = run("check", "mnist", "--root", str(tmp_path))
    assert result.exit_code == 2
    assert "it holds no files of MNIST; run `python -m puzzle_study.data fetch mnist" in result.output


def test_check_counts(layouts: Layouts) -> None:
    layouts.mnist()
    result = run("check", "mnist", "--root", str(layouts.root))
    assert result.exit_code == 0
    assert f"mnist: 60 train and 30 test images in {layouts.root}/mnist" in result.output
    assert "train-images-idx3-ubyte.gz is not byte for byte the published file" in result.output
    assert "the whole set has 60,000 train and 10,000 test images" in result.output


def test_check_names_each_damaged_file(layouts: Layouts) -> None:
    folder = layouts.categories()
    damaged = [folder / "bottle" / "train" / "good" / "001.png", folder / "grid" / "test" / "hole" / "002.png"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:60])
    result = run("check", "mvtec", "--root", str(layouts.root))
    assert result.exit_code == 2
    for path in damaged:
        assert f"damaged: {path} is no readable image" in result.output
    assert f"error: 2 files are damaged in {folder} (bottle, grid); replace what is named above" in result.output


def test_check_goes_on_after_a_broken_category(layouts: Layouts) -> None:
    folder = layouts.categories()
    (folder / "bottle" / "test").rename(folder / "bottle" / "tset")
    (folder / "grid" / "train" / "good" / "000.png").write_text("x")
    result = run("check", "mvtec", "--root", str(layouts.root))
    assert f"damaged: {folder}/bottle/test is missing" in result.output
    assert f"damaged: {folder}/grid/train/good/000.png is no readable image" in result.output


def test_check_of_arrays_names_the_file(layouts: Layouts) -> None:
    folder = layouts.cifar_binary()
    (folder / "data_batch_3.bin").write_bytes(b"short")
    result = run("check", "cifar10", "--root", str(layouts.root))
    assert result.exit_code == 2
    assert f"cifar10: 80 train and 20 test images in {folder}" in result.output
    assert f"damaged: {folder}/data_batch_3.bin has 5 bytes" in result.output


def test_check_reports_copies_and_missing_poses(layouts: Layouts) -> None:
    layouts.brain_mri()
    assert (
        "note: 4 files are byte-identical copies of others"
        in run("check", "brain_mri", "--root", str(layouts.root)).output
    )
    folder = layouts.coil(objects=[3])
    (folder / "obj3__45.png").unlink()
    png(folder / "obj4__0.png")
    result = run("check", "coil100", "--root", str(layouts.root))
    assert f"damaged: {folder}/obj3__45.png is missing" in result.output
    assert result.output.count("obj4__") == 71


@pytest.mark.parametrize(("objects", "whole"), [([1, 2], True), ([1], False)])
def test_check_of_a_set_that_is_counted_in_all(
    layouts: Layouts, monkeypatch: pytest.MonkeyPatch, objects: list[int], whole: bool
) -> None:
    monkeypatch.setitem(DATASETS._found, "coil100", dataclasses.replace(DATASETS["coil100"], expected={"all": 144}))
    folder = layouts.coil(objects=objects)
    result = run("check", "coil100", "--root", str(layouts.root))
    assert f"coil100: {72 * len(objects)} images in {folder}\n" in result.output
    assert ("the whole set has 144 images, so this is a part of it" in result.output) is not whole


@pytest.mark.parametrize(("asked", "other"), [("mnist", "fashion_mnist"), ("fashion_mnist", "mnist")])
def test_a_set_whose_files_have_the_same_names_is_refused(
    layouts: Layouts, monkeypatch: pytest.MonkeyPatch, asked: str, other: str
) -> None:
    folder = layouts.mnist("downloads")
    published = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setitem(DATASETS._found, other, dataclasses.replace(DATASETS[other], checksums=published))
    title, others = DATASETS[asked].title, DATASETS[other].title
    sentence = (
        f"{folder}/train-images-idx3-ubyte.gz is the file of {others}, not of {title}; name the folder of {title} in "
        f"data.root, or write {other} for {asked}\n"
    )
    result = run("check", asked, "--root", str(folder))
    assert (result.exit_code, result.output) == (2, f"error: {sentence}")
    listed = run("list", "--root", str(folder)).output
    assert f"  not to be used: {sentence}" in listed
    assert f"  there: {folder}\n" in listed
    with pytest.raises(UserError, match="is the file of"):
        fingerprint(section(asked, root=str(folder)))


def test_check_of_digits() -> None:
    result = run("check", "digits")
    assert result.exit_code == 0
    assert "digits: 1,198 train and 599 test images" in result.output


def test_as_a_module_without_a_traceback(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "puzzle_study.data", "check", "mvtec", "--root", str(tmp_path / "nowhere")]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: data.root {tmp_path}/nowhere: no such folder; go to https://www.mvtec.com")
    assert len(result.stderr.splitlines()) == 1
