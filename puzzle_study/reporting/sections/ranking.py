"""Which configuration is best, how sure that is, and what the references reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from puzzle_study.config import NEED_TEST_LABELS
from puzzle_study.reporting.blocks import (
    NOTHING,
    Block,
    Cell,
    Column,
    Paragraph,
    Section,
    Table,
    absent,
    count,
    number,
    percent,
    section,
    share,
    significant,
    word,
)
from puzzle_study.reporting.scores import IMAGES_NOTE, image_difference
from puzzle_study.reporting.study_data import Choice, paired, tasks_of
from puzzle_study.statistics import intervals
from puzzle_study.trials.worth import gain, shown

if TYPE_CHECKING:
    from pathlib import Path

    from puzzle_study.reporting.study_data import StudyData


def build(data: StudyData, figures: Path) -> Section:
    """Return the section."""
    blocks: list[Block | None] = [Paragraph(how_selected(data)), _given_up(data), ranking_table(data)]
    if data.searched:
        blocks += [_one_standard_error(data), differences_table(data)]
    else:
        blocks.append(
            absent("This study trained one configuration: there is nothing to rank it against but references.")
        )
    blocks.append(image_differences_table(data))
    return section("ranking", "Ranking", blocks)


def how_selected(data: StudyData) -> str:
    """Return one sentence on how the winner was chosen."""
    if not data.ranks_by_selection:
        labels = data.objectives[0] in NEED_TEST_LABELS
        return (
            f"The winner is the configuration that is best in the first objective of the search, {data.objectives[0]}"
            + (": it needs test labels (oracle), is optimistic and cannot be had in practice." if labels else ".")
        )
    if data.selection == "oracle":
        return (
            "Selection: oracle. The winner was chosen by its AUROC on the test images, labels included; its AUROC is "
            "optimistic and cannot be had in practice."
        )
    return (
        "Selection: pseudo-anomalies. The winner was chosen by the AUROC of validation images against pseudo-anomalies "
        "made of them; test labels were not used."
    )


def _ranked_by(data: StudyData) -> str:
    return f"selection ({data.selection_title})" if data.ranks_by_selection else f"the objective {data.objectives[0]}"


def _given_up(data: StudyData) -> Paragraph | None:
    """Return how many configurations a race or a stopping rule gave up; they are incomplete and cannot win."""
    stopped = data.trials[data.trials["status"] == "stopped"]
    if stopped.empty:
        return None
    begun = int(stopped["epochs"].notna().sum()) if "epochs" in stopped else 0
    return Paragraph(
        f"{stopped['configuration'].nunique()} configurations were given up: {len(stopped) - begun} of their trials "
        f"were not run and {begun} were stopped along their training. They are incomplete and cannot win; trials.csv "
        "says why."
    )


def ranking_table(data: StudyData) -> Table:
    """Return all rows of the summary: configurations by rank, then references, then what is incomplete."""
    is_own = data.summary["role"] == "configuration"
    group = np.where(is_own, np.where(data.summary["complete"], 0, 2), 1)
    rows = data.summary.assign(_group=group)
    rows = rows.sort_values(["_group", "rank", "auroc_mean"], ascending=[True, True, False])
    columns = [
        Column("rank", "Rank"),
        Column("configuration", "Configuration", numeric=False),
        *([Column("detector", "Detector", numeric=False)] if data.compares_detectors else []),
        Column("auroc", "AUROC % [95 %]"),
        Column("aggregation", "Aggregation", numeric=False),
        *([Column("error", "Error norm", numeric=False)] if data.searches_error else []),
        Column("label", "Label", numeric=False),
        Column("selection", "Selection %"),
        Column("trials", "Trials (n)"),
        *(Column(name, name, numeric=pd.api.types.is_numeric_dtype(data.trials[name])) for name in data.axes),
    ]
    methods: set[str] = set()
    cells = []
    for _, row in rows.iterrows():
        choice = data.choice(row)
        mean = data.mean(choice)
        if mean:
            methods.add(mean.method)
        strong = "winner" in row["label"]
        cells.append(
            (
                count(row["rank"]),
                word(choice.title if choice.is_reference else choice.configuration),
                *([word("" if choice.is_reference else choice.title)] if data.compares_detectors else []),
                percent(mean.value, mean.low, mean.high, strong=strong)
                if mean
                else Cell(data.lacking(data.of(choice)) or NOTHING),
                word("" if choice.is_reference else choice.aggregation),
                *([word("" if choice.is_reference else choice.error)] if data.searches_error else []),
                word("reference" if choice.is_reference else row["label"].replace(";", ", "), strong=strong),
                percent(row["selection_mean"]),
                _trials(row["trials"], row["expected"]),
                *(axis_cell(value) for value in _axis_values(data, choice)),
            )
        )
    return Table(
        "ranking",
        "Configurations and references",
        tuple(columns),
        tuple(cells),
        f"AUROC: mean over classes and seeds. {intervals.method_note(methods)} {_lacks(data)}"
        f"Rank: by {_ranked_by(data)}, among complete rows that may be selected. "
        "Selection: "
        + ("mean test AUROC (oracle)." if data.selection == "oracle" else "mean AUROC against pseudo-anomalies.")
        + " Trials: finished of planned.",
    )


def _lacks(data: StudyData) -> str:
    lacks = data.lacking()
    return f"There is no AUROC where it cannot be measured: {lacks}. " if lacks else ""


def differences_table(data: StudyData) -> Table | None:
    """Return the winner against every other configuration (its best row by rank) and every reference."""
    winner = data.winner
    if winner is None:
        return None
    own = data.metric(winner)
    compared = []
    for choice in rivals(data):
        mine, theirs = paired(own, data.metric(choice), reference=choice.is_reference)
        if len(mine):
            strata = tasks_of(mine)
            difference = intervals.paired_difference(mine.to_numpy(), theirs.to_numpy(), strata)
            chance = intervals.probability_of_improvement(mine.to_numpy(), theirs.to_numpy(), strata)
            compared.append((choice, difference, chance))
    if not compared:
        return None
    corrected = intervals.holm([difference.p_value for _, difference, _ in compared])
    rows = tuple(
        (
            word(choice.title if choice.is_reference else choice.configuration),
            word("" if choice.is_reference else choice.aggregation),
            percent(difference.mean.value, difference.mean.low, difference.mean.high, signed=True, digits=2),
            count(difference.pairs),
            count(difference.mean.strata),
            Cell(
                f"{difference.wins}/{difference.ties}/{difference.pairs - difference.wins - difference.ties}",
                difference.wins,
            ),
            number(difference.p_value),
            number(p_value),
            percent(chance.value, chance.low, chance.high, digits=0),
        )
        for (choice, difference, chance), p_value in zip(compared, corrected, strict=True)
    )
    differences = [difference for _, difference, _ in compared]
    methods = [difference.mean.method for difference in differences]
    chances = [chance.method for _, _, chance in compared]
    return Table(
        "paired_differences",
        "The winner against the others, on the same tasks and seeds",
        (
            Column("against", "Against", numeric=False),
            Column("aggregation", "Aggregation", numeric=False),
            Column("difference", "AUROC difference, points [95 %]"),
            Column("pairs", "Pairs (n)"),
            Column("tasks", "Tasks (n)"),
            Column("wins", "Won/tied/lost"),
            Column("p", "p (Wilcoxon)"),
            Column("p_holm", "p (Holm)"),
            Column("probability", "P(winner better) % [95 %]"),
        ),
        rows,
        f"Difference: winner minus other. {intervals.method_note(methods)} P(winner better): the chance that it wins "
        f"a trial on the same task. {intervals.method_note(chances)} {intervals.p_note(differences)}",
        collapsed=len(rows) > 8,
    )


def image_differences_table(data: StudyData) -> Table | None:
    """Return the winner against the default and every reference over their test images."""
    winner = data.winner
    if winner is None:
        return None
    own, rows = data.metric(winner), []
    default = [data.default] if data.default and data.default.configuration != winner.configuration else []
    for choice in [*default, *(data.reference(name) for name in data.references)]:
        mine, _ = paired(own, data.metric(choice), reference=choice.is_reference)
        found = image_difference((data, winner), (data, choice), mine.index) if len(mine) else None
        if found is not None:
            rows.append(
                (
                    word(choice.title if choice.is_reference else "the default"),
                    percent(found.value, found.low, found.high, signed=True, digits=2),
                    count(found.images),
                    count(len(set(tasks_of(mine)))),
                    count(len(mine)),
                )
            )
    if not rows:
        return None
    return Table(
        "image_differences",
        "The winner against the default and the references, over the same test images",
        (
            Column("against", "Against", numeric=False),
            Column("difference", "AUROC difference, points [95 %]"),
            Column("images", "Test images (n)"),
            Column("tasks", "Tasks (n)"),
            Column("pairs", "Pairs (n)"),
        ),
        tuple(rows),
        f"Difference: winner minus other. {IMAGES_NOTE}",
    )


def rivals(data: StudyData) -> list[Choice]:
    """Return every other configuration at its best rank, and every reference."""
    winner = data.winner
    rows = data.configurations.dropna(subset=["rank"]).sort_values("rank").drop_duplicates("configuration")
    others = [data.choice(row) for _, row in rows.iterrows()]
    others = [choice for choice in others if winner is None or choice.configuration != winner.configuration]
    return [*others, *(data.reference(name) for name in data.references)]


def axis_cell(value: object) -> Cell:
    """Return a cell for the value of a searched setting, which may be missing, a number or a word."""
    if isinstance(value, (bool, np.bool_, str)):
        return word(value)
    if isinstance(value, (int, float, np.number)):
        return number(float(value))
    return Cell("–")


def _one_standard_error(data: StudyData) -> Paragraph | None:
    """Return which cheaper configuration is as good by the measure that ranks."""
    metric = data.objectives[0]
    rows = data.configurations.dropna(subset=["rank"])
    candidates = []
    for _, row in rows.iterrows():
        choice = data.choice(row)
        mean = data.mean(choice, metric)
        if mean:
            seconds = pd.to_numeric(data.of(choice)["train_seconds"], errors="coerce").mean()
            candidates.append((choice, mean, float(seconds)))
    if len(candidates) < 2:
        return None
    index = intervals.one_standard_error(
        [gain(metric, mean.value) for _, mean, _ in candidates],
        [mean.standard_error for _, mean, _ in candidates],
        [seconds for _, _, seconds in candidates],
    )
    choice, mean, seconds = candidates[index]
    auroc = data.mean(choice)
    measure = f"selection score ({data.selection_title})" if data.ranks_by_selection else data.selected_by
    reached = f"; its test AUROC is {share(auroc.value)} % (n = {auroc.n})" if auroc else ""
    return Paragraph(
        f"One-standard-error choice: configuration {choice.configuration} with {choice.aggregation} is the one that "
        f"trains fastest ({significant(seconds)} s a trial) among those whose {measure} is within one standard error "
        f"of the best: {shown(metric, mean.value)}{reached}."
    )


def _trials(done: float, planned: float) -> Cell:
    if np.isnan(done):
        return Cell("–")
    return Cell(f"{done:.0f}" if np.isnan(planned) else f"{done:.0f}/{planned:.0f}", int(done))


def _axis_values(data: StudyData, choice: Choice) -> list[object]:
    if choice.is_reference:
        return [None] * len(data.axes)
    values = data.values_of(choice.configuration)
    return [values.get(name) for name in data.axes]
