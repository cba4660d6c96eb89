"""A progress bar on standard error where that is a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType

import click


class Bar:
    """A context manager that shows how much is done; lines said meanwhile do not tear the bar.

    Args:
        what: what is going on, such as ``scoring``.
        total: how many steps there are.
        shown: whether the bar is wanted at all.
    """

    def __init__(self, what: str, total: int, *, shown: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Rich would otherwise take standard output for its own, even where that is a file.
        self._bars = Progress(
            *columns,
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bars.add_task(what, total=total)

    def __enter__(self) -> Bar:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def advance(self, steps: int = 1) -> None:
        """Count some steps as done."""
        self._bars.advance(self._task, steps)

    def say(self, line: str) -> None:
        """Print a line to standard error, above the bar."""
        if self._bars.disable:
            click.echo(line, err=True)
        else:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
