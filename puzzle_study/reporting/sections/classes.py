"""AUROC by normal class and aggregation, compared with references and paper, and FPR at high TPR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE
from puzzle_study.reporting import paper_values
from puzzle_study.reporting.blocks import Blocks, Column, Row, Table, absent, section, table, words
from puzzle_study.reporting.cells import NOTHING, Cell, count, estimated, percent, share, spread, word
from puzzle_study.reporting.choice import AGGREGATIONS, Choice
from puzzle_study.reporting.paper_values import PaperValues
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.values import of_class as values_of_class
from puzzle_study.statistics.intervals import Estimate

IMAGE_INTERVAL = (
    "Interval: stratified bootstrap over the test images, percentile, 95 %, its ends averaged over the seeds, which "
    "share the images. It does not cover the training; ± is the standard deviation over seeds. If normal and "
    "anomalous images do not overlap, the interval is a point, which says nothing about unseen images."
)
SPREAD = "Mean over seeds ± standard deviation over seeds if there are several; no interval."
CLASS = words("class", "Normal class")
COUNTS = (Column("seeds", "Seeds (n)"), Column("images", "Test images (n)"), Column("anomalies", "Anomalies (n)"))
FLAGGED = {"flagged_normal": "normal", "flagged_anomalous": "anomalous"}
FPR = {"fpr_at_tpr95": "95", "fpr_at_tpr99": "99", "fpr_at_tpr995": "99.5"}


@section("classes", "Classes and aggregations")
def build(data: StudyData) -> Blocks:
    winner, default, chosen = data.winner, data.default, data.described
    if chosen is None:
        yield absent("No configuration finished.")
        return
    name = "winner" if winner else "default"
    if data.mean(chosen) is None and (lacks := data.lacking(data.of(chosen))):
        yield absent(f"There is no test AUROC by class: {lacks}.")
        if any(len(values) for values in _flagged(data, chosen).values()):
            yield flagged_table(data, chosen, name)
        return
    for build_table in (auroc_table, fpr_table, flagged_table):
        yield build_table(data, chosen, name)
    if winner and default and default.configuration != winner.configuration and len(data.of(default)):
        yield auroc_table(data, default, "default", collapsed=True)


def auroc_table(data: StudyData, choice: Choice, name: str, *, collapsed: bool = False) -> Table:
    """Return AUROC by class under every aggregation, for the references, and from the paper."""
    ours = {
        Column(f"auroc_{one.aggregation}", f"{one.aggregation} %{' (selected)' if one == choice else ''}"): one
        for one in choice.by_aggregation()
    }
    ours |= {Column(f"auroc_{one.detector}", f"{one.title} %"): one for one in data.references}
    papers = _papers(data, choice)
    theirs = {
        Column(f"paper_{way}", f"the paper's % ({data.paper_source(choice, paper.source)})"): paper
        for way, paper in papers.items()
    }
    last = {
        Column(f"last20_{one.aggregation}", f"{one.aggregation} %, last 20 evaluations"): one
        for one in choice.by_aggregation()
        if one.aggregation in papers and papers[one.aggregation].last20 and len(data.metric(one, "last20", "_mean"))
    }

    def of_class(name: str, number: str) -> Row:
        return {
            **{one: class_cell(data, own, name, strong=own == choice) for one, own in ours.items()},
            **{one: _last20_cell(data, own, name) for one, own in last.items()},
            **{one: _printed(own.by_class.get(number), own.spread.get(number)) for one, own in theirs.items()},
        }

    means: dict[Column, float | None] = {
        one: float(data.metric(own, "last20", "_mean").mean()) for one, own in last.items()
    }
    means |= {one: _mean_of(data, choice, own.by_class) if own.by_class else own.mean for one, own in theirs.items()}
    mean = {
        one: estimated(data.mean(own), data.lacking(data.of(own)), strong=own == choice) for one, own in ours.items()
    }
    mean |= {one: percent(value, digits=2) for one, value in means.items()}
    title, note = f"AUROC by normal class: the {name}", _auroc_note(data, choice, bool(papers), bool(last))
    return table(f"classes_{name}", title, _rows(data, choice, of_class, mean), note, collapsed=collapsed)


def _papers(data: StudyData, choice: Choice) -> dict[str, PaperValues]:
    """Return the paper's values by aggregation, under the choice's own if the paper has only one."""
    conditions = data.conditions(choice)
    found = {way: paper_values.auroc(data.dataset, conditions, aggregation=way) for way in AGGREGATIONS}
    papers = {way: paper for way, paper in found.items() if paper}
    told_apart = len({paper.source for paper in papers.values()}) > 1
    return {way: paper for way, paper in papers.items() if told_apart or way == choice.aggregation}


def _auroc_note(data: StudyData, choice: Choice, papers: bool, last: bool) -> str:
    mean = data.mean(choice)
    note = (
        f"AUROC of {data.label(choice)} (configuration {data.called(choice)}, error norm {choice.error}, selection: "
        f"{data.selected_by}), mean over seeds. {IMAGE_INTERVAL} Last row: mean over classes and seeds"
        + (f"; interval: {mean.method}." if mean else ".")
    )
    if papers:
        note += " The paper's values are as printed there; its mean is over the classes shown here."
        if last:
            note += (
                " They are means over the last 20 epochs of a training. Before them are our means over the "
                "last 20 evaluations on the images of evaluate.max_images, mean over seeds ± over the evaluations. "
                + paper_values.PLUS_MINUS
            )
        return note + data.paper_note(choice)
    missing = paper_values.missing_auroc(data.dataset, data.conditions(choice))
    return f"{note} {missing}" if missing else note


def fpr_table(data: StudyData, choice: Choice, name: str) -> Table:
    """Return the share of normal images flagged if 95, 99 and 99.5 % of the anomalies are caught."""
    conditions = data.conditions(choice)
    papers = {f"at {tpr} %": paper_values.fpr_at_tpr(data.dataset, float(tpr), conditions) for tpr in FPR.values()}
    unstated = paper_values.fpr_at_unstated_tpr(data.dataset, conditions)
    papers["TPR not stated"] = unstated
    source = data.paper_source(choice, "Table 4" if unstated else "Table 10")
    theirs = {
        Column(f"paper_{''.join(filter(str.isalnum, tpr))}", f"the paper's FPR %, {tpr} ({source})"): values
        for tpr, values in papers.items()
        if values
    }
    ours = {Column(metric, f"FPR % at TPR {tpr} %"): data.metric(choice, metric) for metric, tpr in FPR.items()}
    ours[Column("average_precision", "Average precision %")] = data.metric(choice, "average_precision")

    def of_class(name: str, number: str) -> Row:
        lacks = _lacks(data, choice, name)
        own = {one: spread(values_of_class(values, name), lacks) for one, values in ours.items()}
        return own | {one: percent(values.get(number)) for one, values in theirs.items()}

    mean = {one: percent(float(values.mean()) if len(values) else None) for one, values in ours.items()}
    mean |= {one: percent(_mean_of(data, choice, values)) for one, values in theirs.items()}
    missing = paper_values.missing_fpr(data.dataset, conditions)
    return table(
        f"fpr_{name}",
        f"False positive rate at high true positive rate: the {name}, {choice.aggregation}",
        _rows(data, choice, of_class, mean),
        "Share of normal images flagged if that share of anomalies is caught (smallest over all thresholds). "
        f"{SPREAD} With few anomalies the highest rates depend on single images."
        + (data.paper_note(choice) if theirs else "")
        + (f" {missing}" if missing else ""),
    )


def flagged_table(data: StudyData, choice: Choice, name: str) -> Table | None:
    """Return the shares of test images above the calibrated threshold, or None if an old trials.csv lacks them."""
    found = _flagged(data, choice)
    if not found:
        return None

    def of_class(name: str, _: str) -> Row:
        return {
            Column(metric, f"Flagged of the {kind} %"): spread(
                values_of_class(found[metric], name), f"no {kind} test images"
            )
            for metric, kind in FLAGGED.items()
        }

    return table(
        f"flagged_{name}",
        f"Test images above the calibrated threshold: the {name}, {choice.aggregation}",
        _rows(data, choice, of_class),
        "The threshold is the one that puzzle-study score uses for a false-positive rate of "
        f"{100 * FALSE_POSITIVE_RATE:g} %. It comes from the validation images alone; fewer than 19 of them cannot "
        f"keep that rate. Flagged normal images are false alarms, flagged anomalous ones are found. {SPREAD}",
    )


def flagged_sentence(data: StudyData, choice: Choice) -> str:
    """Return :func:`flagged_table` as a sentence that begins with a blank, for a study without AUROC."""
    return "".join(
        f" At the calibrated threshold for {100 * FALSE_POSITIVE_RATE:g} % false alarms "
        f"{share(float(values.mean()))} % of the {FLAGGED[metric]} test images are flagged "
        f"(mean of {len(values)} trials)."
        for metric, values in _flagged(data, choice).items()
        if len(values)
    )


def _flagged(data: StudyData, choice: Choice) -> dict[str, pd.Series[float]]:
    if f"flagged_normal_{choice.aggregation}" not in data.trials:
        return {}
    return {metric: data.metric(choice, metric) for metric in FLAGGED}


def _rows(data: StudyData, choice: Choice, of_class: Callable[[str, str], Row], mean: Row | None = None) -> list[Row]:
    """Return a row per class with its counts, given its name and the paper's number, and a row of the means."""
    rows = []
    for name in data.classes_of(choice):
        own = data.of(choice)
        own = own[own["normal_class"] == name]
        images = (own[column].astype(float).max() if column in own else np.nan for column in ("n_test", "n_anomalies"))
        counts = dict(zip(COUNTS, map(count, (len(own), *images)), strict=True))
        number = paper_values.class_number(data.dataset, name)
        rows.append({CLASS: word(name), **of_class(name, number), **counts})
    if mean is not None:
        rows.append({CLASS: word("mean", strong=True), **mean, **dict.fromkeys(COUNTS, Cell(""))})
    return rows


