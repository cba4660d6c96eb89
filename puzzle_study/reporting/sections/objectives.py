"""Several objectives: the configurations that no other one beats in one objective without losing in another."""

from __future__ import annotations

import pandas as pd
import seaborn as sns

from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import Blocks, Column, Figure, Table, absent, finding, section, table, words
from puzzle_study.reporting.cells import Cell, count, setting, word
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.trials.worth import LOWER_IS_BETTER, SHARES, shown


@section("objectives", "Objectives and Pareto front")
def build(data: StudyData) -> Blocks:
    names, rows = data.objectives, data.complete
    if len(names) < 2:
        yield absent("This study has one objective, so the front is the winner.")
        return
    if "pareto" not in rows or not rows["pareto"].notna().any():
        yield absent("No configuration is complete, so there is no front.")
        return
    rows = rows[rows["pareto"].notna()].assign(pareto=lambda frame: frame["pareto"].astype(str).str.lower() == "true")
    values = pd.DataFrame({name: rows[data.objective_column(name)].astype(float) for name in names})
    front = rows[rows["pareto"]].sort_values("rank")
    yield finding(
        f"{len(front)} of {len(rows)} rows are on the Pareto front of {', '.join(names)}: no other row is better in "
        "one of them without being worse in another. The comparison uses means over classes and seeds and ignores "
        "their intervals. The winner is the best row in the first objective."
    )
    yield _table(data, front)
    yield _scatter(data, names, rows, values)


def _table(data: StudyData, front: pd.DataFrame) -> Table:
    rows = [
        {
            Column("rank", "Rank"): count(row["rank"]),
            words("configuration", "Configuration"): word(
                data.called(row["configuration"]), strong="winner" in row["label"]
            ),
            words("aggregation", "Aggregation"): word(row["aggregation"]),
            **{
                Column(name, _title(name)): _value(name, float(row[data.objective_column(name)]))
                for name in data.objectives
            },
            **{Column(name, name): setting(row[name]) for name in data.axes},
        }
        for _, row in front.iterrows()
    ]
    return table(
        "pareto",
        "The Pareto front",
        rows,
        "Means over classes and seeds. Columns with “robust” come from a small attack at the end of every training "
        "(`evaluate.robust`), not from the attack stage.",
    )


def _scatter(data: StudyData, names: tuple[str, ...], rows: pd.DataFrame, values: pd.DataFrame) -> Figure:
    """Draw the first two objectives, the front marked."""
    first, second = names[:2]
    points = pd.DataFrame({name: (100 if name in SHARES else 1) * values[name] for name in (first, second)})
    colours = {"on the front": drawing.PALETTE[0], "dominated": drawing.GREY}
    by_front = {
        "hue": "front",
        "style": "front",
        "hue_order": [*colours],
        "style_order": [*colours],
        "palette": colours,
    }
    with drawing.drawing(5.6, 4.0) as (figure, (axes,)):
        points["front"] = rows["pareto"].map({True: "on the front", False: "dominated"})
        sns.scatterplot(points, x=first, y=second, ax=axes, **by_front)
        told = [
            f"{data.called(str(row['configuration']))}, {row['aggregation']}: {first} {shown(first, one[first])}, "
            f"{second} {shown(second, one[second])}"
            for (_, row), (_, one) in zip(rows.iterrows(), values.iterrows(), strict=True)
        ]
        drawing.tell(axes.collections[0], told)
        axes.legend(title=None)
        axes.set(xlabel=_title(first), ylabel=_title(second))
        return drawing.finished(
            figure,
            name="pareto",
            alt=f"Scatter of {len(points)} rows, {first} from {points[first].min():.3g} to {points[first].max():.3g} "
            f"against {second} from {points[second].min():.3g} to {points[second].max():.3g}; "
            f"{int(rows['pareto'].sum())} of them are marked as the Pareto front.",
            caption=f"The first two objectives, one point per complete configuration and reading (n = "
            f"{len(points)}); means over classes and seeds, no intervals drawn.",
        )


def _title(name: str) -> str:
    better = "lower" if name in LOWER_IS_BETTER else "higher"
    return f"{name}{' %' if name in SHARES else ''} ({better} is better)"


def _value(name: str, value: float) -> Cell:
    return Cell(shown(name, value).removesuffix(" %"), value)
