"""When checkpoints are written, beside the training, and what is in them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from puzzle_study.detectors import checkpoint

from . import tiny


def kept(folder: Path) -> list[int]:
    return [int(path.stem.removeprefix("epoch-")) for path in checkpoint.checkpoints(folder)]


@pytest.mark.parametrize(
    ("trainings", "expected"), [(1, [1, 11, 21, 31, 41, 61, 81, 100]), (2, [1, 21, 41, 61, 81, 100])]
)
def test_checkpoints_take_a_twentieth_of_the_time_and_come_every_half_minute_and_at_the_end(
    trainings: int, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each epoch takes 1 s, each writing 0.5 s until epoch 40, then 10 s."""
    now, written = [0.0], list[int]()

    def save(folder: Path, number: int, state: dict[str, Any]) -> None:
        written.append(number)
        now[0] += 0.5 if number < 40 else 10

    class AtOnce:
        """Writes without another thread, so that the times are known."""

        def __init__(self, threads: int) -> None:
            assert threads == 1

        def submit(self, work: Callable[..., None], *arguments: Any) -> Future[None]:
            done: Future[None] = Future()
            work(*arguments)
            done.set_result(None)
            return done

    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(checkpoint, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    keeper = checkpoint.Keeper(tmp_path, trainings=trainings)
    for epoch in range(1, 101):
        now[0] += 1
        keeper.keep(epoch, {}, last=epoch == 100)
    assert written == expected


def test_a_state_is_kept_as_it_was_while_the_training_goes_on(tmp_path: Path) -> None:
    weights, history = torch.zeros(3), [1]
    with checkpoint.Keeper(tmp_path) as keeper:
        keeper.keep(1, {"weights": weights, "history": history}, last=True)
        weights += 1
        history.append(2)
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert tiny.same_state(state, {"weights": torch.zeros(3), "history": [1]})


def test_an_exception_leaves_the_newest_state_and_a_failed_writing_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SHARE", 1e-9)  # no second one is due

    def interrupted() -> None:
        with checkpoint.Keeper(tmp_path) as keeper:
            for epoch in (1, 2, 3):
                keeper.keep(epoch, {"epoch": epoch}, last=False)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert kept(tmp_path) == [1, 3]
    full = tmp_path / "full"
    full.write_text("a file", encoding="utf-8")
    with pytest.raises(OSError, match="full"), checkpoint.Keeper(full) as keeper:
        keeper.keep(1, {}, last=True)
