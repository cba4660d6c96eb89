"""``python -m puzzle_study.attack``: attack finished detectors, outside a study."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from pydantic import TypeAdapter, ValidationError

from puzzle_study import config
from puzzle_study.attacks.methods import METHODS
from puzzle_study.attacks.registry import PLACES
from puzzle_study.cli import command
from puzzle_study.config.types import Perturbation
from puzzle_study.errors import UserError, cut

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

Command = TypeVar("Command", bound=Callable[..., Any])
TABLE = "attacks.csv"
SMALLEST = "smallest_epsilon.csv"
EPSILONS = TypeAdapter(tuple[Perturbation, ...])
EPSILON = "Bounds of the perturbation, pixels in [0, 1]; 8/255 may be written."
EXAMPLE = """\b
Examples:
  puzzle-study attack results/digits
  puzzle-study attack results/digits/best/8 --method pgd --method noise --epsilon 8/255
  puzzle-study attack results/mnist --attack attack2_averaged --target both --max-images 200
"""


def _epsilon(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[float, ...]:
    """Read numbers such as 0.1 and 8/255 as a study file's are read."""
    try:
        return EPSILONS.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        value = values[int(first["loc"][0])]
        if first["type"] == "float_parsing":
            raise click.BadParameter(f"{cut(repr(value))} is not a number such as 0.1 or 8/255") from None
        raise click.BadParameter(f"{cut(value)} is not between 0 and 1; pixels are in [0, 1]") from None


def _setting(flag: str, name: str = "", **changed: Any) -> Callable[[Command], Command]:
    """Make an option of a setting of a study's ``attacks``, with its default, range and description."""
    name = name or flag.removeprefix("--").replace("-", "_")
    field = config.Attacks.model_fields[name]
    ends = ("ge", "gt", "le")
    bounds = {end: value for one in field.metadata for end in ends if (value := getattr(one, end, None)) is not None}
    like_it: dict[str, Any] = {
        "default": field.default,
        "show_default": True,
        "multiple": isinstance(field.default, tuple),
        "help": str(field.description).replace("`", ""),
    }
    if isinstance(field.default, bool):
        like_it |= {"is_flag": True, "show_default": False}
    elif isinstance(field.default, float):
        least = bounds.get("gt", bounds.get("ge"))
        like_it["type"] = click.FloatRange(least, bounds.get("le"), min_open="gt" in bounds)
    else:
        like_it["type"] = click.IntRange(bounds.get("ge", 0), bounds.get("le"))
    return click.option(flag, name, **(like_it | changed))


@command(epilog=EXAMPLE)
@click.argument("folder", type=click.Path(path_type=Path))
@_setting("--attack", "attacks", type=click.Choice(tuple(PLACES)))
@_setting("--method", "methods", type=click.Choice(tuple(METHODS)))
@_setting("--epsilon", "epsilons", type=str, metavar="NUMBER", callback=_epsilon, help=EPSILON)
@_setting("--target", type=click.Choice(get_args(config.Attacks.model_fields["target"].annotation)))
@_setting("--steps")
@_setting("--step-size")
@_setting("--restarts")
@_setting(
    "--permutations-per-step",
    help="Views used for each gradient of an iterated method, drawn again at each step (avg only).  [default: all]",
)
@_setting("--queries")
@_setting(
    "--max-images", help="Attack at most this many test images, drawn in proportion from each class.  [default: all]"
)
@_setting("--balanced")
@_setting("--convergence")
@_setting("--smallest")
@_setting("--seed")
@click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Folder of the original images.  [default: that of the training]",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Table to write.  [default: {TABLE} beside the detectors]",
)
def main(folder: Path, data_root: Path | None, output: Path | None, **options: Any) -> None:
    """Attack the detectors in FOLDER: results/NAME, its best/, best/CLASS, or any folder of detectors.

    Every --attack, --method and --epsilon can be given several times; all combinations are run. The study's own
    results/NAME/attacks.csv is not changed.
    """
    import pandas as pd
    from rich.console import Console
    from rich.markup import escape

    from puzzle_study.attacks.finished import attack_finished, find_detectors
    from puzzle_study.attacks.flags import FLAGS
    from puzzle_study.detectors.devices import keep_freed_memory
    from puzzle_study.results import Results

    keep_freed_memory()
    home, detectors = find_detectors(folder)
    table = output or home / TABLE
    _require_writable(table)
    attacks = _attacks(options)
    console = Console()
    with console.status("") as status:
        found = [
            attack_finished(detector, attacks, data_root=data_root, progress=lambda line: status.update(escape(line)))
            for detector in detectors
        ]
    frame = pd.DataFrame([row for one in found for row in one.rows])
    for _, part in frame.groupby("detector", sort=False):
        _print(part, console)
    seen = set(";".join(frame["flags"]).split(";"))
    legend = [
        "FPR99 %: share of normal images flagged when 99 % of the anomalies are caught",
        "FPR and TPR %: shares of normal and anomalous images above the threshold for 5 % false alarms",
    ]
    legend += [f"flag {i}, {name}: {meaning}" for i, (name, meaning) in enumerate(FLAGS.items(), 1) if name in seen]
    console.print("\n".join(legend), highlight=False, soft_wrap=True)
    tables = {table: frame}
    if attacks.smallest:
        tables[table.with_name(SMALLEST)] = smallest = pd.DataFrame([row for one in found for row in one.smallest])
        for name, part in smallest.groupby("detector", sort=False):
            console.print(_smallest(str(name), part), highlight=False, markup=False, soft_wrap=True)
    for path, content in tables.items():
        Results(home).write_table(path, content)
        console.print(f"table: {path}", highlight=False, markup=False, soft_wrap=True)


