"""``python -m puzzle_study.detectors``: lists every detector and what it can do."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from puzzle_study.cli import command
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError

EXAMPLE = """\b
Examples:
  puzzle-study detectors
  puzzle-study detectors --json
"""


@command(epilog=EXAMPLE)
@click.option("--json", "as_json", is_flag=True, help="Print name, title, source, traits and settings as JSON.")
def main(as_json: bool) -> None:
    """List the detectors of this package and of other installed packages.

    In a study file, write `detector: NAME`, or list NAME below `detectors:`.
    """
    found = [entry for name in DETECTORS if (entry := _described(name)) is not None]
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for title in ("name", "detector", "can", "source"):
        table.add_column(title)
    for entry in found:
        can = ", ".join(trait for trait, there in entry["traits"].items() if there)
        table.add_row(entry["name"], entry["title"], can, entry["source"])
    Console().print(table)


def _described(name: str) -> dict[str, Any] | None:
    """Describe a detector; None, with a message, if another package's cannot be imported."""
    try:
        kind = DETECTORS[name]
    except UserError as error:
        click.echo(f"left out: {error}", err=True)
        return None
    return {
        "name": name,
        "title": kind.title,
        "source": kind.source,
        "traits": dataclasses.asdict(kind.traits),
        "settings": list(kind.Settings.model_fields),
    }


if __name__ == "__main__":
    main()
