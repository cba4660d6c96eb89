"""A progress bar on standard error if that is a terminal, plain lines otherwise."""

from __future__ import annotations

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar(Progress):
    """A context manager that shows how much is done; lines said meanwhile do not tear the bar.

    Args:
        what: what is going on, such as ``scoring``.
        total: how many steps there are.
        shown: whether the bar is wanted at all.
    """

    def __init__(self, what: str, total: int, *, shown: bool = True) -> None:
        console = Console(stderr=True)
        # Rich would otherwise take standard output for its own, even if that is a file.
        super().__init__(
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not (shown and console.is_terminal),
        )
        self._only = self.add_task(what, total=total)

    def step(self, count: int = 1) -> None:
        """Count some steps as done."""
        self.advance(self._only, count)

    def say(self, line: str) -> None:
        """Print a line to standard error, above the bar."""
        if self.disable:
            click.echo(line, err=True)
        else:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
