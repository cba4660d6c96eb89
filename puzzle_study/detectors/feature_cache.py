"""Features of training images, computed once per machine and shared by every trial that uses them.

An entry is one file, named by the hash of everything that it depends on and written atomically. The cache keeps at most
:data:`MOST_BYTES` and drops what was used longest ago.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from puzzle_study.datasets import cache
from puzzle_study.io import replacing

log = logging.getLogger(__name__)

FORMAT = 1
"""Increase it if the same images would give other features, or if the form changes."""
MOST_BYTES = 4 * 2**30


def folder() -> Path:
    """Return the folder of the features, in the cache of decoded images."""
    return cache.folder() / "features"


def digest(images_NCHW: Tensor) -> str:
    """Return the SHA-256 of uint8 images."""
    return hashlib.sha256(images_NCHW.cpu().contiguous().numpy().tobytes()).hexdigest()


def kept(what: Mapping[str, Any], compute: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
    """Return features from the cache, or compute and keep them.

    If several processes need the same features, one computes and the others wait. A cache that cannot be written
    only costs time.

    Args:
        what: everything that the features depend on, as plain values.
        compute: returns the features, on the CPU.
    """
    # The last bits of sums depend on these.
    about = {**what, "format": FORMAT, "torch": torch.__version__, "threads": torch.get_num_threads()}
    path = folder() / f"{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]}.safetensors"
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(filelock.FileLock(path.with_suffix(".lock")))
        except OSError as error:
            log.warning("features are not kept: %s", error)
            return list(compute())
        if (found := _read(path)) is None:
            found = [features.contiguous() for features in compute()]
            _write(path, found)
        return found


def _read(path: Path) -> list[Tensor] | None:
    """Return an entry, None if it is missing or damaged."""
    try:
        os.utime(path)
        tensors = load_file(path)
        return [tensors[str(number)] for number in range(len(tensors))]
    except (OSError, KeyError, ValueError, SafetensorError):
        return None


def _write(path: Path, features: Sequence[Tensor]) -> None:
    size = sum(tensor.nbytes for tensor in features)
    if size > MOST_BYTES:
        log.info("features are not kept: their %.1f GiB are more than the cache allows", size / 2**30)
        return
    try:
        _make_room(path.parent, size)
        with replacing(path) as temporary:
            save_file({str(number): tensor for number, tensor in enumerate(features)}, temporary)
    except (OSError, SafetensorError) as error:
        log.warning("features are not kept: %s", error)


def _make_room(place: Path, size: int) -> None:
    """Remove the entries used longest ago until this many bytes fit."""
    entries = []
    for path in place.glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # another process may make room too
            entries.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    total = sum(held for _, held, _ in entries)
    for _, held, path in sorted(entries):
        if total + size <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= held
