"""The best configuration, its certainty, and the references' results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from puzzle_study.config import NEED_TEST_LABELS
from puzzle_study.reporting.blocks import Blocks, Column, Paragraph, Row, Table, absent, section, table, words
from puzzle_study.reporting.cells import (
    NOTHING,
    Cell,
    bracketed,
    capital,
    count,
    estimated,
    in_seconds,
    number,
    percent,
    setting,
    share,
    spread,
    word,
)
from puzzle_study.reporting.choice import Choice
from puzzle_study.reporting.comparing import IMAGES_NOTE, compare
from puzzle_study.reporting.sections import corruptions
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.values import natural, of_class
from puzzle_study.statistics import intervals
from puzzle_study.trials.worth import SHARES, criterion, gain, shown

DIFFERENCE = Column("difference", "AUROC difference, points [95 %]")
CORRUPTED = Column("corrupted", "Corrupted AUROC %")
CORRUPTED_NOTE = "Corrupted AUROC: mean over corruptions, severities and trials, no interval; – if not measured. "
MOST_ROWS = 200
"""Rows of a table of configurations; a longer one is not read, and makes the page slow."""
PAIRS, TASKS = Column("pairs", "Pairs (n)"), Column("tasks", "Tasks (n)")


@section("ranking", "Ranking")
def build(data: StudyData) -> Blocks:
    yield Paragraph(how_selected(data))
    yield _given_up(data)
    yield winners_table(data)
    yield ranking_table(data)
    if data.searched:
        yield _one_standard_error(data)
        yield differences_table(data)
    else:
        yield absent("This study trained one configuration, which can only be compared with references.")
    yield image_differences_table(data)


def how_selected(data: StudyData) -> str:
    """Return one sentence on how the winner was chosen."""
    if not data.ranks_by_selection:
        labels = data.objectives[0] in NEED_TEST_LABELS
        return (
            f"The winner is the configuration that is best in the first objective of the search, {data.objectives[0]}"
            + (": it uses test labels (oracle), is optimistic and cannot be reached in practice." if labels else ".")
        )
    if data.criterion.uses_labels:
        return (
            "Selection: oracle. The winner was chosen by its AUROC on the test images, including labels; its AUROC is "
            "optimistic and cannot be reached in practice."
        )
    used = "test images were used without labels" if data.criterion.transductive else "test labels were not used"
    each = " Each task has its own winner." if data.per_task else ""
    return f"Selection: {data.selection_title}. The winner was chosen by the {data.criterion.meaning}; {used}.{each}"


def _given_up(data: StudyData) -> Paragraph | None:
    """Return how many configurations a race or a stopping rule gave up; they are incomplete and cannot win."""
    stopped = data.trials[data.trials["status"] == "stopped"]
    if stopped.empty:
        return None
    begun = int(stopped["epochs"].notna().sum()) if "epochs" in stopped else 0
    return Paragraph(
        f"{stopped['configuration'].nunique()} configurations were given up: {len(stopped) - begun} of their trials "
        f"were not run and {begun} were stopped during training. They are incomplete and cannot win; trials.csv "
        "gives the reasons."
    )


def ranking_table(data: StudyData) -> Table:
    """Return a row for each configuration under its best reading: by rank, then references, then incomplete ones."""
    rows = data.summary.sort_values(["rank", "auroc_mean"], ascending=[True, False])
    places = _most(rows)
    more = rows["configuration"].nunique() - len(places)
    means = intervals.method_note(data.mean(data.choice(group.iloc[0])) for _, group in places)
    lacks = data.lacking()
    ranked_by = (
        f"selection ({data.selection_title})" if data.ranks_by_selection else f"the objective {data.objectives[0]}"
    )
    selection = "mean test AUROC (oracle)." if data.criterion.uses_labels else f"{capital(_measure(data))}."
    return table(
        "ranking",
        "Configurations and references",
        [_ranking_row(data, group, place) for place, group in places],
        f"AUROC: mean over classes and seeds. {means} "
        + (f"{more} more configurations are in summary.csv. " if more > 0 else "")
        + (f"Some rows have no AUROC: {lacks}. " if lacks else "")
        + (CORRUPTED_NOTE if data.corruptions is not None else "")
        + f"Rank: by {ranked_by}, among complete configurations, each under its best reading; a reading opens into the "
        f"others, and summary.csv has all of them. Selection: {selection} Trials: finished of planned.",
    )


def _most(rows: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """Return configurations' rows with their places: at most ``MOST_ROWS``, with all references and all with a label.

    The table has three parts: complete configurations, references, incomplete ones. In each, the order of the rows
    stays.
    """
    first = rows.drop_duplicates("configuration")
    part = np.where(first["role"] == "reference", 1, np.where(first["complete"], 0, 2))
    names = first["configuration"].iloc[np.argsort(part, kind="stable")]
    named = set(rows["configuration"][(rows["role"] == "reference") | (rows["label"] != "")])
    room, kept = MOST_ROWS - len(named), list[tuple[int, pd.DataFrame]]()
    where = rows.groupby("configuration").indices
    for place, name in enumerate(names, start=1):
        if name in named or (room := room - 1) >= 0:
            kept.append((place, rows.iloc[where[name]]))
    return kept


def _ranking_row(data: StudyData, group: pd.DataFrame, place: int) -> Row:
    """Return the row of a configuration, whose readings are the rows of a group, the best first."""
    row = group.iloc[0]
    choice, labels = data.choice(row), _joined(group["label"])
    own, strong, lacks = not choice.is_reference, "winner" in labels, data.lacking(data.of(choice))
    values = data.values_of(choice.configuration) if own else {}
    is_number = {name: pd.api.types.is_numeric_dtype(data.trials[name]) for name in data.axes}
    return {
        Column("rank", "Rank"): count(None if np.isnan(row["rank"]) else place),
        words("configuration", "Configuration"): word(data.called(choice), strong=strong),
        **({words("detector", "Detector"): word(choice.title if own else "")} if data.compares_detectors else {}),
        Column("auroc", "AUROC % [95 %]"): estimated(data.mean(choice), lacks, strong=strong),
        words("reading", "Reading"): _reading(data, group) if own else word(""),
        words("label", "Label"): word(labels if own else "reference", strong=strong),
        **_selection_cells(data, row),
        **({words("wins", "Wins"): word(_joined(group["wins"]))} if data.per_task else {}),
        Column("trials", "Trials (n)"): _trials(row["trials"], row["expected"]),
        **({CORRUPTED: percent(corruptions.mean_score(data, choice))} if data.corruptions is not None else {}),
        **{Column(name, name, numeric): setting(values.get(name)) for name, numeric in is_number.items()},
    }


def _joined(values: pd.Series[str]) -> str:
    """Return labels or tasks that several readings have, each once."""
    return ", ".join(dict.fromkeys(name for value in values for name in value.split(";") if name))


def _reading(data: StudyData, group: pd.DataFrame) -> Cell:
    """Return the reading of a row, and below it what the other readings reach."""
    first, *others = (data.choice(row) for _, row in group.iterrows())
    more = []
    for choice in others:
        mean, selection = data.mean(choice), data.mean(choice, "selection")
        parts = [f"AUROC {share(mean.value)} %{bracketed(mean)}"] if mean else []
        parts += [f"selection {share(selection.value)} %"] if selection and not data.criterion.compares else []
        more.append(f"{_way(data, choice)}: {', '.join(parts) or NOTHING}")
    return replace(word(_way(data, first)), more=tuple(more))


def _way(data: StudyData, choice: Choice) -> str:
    return f"{choice.aggregation}, {choice.error}" if data.searches_error else choice.aggregation


def _selection_cells(data: StudyData, row: pd.Series[Any]) -> Row:
    """Return what a row is worth by the selection: a share in percent, or a number."""
    if criterion(data.selection) in SHARES:
        cells = {Column("selection", "Selection %"): percent(row["selection_mean"])}
    else:
        cells = {Column("selection", "Selection"): number(row["selection_mean"])}
    if data.criterion.compares:
        cells[Column("goodness", capital(data.selection_title))] = number(row["goodness"])
    return cells


def _measure(data: StudyData) -> str:
    """Return what the column Selection is: what the search was told."""
    if not data.criterion.compares:
        return data.criterion.meaning
    return (
        "what the search was told meanwhile, the mean AUROC against pseudo-anomalies. "
        f"{capital(data.selection_title)}: {data.criterion.meaning}"
    )


def winners_table(data: StudyData) -> Table | None:
    """Return the winner of each task, if each has its own."""
    won = data.configurations[data.configurations["wins"] != ""]
    if not data.per_task or won.empty:
        return None
    rows = [
        {
            words("task", "Task"): word(task),
            words("detector", "Detector"): word(choice.title),
            words("configuration", "Configuration"): word(data.called(choice)),
            words("aggregation", "Aggregation"): word(choice.aggregation),
            Column("auroc", "AUROC %"): spread(of_class(data.metric(choice), task.partition(" repeat ")[0])),
        }
        for _, row in won.iterrows()
        for choice in [data.choice(row)]
        for task in row["wins"].split(";")
    ]
    rows.sort(key=lambda row: natural(next(iter(row.values())).text))
    return table(
        "winners",
        "The winner of each task",
        rows,
        "AUROC: mean over seeds ± their standard deviation. best/ holds these detectors; the other sections describe "
        "the configuration that is best over all tasks.",
    )


def differences_table(data: StudyData) -> Table | None:
    """Compare the winner with every other configuration (its best row by rank) and every reference."""
    winner = data.winner
    if winner is None:
        return None
    others = data.ranked[data.ranked["configuration"] != winner.configuration].drop_duplicates("configuration")
    rivals = [data.choice(row) for _, row in others.head(MOST_ROWS).iterrows()]
    left_out = f"With the best {MOST_ROWS} of {len(others)} others. " if len(others) > MOST_ROWS else ""
    found = {
        choice: compared
        for choice in (*rivals, *data.references)
        if (compared := compare((data, winner), (data, choice)))
    }
    if not found:
        return None
    differences = [one.difference for one in found.values()]
    rows: list[Row] = []
    for (choice, one), p_value in zip(found.items(), intervals.holm([one.p_value for one in differences]), strict=True):
        difference = one.difference
        lost = difference.pairs - difference.wins - difference.ties
        rows.append(
            {
                words("against", "Against"): word(data.titled(choice)),
                words("aggregation", "Aggregation"): word("" if choice.is_reference else choice.aggregation),
                DIFFERENCE: estimated(difference.mean, signed=True, digits=2),
                PAIRS: count(difference.pairs),
                TASKS: count(difference.mean.strata),
                Column("wins", "Won/tied/lost"): Cell(f"{difference.wins}/{difference.ties}/{lost}", difference.wins),
                Column("p", "p (Wilcoxon)"): number(difference.p_value),
                Column("p_holm", "p (Holm)"): number(p_value),
                Column("probability", "P(winner better) % [95 %]"): estimated(one.chance, digits=0),
            }
        )
    return table(
        "paired_differences",
        "The winner against the others, on the same tasks and seeds",
        rows,
        f"{left_out}Difference: winner minus other. {intervals.method_note(one.mean for one in differences)} "
        "P(winner better): the probability that it wins a trial on the same task. "
        f"{intervals.method_note(one.chance for one in found.values())} {intervals.p_note(differences)}",
        collapsed=len(rows) > 8,
    )


def image_differences_table(data: StudyData) -> Table | None:
    """Compare the winner with the default and every reference over their test images."""
    winner = data.winner
    if winner is None:
        return None
    default = [data.default] if data.default and data.default.configuration != winner.configuration else []
    rows: list[Row] = []
    for choice in [*default, *data.references]:
        compared = compare((data, winner), (data, choice))
        if compared and (found := compared.over_images):
            rows.append(
                {
                    words("against", "Against"): word(choice.title if choice.is_reference else "the default"),
                    DIFFERENCE: estimated(found, signed=True, digits=2),
                    Column("images", "Test images (n)"): count(found.images),
                    TASKS: count(len(set(compared.strata))),
                    PAIRS: count(len(compared.strata)),
                }
            )
    title = "The winner against the default and the references, over the same test images"
    note = f"Difference: winner minus other. {IMAGES_NOTE}"
    return table("image_differences", title, rows, note) if rows else None


def _one_standard_error(data: StudyData) -> Paragraph | None:
    """Return a cheaper configuration that is as good by the ranking measure."""
    if data.criterion.compares:
        return None  # ranks have no standard error
    metric = data.objectives[0]
    candidates = []
    for _, row in data.ranked.iterrows():
        choice = data.choice(row)
        mean = data.mean(choice, metric)
        if mean:
            seconds = pd.to_numeric(data.of(choice)["train_seconds"], errors="coerce").mean()
            candidates.append((choice, mean, float(seconds)))
            if not _is_close(metric, mean, best=candidates[0][1]):
                break  # all after it rank lower
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
        f"One-standard-error choice: {data.titled(choice, 'configuration ')} with {choice.aggregation} trains fastest "
        f"({in_seconds(seconds)} s per trial) among those whose {measure} is within one standard error of the best: "
        f"{shown(metric, mean.value)}{reached}."
    )


def _is_close(metric: str, mean: intervals.Mean, best: intervals.Mean) -> bool:
    """Whether a mean may be within one standard error of the best one, which has rank 1."""
    margin = float(np.nan_to_num(best.standard_error)) + 1e-9
    return gain(metric, mean.value) >= gain(metric, best.value) - margin


def _trials(done: float, planned: float) -> Cell:
    if np.isnan(done):
        return Cell(NOTHING)
    return Cell(f"{done:.0f}" if np.isnan(planned) else f"{done:.0f}/{planned:.0f}", int(done))
