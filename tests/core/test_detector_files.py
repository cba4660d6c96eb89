"""Saved detectors: equal to the bit after loading, data and never code, and a sentence if they are damaged."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from puzzle_study.config import Reading
from puzzle_study.detectors import files
from puzzle_study.detectors.base import Context, Run, Shape
from puzzle_study.detectors.files import DESCRIPTION, WEIGHTS, load_detector
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.detectors.puzzle_ae.puzzles import PuzzleSet
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError

from . import tiny
from .tiny import CPU, examples

SIX = PuzzleSet("jigsaw", 2, puzzles.transpositions(4))
SETS = {
    "nine_pieces": PuzzleSet("jigsaw", 3, puzzles.drawn_permutations(3, 0)),
    "rotations": PuzzleSet("rotation", 1, ((1,), (2,), (3,))),
}
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a calibrated detector of six permutations."""
    detector = tiny.detector(SIX)
    detector.calibrate(tiny.images(3))
    folder = tmp_path / "detector"
    folder.mkdir()
    files.save(detector, folder, {})
    return folder


def change(folder: Path, edit: Edit) -> None:
    """Edit detector.json."""
    content = json.loads((folder / DESCRIPTION).read_text())
    edit(content)
    (folder / DESCRIPTION).write_text(json.dumps(content))


def replace_weights(folder: Path, content: bytes) -> None:
    """Put other weights there, as somebody does who knows that their digest is compared."""
    (folder / WEIGHTS).write_bytes(content)
    change(folder, lambda described: described.update(weights=hashlib.sha256(content).hexdigest()))


def assert_damaged(folder: Path, reason: str = ".*") -> None:
    sentence = rf"^{re.escape(str(folder))} holds a damaged detector \({reason}.*\); train it again"
    with pytest.raises(UserError, match=sentence):
        load_detector(folder, device=CPU)


@pytest.mark.parametrize("side", [16, 28, 39, 40, 48])
def test_a_loaded_network_has_its_weights_in_the_layouts_of_the_trained_one(side: int, tmp_path: Path) -> None:
    """Or sums run in another order; 39 pixels are padded to 40, where layouts change."""
    trained = tiny.trainer(tiny.settings(), side=side).network
    files.save(PuzzleDetector(trained, SIX, shape=Shape(1, side, side)), tmp_path, {})
    loaded = load_detector(tmp_path, device=CPU)
    assert isinstance(loaded, PuzzleDetector)
    strides = [[weight.stride() for weight in network.parameters()] for network in (loaded.network, trained)]
    assert strides[0] == strides[1]


@pytest.mark.parametrize("name", SETS)
def test_other_puzzles_and_readings_are_loaded_to_the_bit(name: str, tmp_path: Path) -> None:
    detector = tiny.detector(SETS[name], reading=Reading("mse", "min"))
    detector.calibrate(tiny.images(3))
    files.save(detector, tmp_path, {})
    loaded = load_detector(tmp_path, device=CPU)
    assert torch.equal(loaded(tiny.float_images(4)), detector(tiny.float_images(4)))
    assert (loaded.describe(), loaded.reading) == (detector.describe(), detector.reading)


