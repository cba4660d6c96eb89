"""A progress bar on standard error if it is a terminal, one line that counts in a notebook, otherwise plain lines."""

from __future__ import annotations

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar(Progress):
    """A context manager that shows progress; printed lines do not break the bar.

    Args:
        what: the activity, such as ``scoring``.
        total: number of steps.
        shown: whether to show the bar.
    """

    def __init__(self, what: str, total: int, *, shown: bool = True) -> None:
        console = Console(stderr=True)
        self._what, self._in_notebook = what, shown and console.is_jupyter
        # Rich would otherwise redirect standard output, even if it is a file.
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
        if self._in_notebook:
            # A widget would need ipywidgets and leave nothing in the saved notebook.
            task = self.tasks[0]
            end = "\n" if task.finished else ""
            click.echo(f"\r{self._what} {task.completed:.0f}/{task.total:.0f}{end}", nl=False)

    def say(self, line: str) -> None:
        """Print a line on standard error, above the bar."""
        if self.disable:
            click.echo(line, err=True)
        else:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
