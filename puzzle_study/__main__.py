"""``puzzle-study COMMAND``: the commands under one name; each is loaded only when it is called."""

from __future__ import annotations

import importlib

import click

from puzzle_study import __version__

COMMANDS = {
    "tune": "Run a study from its file to its report.",
    "report": "Rebuild the report of a study, or compare studies.",
    "attack": "Attack finished detectors.",
    "score": "Score images with a finished detector, or export it.",
    "detectors": "List all detectors.",
    "data": "List, fetch and check data sets.",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command, or return None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module = "puzzle_study.detectors.__main__" if cmd_name == "detectors" else f"puzzle_study.{cmd_name}"
        found: click.Command = importlib.import_module(module).main
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="puzzle-study")
def main() -> None:
    """Find the best anomaly detector without labelled anomalies, and measure its stability and robustness."""


if __name__ == "__main__":
    main()
