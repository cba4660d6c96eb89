"""The cache notices changed files and its own damage, and serves several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puzzle_study.datasets import cache, finding, load_task, task_specs
from puzzle_study.datasets.files_unit import FilesUnit
from puzzle_study.datasets.records import Decoded, Sizing, hexdigest
from puzzle_study.errors import UserError

from .conftest import Layouts, png, section

SIZING = Sizing(size=16, channels=3)


@pytest.fixture
def layouts(layouts: Layouts) -> Layouts:
    """Two categories, of which the empty cache knows nothing."""
    layouts.categories()
    return layouts


def load(layouts: Layouts, sizing: Sizing = SIZING) -> tuple[Decoded, str]:
    return cache.load("mvtec", finding.units("mvtec", str(layouts.root))["bottle"], sizing)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "decoded").iterdir() if path.is_dir())


def settle(folder: Path) -> None:
    """Make all files old enough to be remembered; only the change time cannot be set."""
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))
    time.sleep(0.01)


@pytest.fixture
def all_files_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests the two seconds for which files are too young to be remembered."""
    monkeypatch.setattr(cache, "YOUNG_NS", -(10**12))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content was hashed."""
    names: list[str] = []

    def record(path: Path, algorithm: str) -> str:
        names.append(path.name)
        return hexdigest(path, algorithm)

    monkeypatch.setattr(cache, "hexdigest", record)
    return names


def test_images_are_mapped_read_only(layouts: Layouts, fresh_cache: Path) -> None:
    decoded, _ = load(layouts)
    assert isinstance(decoded.images_NCHW, np.memmap)
    assert not decoded.images_NCHW.flags.writeable
    assert decoded.images_NCHW.shape == (22, 3, 16, 16)
    assert len(entries(fresh_cache)) == 1


@pytest.mark.usefixtures("all_files_are_old")
def test_nothing_is_decoded_nor_hashed_twice(
    layouts: Layouts, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, digest = load(layouts)
    assert len(hashed) == 22 + 2, "all originals, the new array when written and when opened"
    hashed.clear()
    monkeypatch.setattr("puzzle_study.datasets.files_unit.decode_all", lambda *_: pytest.fail("decoded again"))
    again, same = load(layouts)
    assert hashed == []
    assert digest == same
    assert np.array_equal(first.images_NCHW, again.images_NCHW)
    assert first.names == again.names
    assert first.groups.tolist() == again.groups.tolist()


def test_young_files_are_hashed_each_time(layouts: Layouts, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puzzle_study.datasets.cache.YOUNG_NS", 3600 * 10**9)  # however slow this machine is now
    load(layouts)
    hashed.clear()
    load(layouts)
    assert len(hashed) == 22 + 1


@pytest.mark.usefixtures("all_files_are_old")
def test_a_change_that_hides_its_time_is_noticed(layouts: Layouts) -> None:
    folder = layouts.root / "mvtec"
    path = folder / "bottle" / "train" / "good" / "000.png"
    png(path, 1, (16, 16), "L")
    settle(folder)
    before, digest = load(layouts)
    size = path.stat().st_size
    png(path, 2, (16, 16), "L")
    path.write_bytes(path.read_bytes()[:size].ljust(size, b"\0"))
    os.utime(path, (1e9, 1e9))
    assert (path.stat().st_size, path.stat().st_mtime) == (size, 1e9)
    after, changed = load(layouts)
    assert changed != digest
    assert not np.array_equal(before.images_NCHW[0], after.images_NCHW[0])


@pytest.mark.usefixtures("all_files_are_old")
def test_moved_and_touched_files_are_the_same_set(layouts: Layouts, fresh_cache: Path, tmp_path: Path) -> None:
    folder = layouts.root / "mvtec"
    _, digest = load(layouts)
    settle(folder)
    assert load(layouts)[1] == digest
    shutil.copytree(folder, tmp_path / "elsewhere" / "mvtec")
    assert load(Layouts(tmp_path / "elsewhere"))[1] == digest
    assert len(entries(fresh_cache)) == 1


def test_removed_and_renamed_files_are_noticed(layouts: Layouts) -> None:
    folder = layouts.root / "mvtec" / "bottle" / "test" / "hole"
    digests = {load(layouts)[1]}
    (folder / "000.png").rename(folder / "999.png")
    digests.add(load(layouts)[1])
    (folder / "999.png").unlink()
    digests.add(load(layouts)[1])
    assert len(digests) == 3


def test_each_sizing_has_its_entry(layouts: Layouts, fresh_cache: Path) -> None:
    for channels, size in ((1, 16), (3, 16), (3, 32)):
        assert load(layouts, Sizing(size, channels))[0].images_NCHW.shape == (22, channels, size, size)
    assert len(entries(fresh_cache)) == 3


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.usefixtures("all_files_are_old")
@pytest.mark.parametrize("damage", [lambda content: content[:-7], flipped, lambda content: b"", None])
@pytest.mark.parametrize("file", ["images.npy", "index.json"])
def test_a_damaged_entry_is_rebuilt(
    layouts: Layouts, fresh_cache: Path, damage: Callable[[bytes], bytes] | None, file: str
) -> None:
    before, digest = load(layouts)
    expected = np.array(before.images_NCHW)
    (entry,) = entries(fresh_cache)
    if damage is None:
        (entry / file).unlink()
    else:
        (entry / file).write_bytes(damage((entry / file).read_bytes()))
    after, same = load(layouts)
    assert same == digest
    assert np.array_equal(after.images_NCHW, expected)
    assert [path.name for path in entries(fresh_cache)] == [entry.name], "nothing is left lying about"


def test_damaged_memory_of_hashes_does_no_harm(layouts: Layouts, fresh_cache: Path) -> None:
    _, digest = load(layouts)
    (fresh_cache / "hashes").mkdir(exist_ok=True)
    for content in (b"\xff", b"[]", b"{}", json.dumps({"bottle/train/good/000.png": 5}).encode()):
        for path in (fresh_cache / "hashes").iterdir():
            path.write_bytes(content)
        assert load(layouts)[1] == digest


def test_leftovers_of_a_killed_process_are_cleared(layouts: Layouts, fresh_cache: Path) -> None:
    load(layouts)
    (entry,) = entries(fresh_cache)
    entry.rename(entry.with_name(f".{entry.name}.partial"))
    load(layouts)
    assert entries(fresh_cache) == [entry]


def _load_elsewhere(root: str, folder: str, start: Any, results: Any) -> None:
    os.environ["PUZZLE_STUDY_CACHE"] = folder
    start.wait(timeout=60)
    try:
        decoded, digest = cache.load("mvtec", finding.units("mvtec", root)["bottle"], SIZING)
        results.put((digest, int(decoded.images_NCHW.sum())))
    except Exception as error:
        results.put(repr(error))


@pytest.mark.slow
def test_processes_that_start_at_once(layouts: Layouts, fresh_cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3), context.Queue()
    arguments = (str(layouts.root), str(fresh_cache), start, results)
    processes = [context.Process(target=_load_elsewhere, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert len(set(map(str, found))) == 1
    assert isinstance(found[0], tuple), found[0]
    assert len(entries(fresh_cache)) == 1


def test_files_that_change_while_they_are_read(
    layouts: Layouts, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = layouts.root / "mvtec"

    def decode(self: FilesUnit, sizing: Sizing, digests: dict[str, str]) -> Decoded:
        result = original(self, sizing, digests)
        png(folder / "bottle" / "train" / "good" / "000.png", 123)
        return result

    original = FilesUnit.decode
    monkeypatch.setattr(FilesUnit, "decode", decode)
    with pytest.raises(UserError, match="mvtec/bottle changed while it was read; run the command again"):
        load(layouts)
    assert not (fresh_cache / "decoded").exists() or entries(fresh_cache) == []


def test_a_cache_that_cannot_be_written(layouts: Layouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PUZZLE_STUDY_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"the cache folder .*file cannot be written .*PUZZLE_STUDY_CACHE to another"):
        load(layouts)


def test_a_full_disk_leaves_nothing(layouts: Layouts, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); free space there"):
        load(layouts)
    assert entries(fresh_cache) == []


@pytest.mark.usefixtures("all_files_are_old")
def test_a_read_only_cache_still_serves(layouts: Layouts, fresh_cache: Path, refuse: Callable[..., None]) -> None:
    _, digest = load(layouts)
    shutil.rmtree(fresh_cache / "hashes")
    refuse("mkdir", "write_bytes")
    assert load(layouts)[1] == digest


def test_digits_are_cached_without_files(fresh_cache: Path) -> None:
    data = section("digits")
    load_task(data, task_specs(data)[0])
    assert len(entries(fresh_cache)) == 1


def test_the_users_cache_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PUZZLE_STUDY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "puzzle_study"
