"""Downloads the sets that need no account."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import filelock
import pooch

from puzzle_study.datasets import finding
from puzzle_study.datasets.archives import unpack
from puzzle_study.datasets.catalogue import DATASETS, Download
from puzzle_study.datasets.transfer import Resuming, TransferError
from puzzle_study.errors import UserError

UNPACKED_FACTOR = 16
"""Largest growth factor of an archive when it is unpacked."""

Progress = Callable[[str, int, int | None], None]


def fetch(name: str, root: str, progress: Progress = lambda file, there, total: None) -> Path:
    """Download a set into ``root/name`` unless it is there; return the folder.

    An interrupted download continues; ``progress`` receives the file, the bytes there and the bytes in total.

    Raises:
        UserError: the set needs an account, no server delivers it, a checksum differs, or an archive is damaged or
            unsafe.
    """
    info, folder = DATASETS[name], Path(root).expanduser() / name
    if not info.in_a_folder:
        comes_with = info.source.partition(" (")[0]
        raise UserError(f"{name} {comes_with}; there is nothing to fetch, so remove data.root")
    if not info.downloads:
        raise UserError(f"{info.title} cannot be fetched without an account: {finding.instructions(name, root)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".fetch.lock"):
            for download in info.downloads:
                _fetch_one(download, folder, progress)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error}); choose another --root") from None
    return folder


def _fetch_one(download: Download, folder: Path, progress: Progress) -> None:
    def report(there: int, total: int | None) -> None:
        progress(download.file, there, total)

    # Pooch logs each step; this package shows its own progress.
    pooch.get_logger().setLevel(logging.WARNING)
    archive, failures = folder / download.file, []
    brought_along = archive.exists()
    for url in download.urls:
        downloader = Resuming(folder / f"{download.file}.part", download.max_bytes, report)
        try:
            pooch.retrieve(url, download.checksum, fname=download.file, path=folder, downloader=downloader)
            break
        except TransferError as error:
            failures.append(f"{url}: {error}")
        except ValueError:
            failures.append(f"{url}: its content has another checksum than {download.checksum}, so it was deleted")
    else:
        raise UserError(
            f"{download.file} could not be fetched ({'; '.join(failures)}); run the command again later, or put the "
            f"file into {folder} yourself"
        )
    if download.unpack:
        unpack(archive, folder, max_bytes=UNPACKED_FACTOR * download.max_bytes)
        if not brought_along:
            archive.unlink()
