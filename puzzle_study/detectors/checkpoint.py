"""Checkpoints of a training: written in the background and atomically, read as data, the previous one kept."""

from __future__ import annotations

import logging
import pickle
import struct
import time
import zipfile
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from puzzle_study.detectors.memory import first_line, is_out_of_memory
from puzzle_study.io import replacing

KEPT = 2
# Checkpoints are written as often as takes this share of the time, and after this many seconds in any case.
SHARE, SECONDS = 0.05, 30.0
# Errors that any library may raise for a damaged or foreign file.
UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError)
log = logging.getLogger(__name__)


class DamagedFile(Exception):
    """A file of tensors that cannot be read completely; the message says why."""


class Keeper:
    """Writes a training's checkpoints in another thread, while the training goes on.

    It keeps a copy of the newest state where the state is, so that a GPU need not be waited for. A state is written
    if the last writing was long enough ago: 20 times as long as it took, or 30 s. So a killed process loses the epoch
    that it was in, and those before it that took less than that. If an exception ends the training, the newest
    state is written too.

    Args:
        folder: where to write.
        trainings: how many share the process; each then writes that many times more rarely, but every 30 s.
    """

    def __init__(self, folder: Path, *, trainings: int = 1) -> None:
        self.folder, self._share = folder, SHARE / trainings
        self._unwritten: tuple[int, dict[str, Any]] | None = None
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._begun, self._took = -SECONDS, 0.0

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)

    def close(self, *, failed: bool) -> None:
        """Wait for the writing; if an exception ended the training, write the newest state first."""
        with self._writer:
            if not failed:
                self._finish()
            elif self._unwritten is not None:
                self._write()
        self._unwritten = None  # closed once more, it has nothing to write

    def keep(self, epoch: int, state: dict[str, Any], *, last: bool) -> None:
        """Keep an epoch's state, and write it if it is due or the last.

        Raises:
            OSError, RuntimeError: an earlier state could not be written.
        """
        self._unwritten = epoch, _copied(state, {})
        if last or self._writing is None or self._writing.done():
            self._finish()
            if last or time.monotonic() - self._begun >= min(SECONDS, self._took / self._share):
                self._write()

    def _finish(self) -> None:
        """Wait until what is being written is complete, and raise what went wrong."""
        if self._writing is not None:
            self._writing.result()

    def _write(self) -> None:
        assert self._unwritten is not None
        self._begun = time.monotonic()
        self._writing = self._writer.submit(self._save, *self._unwritten)
        self._unwritten = None

    def _save(self, epoch: int, state: dict[str, Any]) -> None:
        save(self.folder, epoch, state)
        self._took = time.monotonic() - self._begun


def _copied(state: Any, copies: dict[int, Tensor]) -> Any:
    """Copy a nested state, each tensor once and on its own device; to the CPU if a GPU has no room."""
    if isinstance(state, dict):
        return {name: _copied(part, copies) for name, part in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_copied(part, copies) for part in state)
    if not isinstance(state, Tensor):
        return state
    if id(state) not in copies:
        try:
            copies[id(state)] = state.detach().clone()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            copies[id(state)] = state.detach().to("cpu", copy=True)
    return copies[id(state)]


def save(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write an epoch's checkpoint and remove all but the newest two."""
    with replacing(folder / f"epoch-{epoch:06d}.pt") as temporary:
        write(state, temporary)
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)


def write(state: dict[str, Any], path: Path) -> None:
    """Write tensors through a Python file, whose errors give the reason; PyTorch's only say that writing failed."""
    with path.open("wb") as file:
        torch.save(state, file)


def checkpoints(folder: Path) -> list[Path]:
    """Return a folder's checkpoints, oldest first."""
    return sorted(folder.glob("epoch-??????.pt"))


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Return the newest readable checkpoint's state, on the CPU, or None; damaged ones are logged and skipped."""
    states = (_read_or_warn(path) for path in reversed(checkpoints(folder)))
    return next((state for state in states if state is not None), None)


def read(path: Path) -> dict[str, Any]:
    """Return what ``torch.save`` wrote, read as data after its checksums were compared.

    All tensors are on the CPU, so that a full GPU does not make a file look damaged.

    Raises:
        DamagedFile: the file is missing, incomplete, changed, or has anything but plain data.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load itself compares no checksum
            if (changed := archive.testzip()) is not None:
                raise DamagedFile(f"the checksum of {changed} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        if is_out_of_memory(error):
            raise
        raise DamagedFile(first_line(error)) from error
    if not isinstance(content, dict):
        raise DamagedFile("it holds something else")
    return content


def _read_or_warn(path: Path) -> dict[str, Any] | None:
    try:
        return read(path)
    except DamagedFile as error:
        log.warning("checkpoint %s is damaged (%s); continuing from the one before it", path, error)
        return None
