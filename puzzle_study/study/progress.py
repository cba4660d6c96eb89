"""One live line: trials done, time left, epochs, best so far; plain lines if the output is not a terminal."""

from __future__ import annotations

import heapq
import time
from collections.abc import Container, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

SILENCE_SECONDS = 30.0
"""Longest time without a line if the output is not a terminal."""
SHOWN_TRIALS = 4
ENOUGH = 0.5
"""Share of the work left whose speed must be known before a time is estimated."""


class Piece(NamedTuple):
    """Some work, and its kind: only pieces of one kind are taken to be equally fast."""

    work: float
    kind: str = ""


class TimeLeft:
    """Estimates the time left from the work done and the work left, in any unit of work.

    Each kind of work has its own speed. The first estimate waits until the speed of half of the work left is known,
    because a small training takes many times as long per multiply-add as a large one. After that, work of an unknown
    kind is taken to be as fast as all work so far.

    It has no clock: callers pass the time. Between two calls of :meth:`remains` the estimate falls with the time, but
    not below that of the work that has not started.
    """

    def __init__(self) -> None:
        self._worked: dict[str, float] = {}
        self._busy: dict[str, float] = {}
        self._left: float | None = None
        self._waiting = self._told = 0.0

    def worked(self, work: float, seconds: float, kind: str = "") -> None:
        """Record that some work took this many seconds of one worker."""
        self._worked[kind] = self._worked.get(kind, 0.0) + work
        self._busy[kind] = self._busy.get(kind, 0.0) + seconds

    def remains(self, *, running: Sequence[Piece], waiting: Sequence[Piece], slots: int, now: float) -> None:
        """Set the work left of the ``running`` and ``waiting`` pieces, of which ``slots`` run at once."""
        self._told = now
        paces = {kind: self._busy[kind] / work for kind, work in self._worked.items() if work > 0}
        if not paces or (self._left is None and not _enough([*running, *waiting], paces)):
            return
        mean = sum(self._busy.values()) / sum(self._worked.values())
        busy, idle = ([paces.get(piece.kind, mean) * piece.work for piece in some] for some in (running, waiting))
        self._left, self._waiting = until_done(busy, idle, slots), until_done((), idle, slots)

    def seconds(self, now: float) -> float | None:
        """Return the time left in seconds; None while the speed is unknown."""
        if self._left is None:
            return None
        return max(self._left - (now - self._told), self._waiting)


def _enough(pieces: Sequence[Piece], known: Container[str]) -> bool:
    """Return whether enough of the work is of a kind whose speed is known."""
    return sum(piece.work for piece in pieces if piece.kind in known) >= ENOUGH * sum(piece.work for piece in pieces)


def until_done(running: Sequence[float], waiting: Sequence[float], slots: int) -> float:
    """Return when all pieces are done if each worker takes the next piece after its own."""
    ends = [*running, *[0.0] * (slots - len(running))]
    heapq.heapify(ends)
    for piece in waiting:
        heapq.heapreplace(ends, ends[0] + piece)
    return max(ends)


class StageProgress:
    """Progress of one stage: a live line on a terminal, otherwise a line per completed item and every 30 seconds.

    ``label`` is what is counted, such as ``trials``; ``done`` is the number done before this run. Callers that do not
    use :meth:`advance` report the work to :attr:`time_left`.
    """

    def __init__(self, label: str, total: int, *, done: int = 0, console: Console) -> None:
        self.label, self.total, self.console = label, total, console
        self.time_left = TimeLeft()
        self._completed = done
        self._best, self._epochs = "", list[tuple[int, int]]()
        self._advanced = self._said = time.monotonic()
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

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, completed: int, *, total: int | None = None, best: str = "") -> None:
        """Set how many are done, including earlier runs; ``best`` is shown beside the count."""
        news = completed != self._completed
        self._completed, self._best = completed, best or self._best
        self.total = total or self.total
        self._refresh()
        if news:
            self._print_line()

    def advance(self) -> None:
        """Count one more as done, in a stage with equal items."""
        now, left = time.monotonic(), self.total - self._completed - 1
        self.time_left.worked(1.0, now - self._advanced)
        self.time_left.remains(running=[Piece(1)] * min(left, 1), waiting=[Piece(1)] * (left - 1), slots=1, now=now)
        self._advanced = now
        self.update(self._completed + 1)

    def follow(self, epochs: Sequence[tuple[int, int]]) -> None:
        """Set each running trial's epochs done and in total."""
        self._epochs = list(epochs)

    def say(self, line: str) -> None:
        """Print a separate line above the live one."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def tick(self) -> None:
        """Refresh the time left, and print a line if the last one was long ago."""
        self._refresh()
        if time.monotonic() - self._said >= SILENCE_SECONDS:
            self._print_line()

    def _refresh(self) -> None:
        completed = self._completed + sum(epoch / epochs for epoch, epochs in self._epochs)
        self._progress.update(self._task, completed=completed, total=self.total, note=self._note())

    def _print_line(self) -> None:
        self._said = time.monotonic()
        if not self.console.is_terminal:
            self.say(f"{self.label} {self._completed}/{self.total}{self._note()}")

    def _note(self) -> str:
        parts = []
        left = self.time_left.seconds(time.monotonic())
        # First, because a narrow terminal cuts off the end.
        if left is not None and self._completed < self.total:
            parts.append(f"about {duration(left)} left")
        if self._epochs:
            more = ", …" if len(self._epochs) > SHOWN_TRIALS else ""
            shown = ", ".join(f"{epoch}/{epochs}" for epoch, epochs in self._epochs[:SHOWN_TRIALS])
            parts.append(f"epoch {shown}{more}")
        if self._best:
            parts.append(f"best {self._best}")
        return "".join(f" · {part}" for part in parts)


def duration(seconds: float) -> str:
    """Return a readable duration: 45 s, 3 min 20 s, 2 h 5 min, 3 days 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 172800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"
