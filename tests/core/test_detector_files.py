"""Saved detectors: equal to the bit after loading, data and never code, and a sentence where they are damaged."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puzzle_study import config
from puzzle_study.detectors.puzzle_ae import detector, puzzles
from puzzle_study.detectors.puzzle_ae.detector import (
    DESCRIPTION,
    WEIGHTS,
    PuzzleDetector,
    Shape,
    load,
    read_description,
)
from puzzle_study.detectors.puzzle_ae.puzzles import PuzzleSet
from puzzle_study.errors import UserError

from . import tiny
from .tiny import CPU, examples

SETS = {
    "four_pieces": PuzzleSet("jigsaw", 2, puzzles.all_permutations()),
    "nine_pieces": PuzzleSet("jigsaw", 3, puzzles.drawn_permutations(3, 0)),
    "rotations": PuzzleSet("rotation", 1, ((1,), (2,), (3,))),
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a calibrated detector of six permutations."""
    detector = tiny.detector(PuzzleSet("jigsaw", 2, puzzles.transpositions(4)))
    detector.calibrate(tiny.images(3))
    folder = tmp_path / "detector"
    folder.mkdir()
    detector.save(folder, {"task": {"normal_class": "3"}})
    return folder


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit detector.json."""
    content = json.loads((folder / DESCRIPTION).read_text())
    edit(content)
    (folder / DESCRIPTION).write_text(json.dumps(content))


def assert_damaged(folder: Path) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(str(folder))} holds a damaged detector \(.*\); train it again"):
        load(folder, device=CPU)


@pytest.mark.parametrize("side", [16, 28, 39, 40, 48])
def test_a_loaded_network_has_its_weights_in_the_layouts_of_the_trained_one(side: int, tmp_path: Path) -> None:
    """Or sums run in another order; 39 pixels are padded to 40, where layouts change."""
    trained = tiny.trainer(tiny.settings(), side=side)
    shape = Shape(1, side, side, 2)
    PuzzleDetector(trained.network, SETS["four_pieces"], shape=shape, score=config.Score(), precision="float32").save(
        tmp_path, {}
    )
    loaded = load(tmp_path, device=CPU).network
    assert [weight.stride() for weight in loaded.parameters()] == [
        weight.stride() for weight in trained.network.parameters()
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SETS)
def test_a_trained_detector_has_bit_equal_errors_after_loading(name: str, channels: int, tmp_path: Path) -> None:
    trained, _ = tiny.train(tiny.settings({"puzzle.grid": max(SETS[name].grid, 2)}), tiny.images(6, channels=channels))
    score = config.Score(error="mse", aggregation="avg")
    detector = PuzzleDetector(
        trained.network, SETS[name], shape=Shape(channels, 16, 16, 2), score=score, precision="float32"
    )
    detector.calibrate(tiny.images(3, channels=channels, seed=1))
    detector.save(tmp_path, {"seed": 5})
    loaded = load(tmp_path, device=CPU)
    test = tiny.images(4, channels=channels, seed=2)
    assert torch.equal(loaded.error_matrix(test), detector.error_matrix(test))
    assert torch.equal(loaded.validation_NK, detector.validation_NK)
    assert torch.equal(loaded(test.float() / 255), detector(test.float() / 255))
    assert (loaded.puzzle_set, loaded.shape, loaded.score) == (detector.puzzle_set, detector.shape, detector.score)
    assert loaded.precision == "float32"
    assert read_description(tmp_path)["seed"] == 5


def test_bfloat16_is_remembered(saved: Path) -> None:
    change(saved, lambda content: content.update(precision="bfloat16"))
    assert load(saved, device=CPU).precision == "bfloat16"


def test_a_loaded_detector_can_be_saved_again(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    load(saved, device=CPU).save(again, {})
    test = tiny.images(2)
    assert torch.equal(load(again, device=CPU).error_matrix(test), load(saved, device=CPU).error_matrix(test))


def test_an_empty_folder_is_no_detector(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no detector \(detector\.json is missing\); give a folder like"):
        load(tmp_path, device=CPU)


def test_a_folder_that_is_not_there_is_no_detector(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere holds no detector \(detector\.json is missing\)"):
        load(tmp_path / "nowhere", device=CPU)


@pytest.mark.parametrize("content", ["", "{", "\x00\x01", '{"format": 1', "[" * 100_000], ids=lambda c: repr(c)[:12])
def test_a_description_that_is_not_json_is_named(content: str, saved: Path) -> None:
    (saved / DESCRIPTION).write_text(content)
    with pytest.raises(UserError, match=r"detector\.json cannot be read \(.*\); restore it or train again$"):
        load(saved, device=CPU)


def test_a_description_that_is_not_text_is_named(saved: Path) -> None:
    (saved / DESCRIPTION).write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match=r"detector\.json cannot be read \(.*\); restore it or train again$"):
        load(saved, device=CPU)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{}", '{"format": 2}', '{"format": "1"}'])
def test_json_of_another_kind_or_version_is_refused(content: str, saved: Path) -> None:
    (saved / DESCRIPTION).write_text(content)
    with pytest.raises(UserError, match=r"was written by another version of puzzle_study; this one reads format 1$"):
        load(saved, device=CPU)


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "channels_missing": lambda c: c.pop("channels"),
    "channels_text": lambda c: c.update(channels="three"),
    "channels_other": lambda c: c.update(channels=3),
    "channels_negative": lambda c: c.update(channels=-1),
    "height_zero": lambda c: c.update(height=0),
    "height_too_small": lambda c: c.update(height=8),
    "base_channels_other": lambda c: c.update(base_channels=4),
    "base_channels_zero": lambda c: c.update(base_channels=0),
    "puzzles_missing": lambda c: c.pop("puzzles"),
    "puzzles_list": lambda c: c.update(puzzles=[1, 2]),
    "puzzles_null": lambda c: c.update(puzzles=None),
    "kind_unknown": lambda c: c["puzzles"].update(kind="mosaic"),
    "grid_zero": lambda c: c["puzzles"].update(grid=0),
    "grid_other": lambda c: c["puzzles"].update(grid=3),
    "grid_null": lambda c: c["puzzles"].update(grid=None),
    "no_permutations": lambda c: c["puzzles"].update(permutations=[]),
    "fewer_permutations": lambda c: c["puzzles"]["permutations"].pop(),
    "more_permutations": lambda c: c["puzzles"]["permutations"].append([3, 2, 1, 0]),
    "permutation_with_a_piece_twice": lambda c: c["puzzles"]["permutations"].__setitem__(0, [0, 0, 1, 2]),
    "permutation_too_short": lambda c: c["puzzles"]["permutations"].__setitem__(0, [1, 0]),
    "permutation_text": lambda c: c["puzzles"]["permutations"].__setitem__(0, "abcd"),
    "score_missing": lambda c: c.pop("score"),
    "score_unknown": lambda c: c["score"].update(aggregation="median"),
    "height_huge": lambda c: c.update(height=10**9),
    "width_huge": lambda c: c.update(width=10**9),
    "sides_that_make_large_tables": lambda c: c.update(height=6000, width=6000),
    "height_infinite": lambda c: c.update(height=float("inf")),
    "channels_huge": lambda c: c.update(channels=10**7),
    "base_channels_huge": lambda c: c.update(base_channels=2000),
    "grid_huge": lambda c: c["puzzles"].update(grid=30_000),
    "permutations_huge": lambda c: c["puzzles"].update(permutations=[[1, 0, 2, 3]] * 513),
    "precision_missing": lambda c: c.pop("precision"),
    "precision_unknown": lambda c: c.update(precision="float8"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_description_that_does_not_fit_is_a_damaged_detector(edit: str, saved: Path) -> None:
    change(saved, EDITS[edit])
    assert_damaged(saved)


SIZES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "height": (EDITS["height_huge"], "6 puzzles of 1000000000×16 pixels are more than 134,217,728 pixels together"),
    "channels": (EDITS["channels_huge"], "images have 1 to 1024 channels, not 10000000"),
    "base_channels": (EDITS["base_channels_huge"], "base_channels is 1 to 256, not 2000"),
    "grid": (EDITS["grid_huge"], "its puzzles are no permutations of 30000×30000 pieces"),
    "permutations": (EDITS["permutations_huge"], "its 513 permutations are more than 512"),
}


@pytest.mark.parametrize("size", SIZES)
def test_a_description_that_asks_for_any_amount_of_memory_is_refused_before_it_gets_some(
    size: str, saved: Path
) -> None:
    edit, reason = SIZES[size]
    change(saved, edit)
    (saved / WEIGHTS).unlink()
    with pytest.raises(UserError, match=re.escape(f"damaged detector ({reason}")):
        load(saved, device=CPU)


def test_turns_that_are_none_are_a_damaged_detector(tmp_path: Path) -> None:
    tiny.detector(SETS["rotations"]).save(tmp_path, {})
    change(tmp_path, lambda content: content["puzzles"].update(permutations=[[1], [2], [7]]))
    assert_damaged(tmp_path)


def test_missing_weights_are_a_damaged_detector(saved: Path) -> None:
    (saved / WEIGHTS).unlink()
    assert_damaged(saved)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02.", bytes(5000)], ids=repr)
def test_a_file_that_holds_no_weights_is_a_damaged_detector(content: bytes, saved: Path) -> None:
    (saved / WEIGHTS).write_bytes(content[:5000])
    assert_damaged(saved)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {},
        {"network": {}},
        {"network": 3, "validation_NK": torch.ones(1, 6)},
        {"network": None, "validation_NK": torch.ones(1, 6)},
        torch.ones(3),
    ],
    ids=lambda content: str(content)[:20],
)
def test_weights_of_something_else_are_a_damaged_detector(content: object, saved: Path) -> None:
    torch.save(content, saved / WEIGHTS)
    assert_damaged(saved)


@pytest.mark.parametrize(
    "errors",
    [None, 3, torch.ones(1, 5), torch.ones(6), torch.empty(0, 6), torch.full((2, 6), torch.nan)],
    ids=["none", "number", "five", "one_dimension", "no_image", "nan"],
)
def test_validation_errors_that_do_not_fit_are_a_damaged_detector(errors: object, saved: Path) -> None:
    state = torch.load(saved / WEIGHTS, weights_only=True)
    torch.save(state | {"validation_NK": errors}, saved / WEIGHTS)
    assert_damaged(saved)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved detector that nobody changes."""
    folder = tmp_path_factory.mktemp("whole")
    tiny.detector(PuzzleSet("jigsaw", 2, puzzles.transpositions(4))).save(folder, {})
    return folder


