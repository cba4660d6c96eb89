"""Unpacks downloaded archives so that nothing is written outside one folder, nor without bounds.

Only plain files and folders are created, and their bytes copied one by one: links, devices, owners and modes
of an archive are never applied, which is stricter than ``tarfile``'s data filter.
"""

from __future__ import annotations

import gzip
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
MAX_HEADERS = 1 << 20
"""Bytes of a tar file besides the contents of its members: enough for a thousand names, where CIFAR-10 has eight."""

DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
"""What reading a damaged archive raises, besides OSError; RuntimeError: an encrypted or odd zip."""


@dataclass(frozen=True)
class _Member:
    name: str
    is_folder: bool
    is_plain: bool
    open: Callable[[], IO[bytes] | None]


class _Stream(gzip.GzipFile):
    """The bytes of a tar file, of which :mod:`tarfile`, which keeps headers whole, gets so many and no more."""

    left = MAX_HEADERS
    in_headers = True
    """False while the contents of a member are read, which are counted as they are written."""

    def read(self, size: int | None = -1) -> bytes:
        """Read on."""
        if self.in_headers:
            assert size is not None, "tarfile says how much it wants"
            self.left -= size
            if self.left < 0:
                raise tarfile.ReadError(f"its headers have more than {MAX_HEADERS:,} bytes")
        return super().read(size)


def unpack(archive: Path, target: Path, *, max_bytes: int) -> None:
    """Unpack a file named .zip, or else a .tar.gz, into ``target``; there is all of it in the end, or nothing new.

    Raises:
        UserError: of another kind than its name says, damaged, larger than ``max_bytes`` in all, or with a member
            that is a link or leaves the folder.
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
    # The name decides which reader is let at a file, not the file.
    zipped_by_name = archive.suffix == ".zip"
    with archive.open("rb") as file:
        if file.read(2) != (b"PK" if zipped_by_name else b"\x1f\x8b"):
            kind_by_name = "zip" if zipped_by_name else "tar.gz"
            raise UserError(
                f"{archive} is no {kind_by_name} archive, as it should be; delete it and fetch the set again"
            )
    if zipped_by_name:
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                kind = stat.S_IFMT(entry.external_attr >> 16)
                plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                yield _Member(entry.filename, entry.is_dir(), plain, lambda entry=entry: zipped.open(entry))  # type: ignore[misc]
    else:
        with _Stream(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for info in tar:
                plain = info.isreg() or info.isdir()
                stream.in_headers = False
                yield _Member(info.name, info.isdir(), plain, lambda info=info: tar.extractfile(info))  # type: ignore[misc]
                stream.in_headers = True
