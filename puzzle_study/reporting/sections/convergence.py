"""Whether the attacks found what there is to find: each held to stronger runs on a few images."""

from __future__ import annotations

import pandas as pd

from puzzle_study.attacks.convergence import DROP, POINT, STEPS
from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import Blocks, Column, Figure, Table, section, table, words
from puzzle_study.reporting.cells import Cell, count, number, percent, share, significant, word
from puzzle_study.reporting.sections.robustness import GROUP, named
from puzzle_study.reporting.study_data import StudyData

STRONGEST = "strongest"
ALONG = [f"subset_auroc_{steps}" for steps in STEPS]
HELD_TO = ["subset_auroc", "subset_auroc_strongest", *ALONG]


@section("convergence", "Have the attacks converged?")
def build(data: StudyData) -> Blocks:
    attacks = named(data)
    if attacks is None or "subset_images" not in attacks:
        return
    held = attacks.dropna(subset=["subset_images", *HELD_TO])
    if len(held):
        groups = [rows for _, rows in held.groupby(GROUP, sort=False)]
        yield _table(groups)
        yield _figure(groups)


def _table(groups: list[pd.DataFrame]) -> Table:
    rows = []
    for group in groups:
        first, flagged = group.iloc[0], group["flags"].fillna("").str.contains("not_converged")
        gain = group["subset_strength_strongest"].mean() / group["subset_strength"].mean() - 1
        rows.append(
            {
                words("label", "Configuration"): word(first["title"]),
                words("method", "Method"): word(first["method"]),
                Column("epsilon", "ε"): number(float(first["epsilon"])),
                Column("steps", "Steps"): count(int(first["steps"])),
                Column("restarts", "Restarts"): count(int(first.get("restarts", 1))),
                Column("auroc", "AUROC %"): percent(float(group["subset_auroc"].mean())),
                **{
                    Column(f"auroc_{steps}", f"after {steps}"): percent(float(group[name].mean()))
                    for steps, name in zip(STEPS, ALONG, strict=True)
                },
                Column(STRONGEST, "Strongest"): percent(float(group["subset_auroc_strongest"].mean())),
                Column("gain", "Scores moved further by, %"): percent(float(gain)),
                words("flagged", "Not converged (trials)"): Cell(
                    f"{int(flagged.sum())} of {len(group)}", float(flagged.mean())
                ),
                Column("images", "Attacked images (n)"): count(int(group["subset_images"].sum())),
            }
        )
    return table(
        "convergence",
        "Attacks held to stronger runs",
        rows,
        "attack1 at the largest ε on a few images of each trial; mean over trials, without an interval. AUROC: as the "
        f"study attacked. After {', '.join(map(str, STEPS))}: one run of the same method with so many steps. "
        "Strongest: the best image by image of all those and of a long run of another method in the same ball. Not "
        f"converged: the strongest moves scores by more than {share(DROP, digits=0)} % more, or lowers the AUROC by "
        f"more than {share(POINT, digits=0)} point; the numbers in the section Robustness are then too high by about "
        "as much.",
    )


def _figure(groups: list[pd.DataFrame]) -> Figure:
    with drawing.drawing(6.4, 3.8) as (figure, (place,)):
        for index, group in enumerate(groups):
            first = group.iloc[0]
            colour = drawing.PALETTE[index % len(drawing.PALETTE)]
            label = f"{first['title']}, {first['method']}"
            place.plot(STEPS, [100 * group[name].mean() for name in ALONG], marker="o", color=colour, label=label)
            place.axhline(100 * group["subset_auroc_strongest"].mean(), color=colour, linestyle=":", linewidth=1)
        place.set_xscale("log")
        place.set_xticks(STEPS, [str(steps) for steps in STEPS])
        place.set(xlabel="steps", ylabel="AUROC of the subset, %")
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        ends = [float(group[ALONG[-1]].mean() - group["subset_auroc_strongest"].mean()) for group in groups]
        return drawing.finished(
            figure,
            name="convergence",
            alt=f"Lines of AUROC against steps for {len(groups)} attacks; after {STEPS[-1]} steps the widest distance "
            f"to the strongest run is {significant(100 * max(ends))} points.",
            caption="AUROC of a few images after 1, 10 and 100 steps of each iterated method, at the largest ε, mean "
            "over trials. Dotted: the strongest of all runs. A line that still falls has not converged.",
        )
