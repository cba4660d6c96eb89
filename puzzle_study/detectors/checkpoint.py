"""Checkpoints of a training: written atomically, read as data, with the previous one kept in case of damage."""

from __future__ import annotations

import logging
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from puzzle_study.detectors.memory import first_line, is_out_of_memory
from puzzle_study.io import replacing

KEPT = 2
# Errors that any library may raise for a damaged or foreign file.
UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError)
log = logging.getLogger(__name__)


class DamagedFile(Exception):
    """A file of tensors that cannot be read completely; the message says why."""


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
