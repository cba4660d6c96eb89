"""Files are decoded as the reader of the training set decodes them, in chunks, a bounded number ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from puzzle_study import config, datasets
from puzzle_study.datasets import images
from puzzle_study.datasets.records import Bytes, Sizing
from puzzle_study.detectors.files import load_detector
from puzzle_study.errors import UserError
from puzzle_study.inference import streaming

from ..core.tiny import CPU
from .conftest import save_detector
from .pictures import write_all_kinds, write_damaged, write_many


@pytest.mark.parametrize("grayscale", [False, True])
def test_files_become_the_pixels_that_the_dataset_reader_makes_of_them(
    grayscale: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUZZLE_STUDY_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "screws"
    write_many(root / "train" / "good", 4, side=50)
    write_many(root / "test" / "good", 1, side=50)
    write_all_kinds(root / "test" / "scratch")
    data = config.Data(name="folder", root=str(root), size=24, grayscale=grayscale)
    (spec,) = datasets.task_specs(data)
    task = datasets.load_task(data, spec)
    _, channels, side, _ = task.test.shape
    save_detector(tmp_path / "detector", channels=channels, side=side)
    how = streaming.sizing(load_detector(tmp_path / "detector", device=CPU))
    (chunk,) = streaming.chunks([root / name for name in task.test_names], how)
    assert torch.equal(chunk.images_NCHW, task.test)


def test_chunks_keep_the_order_and_leave_damaged_files_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = write_many(tmp_path / "good", 5), write_damaged(tmp_path / "bad")
    paths = [good[0], bad[0], good[1], good[2], bad[1], bad[2], good[3], good[4]]
    monkeypatch.setattr(streaming, "MOST_IMAGES", 3)
    found = list(streaming.chunks(paths, Sizing(16, 1)))
    assert [len(chunk.paths) for chunk in found] == [3, 3, 2]
    assert [path for chunk in found for path in chunk.paths] == paths
    assert [path for chunk in found for path in chunk.readable] == good
    assert [bool(error) for chunk in found for error in chunk.errors] == [path in bad for path in paths]
    expected = torch.stack([torch.from_numpy(images.decode(path, Sizing(16, 1)).copy()) for path in good])
    assert torch.equal(torch.cat([chunk.images_NCHW for chunk in found]), expected)


def test_no_files_give_no_chunks() -> None:
    assert list(streaming.chunks([], Sizing(16, 1))) == []


def test_only_one_chunk_is_decoded_ahead_however_many_files_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_many(tmp_path, 12)
    begun: list[int] = []

    def counted(part: Sequence[Path], how: Sizing) -> Iterator[Bytes | UserError]:
        begun.append(len(part))
        return images.decode_all(part, how)

    monkeypatch.setattr(streaming, "decode_all", counted)
    monkeypatch.setattr(streaming, "MOST_IMAGES", 2)
    for used, _ in enumerate(streaming.chunks(paths, Sizing(16, 1)), start=1):
        assert len(begun) <= used + 1
    assert begun == [2] * 6


def test_large_images_make_small_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_many(tmp_path, 3)
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 2 * 3 * 32 * 32)
    assert [len(chunk.paths) for chunk in streaming.chunks(paths, Sizing(32, 3))] == [2, 1]


def test_a_detector_of_arrays_that_no_image_file_has_says_so(tmp_path: Path) -> None:
    save_detector(tmp_path / "detector", channels=2)
    with pytest.raises(UserError, match="reads 2×16×16 arrays, image files become squares of 1 or 3 channels; score"):
        streaming.sizing(load_detector(tmp_path / "detector", device=CPU))
