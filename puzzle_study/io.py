"""Atomic writing of files and folders: under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@contextlib.contextmanager
def replacing(path: Path, *, lasting: bool = False) -> Iterator[Path]:
    """Give a temporary path that replaces ``path`` on success; ``lasting``: sync it to the disk before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        if lasting:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path, lasting=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; NaN is refused."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], *, lasting: bool = False) -> None:
    """Write a compressed .npz file atomically."""
    import numpy as np

    with replacing(path, lasting=lasting) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def replace_folder(source: Path, target: Path) -> None:
    """Copy a folder into place atomically: an existing target is moved aside first and then removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        shutil.copytree(source, staged / "new")
        if target.exists():
            target.replace(staged / "old")
        (staged / "new").replace(target)
    finally:
        # Frees space on a full disk, but keeps the old target if the new one did not arrive.
        if target.exists() or not (staged / "old").exists():
            shutil.rmtree(staged, ignore_errors=True)
