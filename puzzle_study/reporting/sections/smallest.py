"""How small a perturbation is enough: the smallest ε for each image, and that at which the AUROC passes 50 %."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import Blocks, Column, Figure, Table, section, table, words
from puzzle_study.reporting.cells import Cell, count, number, percent, significant, word
from puzzle_study.reporting.sections.robustness import VICTIM, configuration_title
from puzzle_study.reporting.study_data import StudyData

SIDES = {False: "normal images flagged", True: "anomalies missed"}


@section("smallest", "How small a perturbation is enough")
def build(data: StudyData) -> Blocks:
    rows = data.smallest
    if rows is None:
        return
    groups = [group for _, group in rows.groupby([*VICTIM, "method", "anomalous"], sort=False)]
    yield _table(data, groups)
    yield _figure(data, groups)


def _title(data: StudyData, group: pd.DataFrame) -> str:
    return configuration_title(data, group["label"].iloc[0], group["configuration"].iloc[0])


def _epsilons(group: pd.DataFrame) -> pd.Series[float]:
    """Return the smallest ε of each image, infinite if none of those that were tried is enough."""
    return pd.to_numeric(group["epsilon_image"], errors="coerce").fillna(math.inf)


def _or_more(value: float, group: pd.DataFrame) -> Cell:
    """Return a cell with an ε, or that it is beyond the largest one that was tried."""
    largest = float(group["epsilon"].iloc[0])
    return number(value) if math.isfinite(value) else Cell(f"> {significant(largest)}", largest)


def _table(data: StudyData, groups: list[pd.DataFrame]) -> Table:
    rows = []
    for group in groups:
        first, epsilons = group.iloc[0], _epsilons(group)
        half = pd.to_numeric(group.drop_duplicates("trial")["epsilon_half"], errors="coerce")
        rows.append(
            {
                words("label", "Configuration"): word(_title(data, group)),
                words("reading", "Reading"): word(f"{first['aggregation']}, {first['error']}"),
                words("method", "Method"): word(first["method"]),
                words("side", "What changes"): word(SIDES[bool(first["anomalous"])]),
                Column("clean", "Without an attack, %"): percent(float((epsilons == 0).mean())),
                Column("quarter", "ε for a quarter"): _or_more(float(epsilons.quantile(0.25, "higher")), group),
                Column("median", "ε for half"): _or_more(float(epsilons.median()), group),
                Column("half", "ε at which the AUROC passes 50 %"): number(float(half.mean())),
                Column("images", "Images (n)"): count(len(group)),
                Column("trials", "Trials (n)"): count(group["trial"].nunique()),
            }
        )
    return table(
        "smallest_epsilon",
        "The smallest ε that changes a decision",
        rows,
        "Images of all trials together, without an interval. By bisection with attack1: the smallest ε at which a "
        "normal image is above the threshold for 5 % false alarms, or an anomalous one is not. An upper bound, since a "
        "stronger attack may need less. The last ε is that of all images at once, mean over the trials that have one.",
    )


def _figure(data: StudyData, groups: list[pd.DataFrame]) -> Figure:
    with drawing.drawing(6.4, 3.8) as (figure, (place,)):
        for index, group in enumerate(groups):
            epsilons = np.sort(_epsilons(group).to_numpy())
            share = 100 * np.arange(1, len(epsilons) + 1) / len(epsilons)
            seen = np.isfinite(epsilons)
            place.step(
                epsilons[seen],
                share[seen],
                where="post",
                color=drawing.PALETTE[index % len(drawing.PALETTE)],
                linestyle="--" if group["anomalous"].iloc[0] else "-",
                label=f"{_title(data, group)}: {SIDES[bool(group['anomalous'].iloc[0])]}",
            )
        place.set(xlabel="smallest ε (pixels in [0, 1])", ylabel="images, %", ylim=(0, 100))
        figure.legend(loc="outside lower center", ncols=1, fontsize=8)
        return drawing.finished(
            figure,
            name="smallest_epsilon",
            alt=f"Share of images whose decision changes against ε, {len(groups)} lines.",
            caption="Share of images that an attack of at most ε takes across the threshold: normal ones that become "
            "false alarms, anomalies that are missed. At ε = 0: without an attack.",
        )
