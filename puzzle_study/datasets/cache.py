"""Decoded images, kept once per machine and shared read-only by every process.

An entry is a folder with the images as a memory-mapped ``.npy`` file and an index. Its name is a hash of
the original files' *content* and the sizing. So changed files or another size give another entry,
and the same files in another place give the same entry.

Hashing gigabytes at every start would be slow. So a file's hash is remembered with its size, inode,
modification and change time, and computed again if any of them differs. The change time cannot be set by hand, and
files younger than two seconds are never remembered, because a clock tick may hide a change in them. Only a change
below the file system (bit rot) is missed. Entries are verified in the same way and rebuilt if damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import platformdirs

from puzzle_study.datasets.records import Decoded, Sizing, Unit, hexdigest, reading
from puzzle_study.errors import UserError
from puzzle_study.io import replacing

VARIABLE = "PUZZLE_STUDY_CACHE"
FORMAT = 1
"""Increase it if the same files would be decoded or stored differently."""
YOUNG_NS = 2 * 10**9


def folder() -> Path:
    """Return the cache folder: ``PUZZLE_STUDY_CACHE`` if set, otherwise the user's cache folder."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("puzzle_study")


def size_in_bytes() -> int:
    """Return the size of the decoded images."""
    return sum(path.stat().st_size for path in folder().glob("decoded/*/images.npy"))


def load(dataset: str, unit: Unit, sizing: Sizing) -> tuple[Decoded, str]:
    """Return the decoded unit, its images memory-mapped read-only, and a SHA-256 over all of it.

    If several processes start at once, one decodes and the others wait for it.
    """
    # The folder's name is for people; the program uses the hash.
    stem = "-".join(part for part in (dataset, unit.name, f"{sizing.size}x{sizing.channels}") if part)
    try:
        digests = file_digests(unit.base, unit.files, unit.name) if unit.base else {}
        key = [FORMAT, dataset, unit.name, unit.origin, sizing.size, sizing.channels, sorted(digests.items())]
        entry = folder() / "decoded" / f"{_file_name(stem)}-{_sha256(_json(key))[:16]}"
        if (found := _open(entry)) is not None:
            return found
        entry.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(entry.with_name(entry.name + ".lock")):
            if (found := _open(entry)) is not None:
                return found
            decoded = unit.decode(sizing, digests)
            if unit.base and file_digests(unit.base, unit.files, unit.name) != digests:
                raise UserError(f"{unit.where} changed while it was read; run the command again")
            _write(entry, decoded)
            found = _open(entry)
    except OSError as error:
        raise UserError(
            f"the cache folder {folder()} cannot be written ({error.strerror or error}); free space there or set the "
            f"environment variable {VARIABLE} to another folder"
        ) from None
    if found is None:
        raise UserError(f"{entry} was damaged while it was written; check the disk or set {VARIABLE} to another folder")
    return found


def file_digests(base: Path, files: Sequence[str], label: str = "") -> dict[str, str]:
    """Return the SHA-256 of each file below ``base``, remembered as described at the top of this module."""
    memory = folder() / "hashes" / f"{_sha256(os.fsencode(f'{base.resolve()}|{label}'))[:32]}.json"
    known, now, digests, remembered = _read_memory(memory), time.time_ns(), {}, {}
    for name in files:
        path = base / name
        with reading(path):
            stat = path.stat()
            marks = [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
            before = known.get(name)
            if isinstance(before, list) and before[:-1] == marks:
                digests[name] = str(before[-1])
            else:
                digests[name] = hexdigest(path, "sha256")
        if max(stat.st_mtime_ns, stat.st_ctime_ns) < now - YOUNG_NS:
            remembered[name] = [*marks, digests[name]]
    if remembered != known:
        # A read-only cache can still be read. Processes may overwrite each other's memory, but each version is
        # complete and correct.
        with contextlib.suppress(OSError), replacing(memory) as partial:
            partial.write_bytes(_json(remembered))
    return digests


def _open(entry: Path) -> tuple[Decoded, str] | None:
    """Open an entry; None if it is missing or damaged."""
    try:
        head_line, index_line = (entry / "index.json").read_bytes().split(b"\n")
        head = json.loads(head_line)
        if head["index"] != _sha256(index_line) or head["images"] != file_digests(entry, ["images.npy"])["images.npy"]:
            return None
        index = json.loads(index_line)
        images_NCHW = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    decoded = Decoded(
        images_NCHW=images_NCHW,
        names=tuple(index["names"]),
        classes=tuple(index["classes"]),
        parts=tuple(index["parts"]),
        groups=np.array(index["groups"], dtype=np.int64),
    )
    return decoded, _sha256(head_line)


def _write(entry: Path, decoded: Decoded) -> None:
    """Write an entry atomically; the caller holds its lock."""
    partial = entry.with_name(f".{entry.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
    partial.mkdir()
    try:
        np.save(partial / "images.npy", decoded.images_NCHW, allow_pickle=False)
        index = {"names": decoded.names, "classes": decoded.classes, "parts": decoded.parts}
        index_line = _json(index | {"groups": decoded.groups.tolist()})
        head_line = _json({"images": hexdigest(partial / "images.npy", "sha256"), "index": _sha256(index_line)})
        (partial / "index.json").write_bytes(head_line + b"\n" + index_line)
        if entry.exists():  # it is damaged, and only an empty folder can be replaced
            shutil.rmtree(entry)
        partial.rename(entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_memory(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
