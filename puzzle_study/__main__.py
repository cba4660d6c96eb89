"""``puzzle-study COMMAND``: the commands under one name; each is loaded only when it is called."""

from __future__ import annotations

import importlib

import click

from puzzle_study import __version__

COMMANDS = {
    "init": ("puzzle_study.init:main", "Write a study file to start from."),
    "list": ("puzzle_study.init:listing", "List the studies that come with the package."),
    "tune": ("puzzle_study.tune:main", "Run a study from its file to its report."),
    "report": ("puzzle_study.report:main", "Rebuild the report of a study, or compare studies."),
    "attack": ("puzzle_study.attack:main", "Attack finished detectors."),
    "score": ("puzzle_study.score:main", "Score images with a finished detector, or export it."),
    "serve": ("puzzle_study.serve:main", "Score images on a local web page."),
    "detectors": ("puzzle_study.detectors.__main__:main", "List all detectors."),
    "data": ("puzzle_study.data:main", "List, fetch and check data sets."),
}
"""Where each command is, and what it does."""
EXAMPLE = """\b
Examples:
  puzzle-study tune digits
  puzzle-study init detectors_folder parts.yaml
  puzzle-study COMMAND --help
"""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command, or return None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="puzzle-study")
def main() -> None:
    """Find the best anomaly detector without labelled anomalies, and measure its stability and robustness."""


if __name__ == "__main__":
    main()