def class_cell(data: StudyData, choice: Choice, normal_class: str, *, strong: bool = False) -> Cell:
    """Return a class's AUROC, the mean over seeds with the interval over its images."""
    values, low, high = (
        values_of_class(data.metric(choice, suffix=end), normal_class) for end in ("", "_low", "_high")
    )
    if not len(values):
        return Cell(_lacks(data, choice, normal_class))
    ends = (float(low.mean()), float(high.mean())) if len(low) == len(high) == len(values) else (np.nan, np.nan)
    cell = estimated(Estimate(float(values.mean()), *ends), strong=strong)
    text = cell.text
    if len(values) > 1 and not choice.is_reference:
        text += f" ± {100 * float(values.std()):.1f}"
    return replace(cell, text=text + " inverted" if ends[1] < 0.5 else text)


def _last20_cell(data: StudyData, choice: Choice, normal_class: str) -> Cell:
    """Return a class's mean over the last 20 evaluations ± their standard deviation, both averaged over seeds."""
    mean, deviation = (values_of_class(data.metric(choice, "last20", end), normal_class) for end in ("_mean", "_std"))
    return _printed(float(mean.mean()) if len(mean) else None, float(deviation.mean()) if len(deviation) else None)


def _printed(value: float | None, deviation: float | None) -> Cell:
    """Return a share in percent with two digits and its ± with three, as in the paper."""
    cell = percent(value, digits=2)
    return cell if value is None or deviation is None else Cell(f"{cell.text} ± {share(deviation, digits=3)}", value)


def _mean_of(data: StudyData, choice: Choice, printed: Mapping[str, float]) -> float | None:
    """Return the paper's mean over the classes of a table, or None if it has none of them."""
    classes = [paper_values.class_number(data.dataset, one) for one in data.classes_of(choice)]
    values = [printed[one] for one in classes if one in printed]
    return sum(values) / len(values) if values else None


def _lacks(data: StudyData, choice: Choice, normal_class: str) -> str:
    """Return the text for a class without a number."""
    rows = data.of(choice)
    return data.lacking(rows[rows["normal_class"] == normal_class]) or NOTHING
