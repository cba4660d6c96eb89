"""Image files as they arrive in folders, each after it is written."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from puzzle_study.errors import UserError
from puzzle_study.inference.locating import images_below

LOOK_SECONDS = 1.0
AT_ONCE = 64
Stamp = tuple[int, int]
"""Size in bytes and time of the last change in ns."""


class Stop(Protocol):
    """Decides when to end: a :class:`threading.Event`."""

    def wait(self, timeout: float) -> bool:
        """Wait for this many seconds; returns whether to end."""


def watched_folders(words: Sequence[str], overlays: Path | None) -> list[Path]:
    """Return the folders to watch.

    Raises:
        UserError: a word is not a folder, or overlays in one of them would be scored too.
    """
    folders = [Path(word) for word in words]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; --watch needs folders, remove it to score files once")
        if overlays is not None and folder.resolve() in (overlays.resolve(), *overlays.resolve().parents):
            raise UserError(f"--overlay {overlays} is in the watched folder {folder}; choose another folder")
    return folders


def arriving(folders: Sequence[Path], stop: Stop) -> Iterator[list[Path]]:
    """Yield the images below folders in batches: first the present ones, then new ones as they arrive.

    A file counts as written if it is not empty and its size and time of change were equal in two looks, a second
    apart. If it changes later, it is yielded again.
    """
    done: dict[Path, Stamp] = {}
    before: dict[Path, Stamp] = {}
    while True:
        now = dict(_stamps(folders))
        ready = [path for path, stamp in now.items() if before.get(path) == stamp != done.get(path)]
        for start in range(0, len(ready), AT_ONCE):
            part = ready[start : start + AT_ONCE]
            done.update((path, now[path]) for path in part)
            yield part
            if stop.wait(0):
                return
        before = now
        if stop.wait(LOOK_SECONDS):
            return


def _stamps(folders: Sequence[Path]) -> Iterator[tuple[Path, Stamp]]:
    for folder in folders:
        for path in images_below(folder):
            try:
                status = path.stat()
            except OSError:  # it has gone
                continue
            if status.st_size:
                yield path, (status.st_size, status.st_mtime_ns)


@contextlib.contextmanager
def until_interrupted() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C or SIGTERM sets; a second one ends the program as usual."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def asked(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in numbers:
        signal.signal(number, asked)
    try:
        yield stop
    finally:
        restore()
