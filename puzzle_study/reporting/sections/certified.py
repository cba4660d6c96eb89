"""What no attack can do: the AUROC and the false alarms of the smoothed score that are certified."""

from __future__ import annotations

import pandas as pd

from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import Blocks, Column, Figure, Table, section, table, words
from puzzle_study.reporting.cells import count, number, percent, share, significant, word
from puzzle_study.reporting.sections.robustness import VICTIM, configuration_title
from puzzle_study.reporting.study_data import StudyData


@section("certified", "Certified robustness")
def build(data: StudyData) -> Blocks:
    if data.certified is None:
        return
    yield _table(data, data.certified)
    yield _figure(data, data.certified)


def _title(data: StudyData, group: pd.DataFrame) -> str:
    return configuration_title(data, group["label"].iloc[0], group["configuration"].iloc[0])


def _mean(group: pd.DataFrame, name: str) -> float:
    return float(pd.to_numeric(group[name], errors="coerce").mean())


def _table(data: StudyData, rows: pd.DataFrame) -> Table:
    first = rows.iloc[0]
    shown = [
        {
            words("label", "Configuration"): word(_title(data, group)),
            words("reading", "Reading"): word(f"{group['aggregation'].iloc[0]}, {group['error'].iloc[0]}"),
            Column("radius", "Radius ‖δ‖₂"): number(float(group["radius"].iloc[0])),
            Column("auroc", "Certified AUROC %"): percent(_mean(group, "auroc")),
            Column("smoothed", "Smoothed AUROC %"): percent(_mean(group, "auroc_smoothed")),
            Column("flagged_normal", "FPR % at most"): percent(_mean(group, "flagged_normal")),
            Column("flagged_anomalous", "TPR % at least"): percent(_mean(group, "flagged_anomalous")),
            Column("images", "Images (n)"): count(int(group["images"].sum())),
            Column("trials", "Trials (n)"): count(group["trial"].nunique()),
        }
        for _, group in rows.groupby([*VICTIM, "radius"], sort=False)
    ]
    return table(
        "certified",
        "Certified AUROC, false alarms and catches",
        shown,
        f"Median smoothing with noise of σ = {significant(float(first['sigma']))}, {int(first['samples'])} noised "
        f"copies of each image; perturbed: {first['target']} images. At each radius all bounds of a trial hold "
        f"together with a probability of at least {share(1 - float(first['alpha']))} % over the noise; mean over "
        "trials, without an interval. Whatever the attack, the AUROC of the smoothed score is no lower, and at the "
        "threshold for 5 % false alarms no more normal images are flagged and no fewer anomalies.",
    )


def _figure(data: StudyData, rows: pd.DataFrame) -> Figure:
    with drawing.drawing(6.4, 3.8) as (figure, (place,)):
        for index, (_, group) in enumerate(rows.groupby(VICTIM, sort=False)):
            along = group.groupby("radius")[["auroc", "flagged_normal"]].mean()
            colour, title = drawing.PALETTE[index % len(drawing.PALETTE)], _title(data, group)
            place.plot(along.index, 100 * along["auroc"], marker="o", color=colour, label=f"{title}: AUROC")
            place.plot(along.index, 100 * along["flagged_normal"], linestyle="--", color=colour, label=f"{title}: FPR")
        place.axhline(50, color="black", linewidth=0.8, linestyle=":")
        place.set(xlabel="radius ‖δ‖₂", ylabel="%", ylim=(0, 102))
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        return drawing.finished(
            figure,
            name="certified",
            alt=f"Certified AUROC and false alarms against the radius; configurations: {rows.groupby(VICTIM).ngroups}.",
            caption="Certified AUROC (solid, at least) and certified false alarms (dashed, at most) of the smoothed "
            "score against the L2 radius, mean over trials. Dotted: chance.",
        )