def test_a_loaded_detector_saved_again_is_the_same_two_files(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    files.save(load_detector(saved, device=CPU), again, {})
    assert {path.name for path in again.iterdir()} == {DESCRIPTION, WEIGHTS}
    assert all((again / name).read_bytes() == (saved / name).read_bytes() for name in (DESCRIPTION, WEIGHTS))


# Descriptions


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_a_folder_without_a_detector_is_named(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no detector \(detector\.json is missing\); give a folder like"):
        load_detector(tmp_path / folder, device=CPU)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\x00\x01", b'{"format": 2', b"[" * 100_000, b"\xff\xfe\xfa"], ids=lambda c: repr(c)[:12]
)
def test_a_description_that_is_not_json_is_named(content: bytes, saved: Path) -> None:
    (saved / DESCRIPTION).write_bytes(content)
    with pytest.raises(UserError, match=r"detector\.json cannot be read \(.*\); restore it or train again$"):
        load_detector(saved, device=CPU)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{}", '{"format": 1}', '{"format": "2"}'])
def test_json_of_another_kind_or_version_is_refused(content: str, saved: Path) -> None:
    (saved / DESCRIPTION).write_text(content)
    with pytest.raises(UserError, match=r"was written by another version of puzzle_study; this one reads format 2$"):
        load_detector(saved, device=CPU)


@pytest.mark.parametrize("name", ["patchwork", None, 3, ["puzzle_ae"]])
def test_a_detector_that_is_not_known_here_is_named(name: object, saved: Path) -> None:
    change(saved, lambda content: content.update(detector=name))
    with pytest.raises(UserError, match=rf"there is no detector .*{re.escape(str(name))[:5]}"):
        load_detector(saved, device=CPU)


EDITS: dict[str, Edit] = {
    "of_another_detector": lambda c: c.update(detector="pca"),
    "image_missing": lambda c: c.pop("image"),
    "image_list": lambda c: c.update(image=[1, 16, 16]),
    "channels_missing": lambda c: c["image"].pop("channels"),
    "channels_text": lambda c: c["image"].update(channels="three"),
    "channels_negative": lambda c: c["image"].update(channels=-1),
    "height_too_small": lambda c: c["image"].update(height=8),
    "height_infinite": lambda c: c["image"].update(height=float("inf")),
    "reading_missing": lambda c: c.pop("reading"),
    "aggregation_unknown": lambda c: c["reading"].update(aggregation="median"),
    "norm_list": lambda c: c["reading"].update(error=["l2"]),
    "precision_missing": lambda c: c.pop("precision"),
    "precision_unknown": lambda c: c.update(precision="float8"),
    "described_missing": lambda c: c.pop("described"),
    "described_null": lambda c: c.update(described=None),
    "digest_missing": lambda c: c.pop("weights"),
    "digest_null": lambda c: c.update(weights=None),
    "base_channels_zero": lambda c: c["described"].update(base_channels=0),
    "puzzles_list": lambda c: c["described"].update(puzzles=[1, 2]),
    "kind_unknown": lambda c: c["described"]["puzzles"].update(kind="mosaic"),
    "turns_that_are_none": lambda c: c["described"].update(
        puzzles={"kind": "rotation", "grid": 1, "permutations": [[1], [2], [3], [1], [2], [7]]}
    ),
    "grid_zero": lambda c: c["described"]["puzzles"].update(grid=0),
    "grid_other": lambda c: c["described"]["puzzles"].update(grid=3),
    "grid_null": lambda c: c["described"]["puzzles"].update(grid=None),
    "no_permutations": lambda c: c["described"]["puzzles"].update(permutations=[]),
    "fewer_permutations": lambda c: c["described"]["puzzles"]["permutations"].pop(),
    "more_permutations": lambda c: c["described"]["puzzles"]["permutations"].append([3, 2, 1, 0]),
    "permutation_with_a_piece_twice": lambda c: c["described"]["puzzles"]["permutations"].__setitem__(0, [0, 0, 1, 2]),
    "permutation_too_short": lambda c: c["described"]["puzzles"]["permutations"].__setitem__(0, [1, 0]),
    "permutation_text": lambda c: c["described"]["puzzles"]["permutations"].__setitem__(0, "abcd"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_description_that_does_not_fit_is_a_damaged_detector(edit: str, saved: Path) -> None:
    change(saved, EDITS[edit])
    assert_damaged(saved)


LARGE: dict[str, tuple[Edit, str]] = {
    "height": (lambda c: c["image"].update(height=10**9), "6 puzzles of 1000000000×16 pixels are more than"),
    "sides": (lambda c: c["image"].update(height=6000, width=6000), "6 puzzles of 6000×6000 pixels are more than"),
    "channels": (lambda c: c["image"].update(channels=10**7), "images have 1 to 1024 channels, not 10000000"),
    "base_channels": (lambda c: c["described"].update(base_channels=2000), "base_channels must be 1 to 256, not 2000"),
    "weights": (lambda c: c["described"].update(base_channels=256), "detector.json needs .* of size .256, 1, 3, 3."),
    "grid": (
        lambda c: c["described"]["puzzles"].update(grid=30_000),
        "its puzzles are not permutations of 30000×30000",
    ),
    "permutations": (
        lambda c: c["described"]["puzzles"].update(permutations=[[1, 0, 2, 3]] * 513),
        "its 513 permutations are more than 512",
    ),
}


@pytest.mark.parametrize("size", LARGE)
def test_a_description_of_puzzles_that_asks_for_any_amount_of_memory_is_refused(size: str, saved: Path) -> None:
    edit, reason = LARGE[size]
    change(saved, edit)
    assert_damaged(saved, reason)


@pytest.mark.parametrize("name", ["nearest_neighbour", "pca", "one_class_svm"])
def test_a_description_that_asks_for_more_memory_than_its_weights_is_refused_before_it_gets_some(
    name: str, tmp_path: Path
) -> None:
    """Three terabytes and more; then more images than a tensor can count."""
    kind = DETECTORS[name]
    detector = kind.build(kind.Settings(), Context(Shape(1, 16, 16), 0, CPU, "float32"))
    detector.fit(tiny.images(8), Run())
    detector.calibrate(tiny.images(3, seed=1))
    files.save(detector, tmp_path, {})
    (key,) = detector.describe()
    change(tmp_path, lambda content: content["described"].update({key: 10**10}))
    assert_damaged(tmp_path, r"detector\.json needs \w+ of size \(10000000000,")
    for count in (10**18, 10**30, -1):
        change(tmp_path, lambda content, count=count: content["described"].update({key: count}))  # type: ignore[misc]
        assert_damaged(tmp_path)
    change(tmp_path, lambda content: content["image"].update(height=10**10, width=10**10))
    assert_damaged(tmp_path)


# Weights


def test_weights_that_were_changed_on_disk_are_a_damaged_detector(saved: Path) -> None:
    """Every bit of every weight: a checksum that nobody compares is none."""
    content = bytearray((saved / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (saved / WEIGHTS).write_bytes(content)
    assert_damaged(saved, "weights.safetensors has changed since it was written")


def test_missing_weights_are_a_damaged_detector(saved: Path) -> None:
    (saved / WEIGHTS).unlink()
    assert_damaged(saved)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04", bytes(5000), b"\xff" * 100, save({}), save({"a": torch.ones(3)})],
    ids=lambda content: repr(content[:8]),
)
def test_a_file_that_holds_no_weights_of_it_is_a_damaged_detector(content: bytes, saved: Path) -> None:
    replace_weights(saved, content)
    assert_damaged(saved)


@pytest.mark.parametrize(
    "errors",
    [None, torch.ones(()), torch.ones(1, 5), torch.ones(6), torch.empty(0, 6), torch.full((2, 6), torch.nan)],
    ids=["none", "number", "five", "one_dimension", "no_image", "nan"],
)
def test_validation_errors_that_do_not_fit_are_a_damaged_detector(errors: torch.Tensor | None, saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS)
    del tensors["validation_NK"]
    replace_weights(saved, save(tensors if errors is None else tensors | {"validation_NK": errors}))
    assert_damaged(saved)


@pytest.mark.parametrize("tensor", [None, torch.ones(3), torch.ones(2, 1, 3, 4)], ids=["missing", "flat", "wide"])
def test_a_tensor_of_another_size_or_none_is_named(tensor: torch.Tensor | None, saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS)
    name = "network.stem.0.weight"
    del tensors[name]
    replace_weights(saved, save(tensors if tensor is None else tensors | {name: tensor}))
    assert_damaged(saved, rf"detector\.json needs {name} of size \(2, 1, 3, 3\), not ")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved detector that nobody changes."""
    folder = tmp_path_factory.mktemp("whole")
    files.save(tiny.detector(SIX), folder, {})
    return folder


@examples(60)
@given(data=st.data())
def test_damaged_weights_never_raise_anything_but_a_sentence(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Even if their digest is right."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    content = bytearray((whole / WEIGHTS).read_bytes())
    if data.draw(st.booleans(), label="cut off"):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        # Most of what can go wrong is in the header, at the front.
        start = data.draw(st.integers(0, 3000) | st.integers(0, len(content) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=40))
        content[start : start + len(noise)] = noise
    replace_weights(folder, bytes(content))
    try:
        load_detector(folder, device=CPU).error_matrix(tiny.images(1))
    except UserError as error:
        assert "holds a damaged detector" in str(error)  # noqa: PT017
    shutil.rmtree(folder)


def test_a_pickle_with_code_is_refused_and_nothing_is_executed(saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    replace_weights(saved, pickle.dumps(tiny.Malicious(marker)))
    assert_damaged(saved)
    assert not marker.exists()
    pickle.loads((saved / WEIGHTS).read_bytes())
    assert marker.exists(), "the file must be malicious for this test to mean anything"