@examples(60)
@given(data=st.data())
def test_damaged_weights_never_raise_anything_but_a_sentence(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    content = bytearray((whole / WEIGHTS).read_bytes())
    if data.draw(st.booleans(), label="cut off"):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        start = data.draw(st.integers(0, len(content) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=40))
        content[start : start + len(noise)] = noise
    (folder / WEIGHTS).write_bytes(content)
    try:
        load(folder, device=CPU).error_matrix(tiny.images(1))
    except UserError as error:
        assert "holds a damaged detector" in str(error)  # noqa: PT017
    shutil.rmtree(folder)


def test_weights_that_were_changed_on_disk_are_a_damaged_detector(saved: Path) -> None:
    """Every bit of every weight: a checksum that nobody compares is none."""
    content = (saved / WEIGHTS).read_bytes()
    weight = load(saved, device=CPU).network.head.weight.detach().numpy().tobytes()
    start = content.index(weight)
    (saved / WEIGHTS).write_bytes(content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :])
    assert_damaged(saved)


class Malicious:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
def test_a_pickle_with_code_is_refused_and_nothing_is_executed(as_zip: bool, saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    state = torch.load(saved / WEIGHTS, weights_only=True)
    torch.save(state | {"extra": Malicious(marker)}, saved / WEIGHTS, _use_new_zipfile_serialization=as_zip)
    assert_damaged(saved)
    assert not marker.exists()
    torch.load(saved / WEIGHTS, weights_only=False)
    assert marker.exists(), "the file must be malicious for this test to mean anything"


def test_the_list_of_files_of_a_detector_is_these_two(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [detector.DESCRIPTION, detector.WEIGHTS]