def _attacks(options: Mapping[str, Any]) -> config.Attacks:
    """Return the options as a study's settings.

    Raises:
        UserError: they cannot go together.
    """
    try:
        return config.Attacks.model_validate(options)
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def _smallest(detector: str, rows: pd.DataFrame) -> str:
    """Say in a line how much ε the images of a detector need."""
    first, parts = rows.iloc[0], []
    for anomalous, what in ((False, "normal images are flagged"), (True, "anomalies are missed")):
        side = rows.loc[rows["anomalous"] == anomalous, "epsilon_image"]
        if len(side):
            median = float(side.median())
            until = f"ε = {median:.3g}" if math.isfinite(median) else f"no ε up to {first['epsilon']:.3g}"
            parts.append(f"half of {len(side)} {what} at {until}")
    half = float(first["epsilon_half"])
    at = f"passes 50 % at ε = {half:.3g}" if math.isfinite(half) else "does not pass 50 %"
    return f"detector {detector}, {first['method']}: {'; '.join(parts)}; the AUROC {at}"


def _require_writable(table: Path) -> None:
    """Find out before the attacks whether their table can be written after them."""
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=table.parent):
            pass
    except OSError as error:
        raise UserError(f"{table} cannot be written ({error.strerror}); choose another place with --output") from error


def _print(frame: pd.DataFrame, console: Console) -> None:
    """Print what matters of the rows of one detector."""
    from rich.markup import escape
    from rich.table import Table

    from puzzle_study.attacks.flags import FLAGS

    first = frame.iloc[0]
    clean = first["note"] or f"clean AUROC {100 * first['auroc_clean']:.1f} %"
    table = Table(
        title=escape(f"detector {first['detector']}: {clean}, {first['images']} images attacked ({first['target']})"),
        caption="in brackets: 95 % bootstrap interval; FPR and TPR: without → under attack",
        box=None,
    )
    for name in ("attack", "method", "ε", "AUROC %", "", "FPR99 %", "FPR %", "TPR %", "flags"):
        left = name in ("attack", "method", "", "flags")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for row in frame.to_dict("records"):
        measured = ("–", "", "–")
        if not row["note"]:
            auroc, low, high = (f"{100 * row[name]:.1f}" for name in ("auroc", "auroc_low", "auroc_high"))
            measured = (auroc, f"({low}–{high})", f"{100 * row['fpr_at_tpr99']:.1f}")
        flags = " ".join(str(number) for number, name in enumerate(FLAGS, 1) if name in row["flags"].split(";"))
        shares = (_before_and_after(row, f"flagged_{side}") for side in ("normal", "anomalous"))
        table.add_row(row["attack"], row["method"], f"{row['epsilon']:.3g}", *measured, *shares, flags)
    console.print(table)


def _before_and_after(row: Mapping[Any, Any], name: str) -> str:
    """Return the share of images above the threshold without and under attack, in per cent."""
    shares = row[f"{name}_clean"], row[name]
    return " → ".join("–" if share is None or share != share else f"{100 * share:.0f}" for share in shares)


if __name__ == "__main__":
    main()
