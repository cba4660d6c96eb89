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
                f"the disk of {folder} is full ({one.strerror or one}); nothing that is finished is lost: make room "
                f"and go on with --resume"
            )
        if (one.errno in UNWRITABLE and _is_below(one, folder)) or (
            one.errno == errno.ENOENT and _is_above(one, folder)
        ):
            return f"{folder} cannot be written ({one.strerror or one}); mend that or use --results DIR"
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


def _is_above(error: OSError, folder: Path) -> bool:
    """Whether an error is about the folder or one above it: even root can make none in /proc."""
    return error.filename is not None and Path(str(error.filename)).absolute() in (folder, *folder.parents)


def _is_below(error: OSError, folder: Path) -> bool:
    """Whether an error is about the folder, a file below it, or a folder above it."""
    if error.filename is None:
        return False
    path = Path(str(error.filename)).absolute()
    return folder in (path, *path.parents) or path in folder.parents
