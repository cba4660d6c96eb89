"""One live line: trials done of all, best so far, time left; plain lines where the output is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn


class StageProgress:
    """Progress of one stage of a study.

    Args:
        label: what is counted, such as ``trials``.
        total: how many there are.
        done: how many are known to have been done before this run.
        console: where to; on a terminal one live line, else a line per completed item.
    """

    def __init__(self, label: str, total: int, *, done: int = 0, console: Console) -> None:
        self.label, self.total, self.console = label, total, console
        self._completed, self._fresh = done, 0
        self._started = time.monotonic()
        self._best = ""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=total, completed=done, note="")

    def __enter__(self) -> StageProgress:
        self._progress.start()
        self._refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @property
    def completed(self) -> int:
        """How many are done."""
        return self._completed

    def update(self, completed: int, *, total: int | None = None, best: str = "") -> None:
        """Say that one more was done, and how many are done now: it may have brought to light others of earlier runs.

        The time left follows from those that this run did. ``best`` is shown beside the count.
        """
        news = completed != self._completed
        self._fresh += news
        self._completed, self._best = completed, best or self._best
        self.total = total or self.total
        self._refresh()
        if news and not self.console.is_terminal:
            self.console.print(f"{self.label} {completed}/{self.total}{self._note()}", highlight=False)

    def say(self, line: str) -> None:
        """Print a line of its own, above the live one."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def tick(self) -> None:
        """Refresh the time left."""
        self._refresh()

    def _refresh(self) -> None:
        self._progress.update(self._task, completed=self._completed, total=self.total, note=self._note())

    def _note(self) -> str:
        parts = [f"best {self._best}"] if self._best else []
        if self._fresh > 0 and self._completed < self.total:
            left = (time.monotonic() - self._started) / self._fresh * (self.total - self._completed)
            parts.append(f"{duration(left)} left")
        return "".join(f" · {part}" for part in parts)


def duration(seconds: float) -> str:
    """Return a time as people say it: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
