"""Checkpoints of a training: written whole, read as data, the one before kept against damage."""

from __future__ import annotations

import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from puzzle_study.results import replacing

KEPT = 2
log = logging.getLogger(__name__)


def save(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write the checkpoint of an epoch and remove all but the newest two."""
    with replacing(folder / f"epoch-{epoch:06d}.pt") as temporary:
        torch.save(state, temporary)
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    return sorted(folder.glob("epoch-??????.pt"))


def load_newest(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the newest checkpoint that can be read; a damaged one is named in the log and passed over.

    Returns:
        The state, or None where no checkpoint can be read.
    """
    for path in reversed(checkpoints(folder)):
        try:
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        except (
            OSError,
            EOFError,
            RuntimeError,
            ValueError,
            KeyError,
            pickle.UnpicklingError,
            zipfile.BadZipFile,
        ) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("checkpoint %s is damaged (%s); going on from the one before it", path, reason)
            continue
        return state
    return None
