"""``score --watch`` and ``--format json``: files are scored once they are written, as they arrive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from puzzle_study.inference import arriving
from puzzle_study.score import main

from .pictures import write_damaged, write_many


class Script:
    """Does the next step whenever the watch would wait between two looks, and ends it after the last."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)

    def wait(self, timeout: float) -> bool:
        if not timeout:
            return False
        if not self.steps:
            return True
        self.steps.pop(0)()
        return False


def nothing() -> None:
    """Time passes."""


def arrived(folder: Path, *steps: Callable[[], object]) -> list[list[str]]:
    """The names that come, batch by batch."""
    return [[path.name for path in batch] for batch in arriving.arriving([folder], Script(*steps))]


def test_what_is_there_comes_first_and_then_what_is_new(tmp_path: Path) -> None:
    write_many(tmp_path, 2)
    (tmp_path / "notes.txt").write_text("no image")

    def more() -> None:
        write_many(tmp_path / "deeper", 1)[0].rename(tmp_path / "deeper" / "new.png")

    assert arrived(tmp_path, nothing, more, nothing, nothing) == [["00.png", "01.png"], ["new.png"]]


def test_a_file_that_is_still_written_waits_and_one_that_changes_comes_again(tmp_path: Path) -> None:
    (whole,) = write_many(tmp_path / "elsewhere", 1)
    content, target = whole.read_bytes(), tmp_path / "in" / "slow.png"
    target.parent.mkdir()

    def grow(size: int) -> Callable[[], object]:
        return lambda: target.write_bytes(content[:size])

    steps = [grow(0), nothing, nothing, grow(20), grow(40), grow(len(content)), nothing, nothing]
    assert arrived(target.parent, *steps) == [["slow.png"]]
    assert arrived(target.parent, nothing, grow(20), nothing, target.unlink, nothing) == [["slow.png"], ["slow.png"]]


def test_many_files_come_some_at_a_time_and_a_stop_is_heard_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arriving, "AT_ONCE", 2)
    write_many(tmp_path, 5)
    assert list(map(len, arrived(tmp_path, nothing))) == [2, 2, 1]

    class Asked(Script):
        def wait(self, timeout: float) -> bool:
            return timeout == 0 or super().wait(timeout)

    assert [len(batch) for batch in arriving.arriving([tmp_path], Asked(nothing))] == [2]


def score(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the command watch by a script."""

    def by(*steps: Callable[[], object]) -> None:
        real = arriving.arriving
        monkeypatch.setattr(arriving, "arriving", lambda folders, stop: real(folders, Script(*steps)))

    return by


def test_the_command_scores_what_arrives_as_it_would_have_at_once(
    best: Path, tmp_path: Path, scripted: Callable[..., None]
) -> None:
    source, folder = write_many(tmp_path / "source", 3), tmp_path / "in"
    (folder / "a").mkdir(parents=True)

    def arrive(paths: Sequence[Path], where: str) -> Callable[[], object]:
        return lambda: [path.rename(folder / where / path.name) for path in paths]

    table = tmp_path / "scores.jsonl"
    scripted(
        nothing,
        arrive(source[:1], "."),
        nothing,
        # Its row is there while the watch goes on.
        lambda: table.read_text().index("00.png"),
        arrive(source[1:], "a"),
        nothing,
    )
    result = score(best, folder, "--watch", "--format", "json", "--output", table, "--overlay", tmp_path / "maps")
    lines = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["00.png", "01.png", "02.png"]
    assert "3 images scored in " in result.stderr
    assert sorted(str(path.relative_to(tmp_path / "maps")) for path in (tmp_path / "maps").rglob("*.png")) == [
        "00.png.png",
        "a/01.png.png",
        "a/02.png.png",
    ]
    at_once = [json.loads(line) for line in score(best, folder, "--format", "json").stdout.splitlines()]
    assert at_once == [line | {"score": pytest.approx(line["score"], rel=1e-4)} for line in lines]
    assert all(isinstance(line["score"], float) and line["flagged"] in (True, False) for line in lines)


def test_json_lines_name_what_cannot_be_read(best: Path, tmp_path: Path) -> None:
    write_many(tmp_path / "images", 1)
    write_damaged(tmp_path / "images")
    lines = [json.loads(line) for line in score(best, tmp_path / "images", "--format", "json").stdout.splitlines()]
    assert [line["error"] is None for line in lines] == [True, False, False, False]
    assert all(line["score"] is line["percentile"] is line["flagged"] is None for line in lines[1:])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["in/00.png"], "in/00.png is not a folder; --watch needs folders"),
        (["in", "--overlay", "in/maps"], "--overlay in/maps is in the watched folder in"),
        (["in", "--overlay", "in"], "--overlay in is in the watched folder in"),
    ],
)
def test_what_cannot_be_watched_is_one_sentence(
    words: list[str], sentence: str, best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_many(Path("in"), 1)
    assert sentence in score(best, *words, "--watch", code=2).stderr
    assert [path.name for path in Path("in").iterdir()] == ["00.png"]


@pytest.mark.slow
def test_ctrl_c_ends_a_watch_with_its_summary(best: Path, tmp_path: Path) -> None:
    write_many(tmp_path / "in", 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "puzzle_study.score", best, tmp_path / "in", "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "path,score,percentile,flagged,error\n"
    assert "00.png" in process.stdout.readline()
    write_many(tmp_path / "in" / "new", 1)
    assert "new/00.png" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "2 images scored in " in said
    assert "interrupted" not in said
