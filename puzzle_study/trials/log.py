"""The log of a trial: a text file that outlives it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(message)s"


class _LogFile(logging.FileHandler):
    """A log file that never stops a trial: what cannot be written is left out."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line; a full disk will be reported by the next checkpoint."""


@contextlib.contextmanager
def trial_log(path: Path, wanted: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Append what the package logs inside to a file, from `info` upwards, and what ends the trial.

    Of trials that run together, ``wanted`` says whether it is this one's turn.

    Raises:
        OSError: the file cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("puzzle_study")
    level = logger.level
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.addFilter(lambda _: wanted())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except Exception:
        logger.exception("trial %s stopped", path.stem)
        raise
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()
