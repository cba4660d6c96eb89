"""Unpacks downloaded archives so that nothing is written outside one folder, nor without bounds.

Only plain files and folders are created, and their bytes copied one by one: links, devices, owners and modes
of an archive are never applied, which is stricter than ``tarfile``'s data filter.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from puzzle_study.errors import UserError

MAX_FILES = 100_000
"""Far beyond every set known here."""

DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)
"""What reading a damaged archive raises, besides OSError; RuntimeError: an encrypted or odd zip."""


@dataclass(frozen=True)
class _Member:
    name: str
    is_folder: bool
    is_plain: bool
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, target: Path, *, max_bytes: int) -> None:
    """Unpack a zip or tar file into ``target``; there is all of it in the end, or nothing new.

    Raises:
        UserError: damaged, larger than ``max_bytes`` in all, or with a member that is a link or leaves the folder.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacking-") as name:
        inside = Path(name)
        try:
            _copy_members(archive, inside, max_bytes)
        except DAMAGE as error:
            raise UserError(f"{archive} is damaged ({error}); delete it and fetch the set again") from None
        except OSError as error:
            raise UserError(
                f"{archive} cannot be unpacked into {target} ({error.strerror or error}); check the archive and the "
                f"space on the disk"
            ) from None
        for item in sorted(inside.iterdir()):
            final = target / item.name
            if final.is_dir():
                shutil.rmtree(final)
            item.replace(final)


def _copy_members(archive: Path, target: Path, max_bytes: int) -> None:
    left = max_bytes
    for count, member in enumerate(_members(archive)):
        if count >= MAX_FILES:
            raise UserError(f"{archive} holds more than {MAX_FILES:,} files and was not unpacked; get it elsewhere")
        path = target / _safe(member, archive)
        if member.is_folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        source = member.open()
        if source is None:
            raise UserError(f"{archive} is damaged: {member.name} has no content; delete it and fetch the set again")
        with source, path.open("wb") as file:
            # What an archive says of its sizes is not believed: the bytes are counted.
            while chunk := source.read(1 << 20):
                left -= len(chunk)
                if left < 0:
                    raise UserError(
                        f"{archive} holds more than {max_bytes:,} bytes and was not unpacked; get it elsewhere"
                    )
                file.write(chunk)


def _safe(member: _Member, archive: Path) -> PurePosixPath:
    """Return a member's path below the folder; refuse whatever could lead out of it."""
    path = PurePosixPath(member.name)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name
    if outside or "\0" in member.name or not member.is_plain:
        what = "leads out of its folder" if outside else "is neither a file nor a folder"
        raise UserError(f"{archive} was not unpacked: its member {member.name!r} {what}; get the archive elsewhere")
    return path


def _members(archive: Path) -> Iterator[_Member]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                kind = stat.S_IFMT(entry.external_attr >> 16)
                plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                yield _Member(entry.filename, entry.is_dir(), plain, lambda entry=entry: zipped.open(entry))  # type: ignore[misc]
    else:
        with tarfile.open(archive) as tar:
            for info in tar:
                plain = info.isreg() or info.isdir()
                yield _Member(info.name, info.isdir(), plain, lambda info=info: tar.extractfile(info))  # type: ignore[misc]
