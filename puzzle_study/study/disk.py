"""Recognises errors from an unwritable results folder and turns them into one sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT}
UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}


def cannot_write(error: BaseException, folder: Path) -> str | None:
    """Return in one sentence why a results folder could not be written, or None for any other error."""
    for one in _chain(error):
        if not isinstance(one, OSError):
            continue
        if one.errno in FULL:
            return (
                f"the disk of {folder} is full ({one.strerror or one}); finished trials are kept: free some "
                f"space and continue with --resume"
            )
        if one.filename is None:
            continue
        path = Path(str(one.filename)).absolute()
        # Its parents too: even root cannot make a folder in /proc.
        above = path in (folder, *folder.parents)
        if (one.errno in UNWRITABLE and (above or folder in path.parents)) or (one.errno == errno.ENOENT and above):
            return f"{folder} cannot be written ({one.strerror or one}); change that or use --results DIR"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all its causes, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        # Ray keeps a worker's error in `cause`.
        waiting += [getattr(one, "cause", None), one.__context__, one.__cause__]
