"""Unpacks downloaded archives: writes nothing outside one folder, and never more than a given number of bytes.

Creates only plain files and folders and copies their bytes. Links, devices, owners and modes in an archive are
never applied, which is stricter than ``tarfile``'s data filter.
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
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from puzzle_study.errors import UserError

MAX_FILES = 100_000
"""Far more than any known set has."""
MAX_HEADERS = 1 << 20
"""Bytes of a tar file besides its members' contents: enough for a thousand names; CIFAR-10 has eight."""

DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
"""Errors raised by a damaged archive, besides OSError; RuntimeError: an encrypted or odd zip."""


Member = tuple[str, int, Callable[[], "IO[bytes] | None"]]
"""Name, kind as in :mod:`stat` (0: neither a file nor a folder), and a function that opens it."""


class _Stream(gzip.GzipFile):
    """The bytes of a tar file, with a limit on headers, which :mod:`tarfile` keeps in memory."""

    left = MAX_HEADERS
    in_headers = True
    """False while a member's contents are read, which are counted when they are written."""

    def read(self, size: int | None = -1) -> bytes:
        """Read on."""
        if self.in_headers:
            assert size is not None, "tarfile says how much it wants"
            self.left -= size
            if self.left < 0:
                raise tarfile.ReadError(f"its headers have more than {MAX_HEADERS:,} bytes")
        return super().read(size)


def unpack(archive: Path, target: Path, *, max_bytes: int) -> None:
    """Unpack a file named .zip, or else a .tar.gz, into ``target``, completely or not at all.

    Raises:
        UserError: the archive's kind does not match its name, it is damaged, it has more than ``max_bytes`` in all, or
            a member is a link or leaves the folder.
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
    for count, (name, kind, open_member) in enumerate(_members(archive)):
        if count >= MAX_FILES:
            raise UserError(f"{archive} holds more than {MAX_FILES:,} files and was not unpacked; get it elsewhere")
        path = target / _safe(name, kind, archive)
        if kind == stat.S_IFDIR:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        source = open_member()
        assert source is not None, "a plain file has content"
        with source, path.open("wb") as file:
            # An archive may lie about its sizes, so the bytes are counted.
            while chunk := source.read(1 << 20):
                left -= len(chunk)
                if left < 0:
                    raise UserError(
                        f"{archive} holds more than {max_bytes:,} bytes and was not unpacked; get it elsewhere"
                    )
                file.write(chunk)


def _safe(name: str, kind: int, archive: Path) -> PurePosixPath:
    """Return a member's path below the folder; refuse whatever could lead out of it."""
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name
    if outside or "\0" in name or not kind:
        what = "leads out of its folder" if outside else "is neither a file nor a folder"
        raise UserError(f"{archive} was not unpacked: its member {name!r} {what}; get the archive elsewhere")
    return path


def _members(archive: Path) -> Iterator[Member]:
    # The file's name, not its content, decides which reader opens it.
    kind_by_name, magic = ("zip", b"PK") if archive.suffix == ".zip" else ("tar.gz", b"\x1f\x8b")
    with archive.open("rb") as file:
        if file.read(2) != magic:
            raise UserError(f"{archive} is not a {kind_by_name} archive; delete it and fetch the set again")
    if kind_by_name == "zip":
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                usual = stat.S_IFDIR if entry.is_dir() else stat.S_IFREG
                kind = stat.S_IFMT(entry.external_attr >> 16) or usual
                yield entry.filename, usual if kind in (stat.S_IFREG, stat.S_IFDIR) else 0, partial(zipped.open, entry)
    else:
        with _Stream(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for info in tar:
                kind = stat.S_IFDIR if info.isdir() else stat.S_IFREG if info.isreg() else 0
                stream.in_headers = False
                yield info.name, kind, partial(tar.extractfile, info)
                stream.in_headers = True
