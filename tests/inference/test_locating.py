"""Which detector and which images the words of a command line mean."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from puzzle_study.attacks.finished import find_detectors
from puzzle_study.datasets.images import decode_all
from puzzle_study.datasets.records import Sizing
from puzzle_study.errors import UserError
from puzzle_study.inference.locating import find_detector, find_images

from .conftest import save_detector
from .pictures import write_all_kinds, write_many


def test_a_detector_is_found_in_its_folder_in_best_and_in_the_study(best: Path) -> None:
    for folder in (best / "3", best, best.parent):
        assert find_detector(folder) == best / "3"


def test_several_detectors_are_listed_to_choose_from(best: Path) -> None:
    save_detector(best / "8")
    for folder in (best, best.parent):
        with pytest.raises(UserError) as caught:
            find_detector(folder)
        assert str(caught.value) == f"{best} holds 2 detectors; choose one: {best / '3'}, {best / '8'}"


def test_a_folder_without_a_detector_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no detector \(detector\.json is missing\); give a folder like results"):
        find_detector(tmp_path)
    with pytest.raises(UserError, match="nowhere is not a folder; give a folder like results"):
        find_detector(tmp_path / "nowhere")


@pytest.mark.parametrize("find", [find_detector, find_detectors])
def test_a_detector_where_nobody_may_look_is_a_sentence(find: Callable[[Path], object], locked: Path) -> None:
    sentence = "cannot be read by this user; give read permission (chmod u+rX)"
    for folder, named in ((locked, locked), (locked / "3", locked / "3"), (locked.parent, locked)):
        with pytest.raises(UserError, match=rf"^{named}(/best)? {re.escape(sentence)}$"):
            find(folder)


@pytest.mark.parametrize("find", [find_detector, find_detectors])
def test_a_detector_of_too_long_a_name_is_a_sentence(find: Callable[[Path], object]) -> None:
    with pytest.raises(UserError, match=r"^a{300}(/best)? cannot be read \(File name too long\); shorten it$"):
        find(Path("a" * 300))


def test_files_folders_and_patterns_give_each_image_once_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_many(Path("images/deep"), 2)
    write_many(Path("images/.hidden"), 1)
    write_all_kinds(Path("kinds"))
    Path("images/notes.txt").write_text("no image")
    found = find_images(["images/deep/01.png", "images", "**/0*.png", "kinds/[ab]_*", str(tmp_path / "kinds" / "c_*")])
    assert [str(path) for path in found] == [
        "images/deep/01.png",
        "images/deep/00.png",
        "kinds/a_16bit.png",
        "kinds/b_rgba.png",
        str(tmp_path / "kinds" / "c_palette.gif"),
    ]
    assert len(find_images(["kinds"])) == 7


def test_a_file_is_taken_whatever_its_suffix_and_even_if_its_name_looks_like_a_pattern(tmp_path: Path) -> None:
    strange = tmp_path / "scan[1].dcm"
    strange.write_bytes(b"")
    assert find_images([str(strange)]) == [strange]


@pytest.mark.parametrize("word", ["open", "open/locked", "open/**/*.png", "open/*/*.png"])
def test_a_folder_that_may_not_be_read_stands_for_its_images(word: str, locked: Path) -> None:
    found = find_images([word])
    assert found == [locked]
    (error,) = decode_all(found, Sizing(16, 1))
    assert str(error) == f"{locked} cannot be read by this user; give read permission (chmod u+rX)"


def test_images_beside_a_folder_that_may_not_be_read_are_found(locked: Path) -> None:
    assert find_images(["readable", "*/*.png", "**/*.png"]) == [Path("readable/00.png"), locked]


@pytest.mark.parametrize("name", ["00.png", "*.png"])
def test_an_image_where_nobody_may_look_is_a_sentence(name: str, locked: Path) -> None:
    word = str(locked / name)
    with pytest.raises(UserError, match=f"^{re.escape(word)} cannot be read by this user; give read permission"):
        find_images([word])


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("nowhere", "nowhere does not exist; give image files, folders or glob patterns"),
        ("empty", "empty holds no image; PNG, JPEG, TIFF and their like are read"),
        ("a" * 300, "a" * 300 + " cannot be read (File name too long); shorten it"),
        ("empty/*.png", "empty/*.png matches no image; ** also matches the folders below"),
    ],
)
def test_a_word_that_leads_to_no_image_is_a_mistake(
    word: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        find_images([word])
