"""Shared by all commands: errors are one sentence with exit code 2, without a traceback for the user's mistakes."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from puzzle_study import __version__
from puzzle_study.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

USAGE = 2
INTERRUPTED = 130


def command(**settings: Any) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a click command from a function that returns its exit code.

    A :class:`~puzzle_study.errors.UserError` prints one sentence and gives exit code 2, Ctrl-C gives 130.
    """

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def wrapped(*args: Any, **options: Any) -> None:
            try:
                code = function(*args, **options) or 0
            except UserError as error:
                click.echo(f"error: {error}", err=True)
                code = USAGE
            except KeyboardInterrupt:
                click.echo("interrupted", err=True)
                code = INTERRUPTED
            sys.exit(code)

        settings.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        made = click.command(None, click.Command, **settings)(wrapped)
        return click.version_option(__version__, prog_name="puzzle_study")(made)

    return decorate


def console(*, quiet: bool = False, stderr: bool = False) -> Console:
    """Return a console that prints plain lines in a notebook, where rich would make an output area of each."""
    from rich.console import Console

    return Console(quiet=quiet, stderr=stderr, force_jupyter=False)


def no_nan(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Refuse nan as a share, which is never outside a range: a callback of options."""
    if math.isnan(value):
        raise click.BadParameter("nan is not a share between 0 and 1")
    return value


fpr_option = click.option(
    "--fpr",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    callback=no_nan,
    help="Share of normal images that may be flagged; the validation scores give the threshold.",
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)
