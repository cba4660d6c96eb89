"""A results folder that cannot be written: told apart from other errors, and said in one sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT}
UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}


def cannot_write(error: BaseException, folder: Path) -> str | None:
    """Return why a results folder could not be written, as one sentence, or None if the error is another one."""
    for one in _chain(error):
        if not isinstance(one, OSError):
            continue
        if one.errno in FULL:
            return (
                f"the disk of {folder} is full ({one.strerror or one}); finished trials are kept: free some "
                f"space and go on with --resume"
            )
        if one.filename is None:
            continue
        path = Path(str(one.filename)).absolute()
        # Above it too: even root can make no folder in /proc.
        above = path in (folder, *folder.parents)
        if (one.errno in UNWRITABLE and (above or folder in path.parents)) or (one.errno == errno.ENOENT and above):
            return f"{folder} cannot be written ({one.strerror or one}); change that or use --results DIR"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and everything that led to it, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        # `cause` is where Ray keeps what was raised in a worker.
        waiting += [getattr(one, "cause", None), one.__context__, one.__cause__]
