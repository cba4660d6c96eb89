"""AUROC by normal class and aggregation, beside the references and the paper, and FPR at high TPR."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE
from puzzle_study.reporting import paper_values
from puzzle_study.reporting.blocks import (
    NOTHING,
    Block,
    Cell,
    Column,
    Section,
    Table,
    absent,
    count,
    percent,
    section,
    share,
    word,
)
from puzzle_study.reporting.study_data import AGGREGATIONS, Choice, natural

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from puzzle_study.reporting.study_data import StudyData

IMAGE_INTERVAL = (
    "Interval: stratified bootstrap over the test images, percentile, 95 %, its ends averaged over the seeds, which "
    "share the images. It does not cover the training; ± is the standard deviation over seeds. Where normal and "
    "anomalous images do not overlap the interval is a point, which says nothing about images not seen."
)

FLAGGED = (("flagged_normal", "normal"), ("flagged_anomalous", "anomalous"))


def build(data: StudyData, figures: Path) -> Section:
    """Return the section."""
    title = "Classes and aggregations"
    winner, default = data.winner, data.default
    chosen = data.described
    if chosen is None:
        return section("classes", title, [absent("No configuration finished.")])
    name = "winner" if winner else "default"
    tables: list[Block | None] = [
        build_table(data, chosen, name) for build_table in (auroc_table, fpr_table, flagged_table)
    ]
    if winner and default and default.configuration != winner.configuration and len(data.of(default)):
        tables += [auroc_table(data, default, "default", collapsed=True)]
    return section("classes", title, tables)


def auroc_table(data: StudyData, choice: Choice, name: str, *, collapsed: bool = False) -> Table:
    """Return AUROC by class under every aggregation, of the references, and of the paper."""
    variants = [Choice(choice.configuration, choice.detector, way, choice.error) for way in AGGREGATIONS]
    references = [data.reference(reference) for reference in data.references]
    conditions = data.conditions(choice)
    papers = [(paper_values.auroc(data.dataset, conditions, aggregation=way), way) for way in AGGREGATIONS]
    by_aggregation = len({paper.source for paper, _ in papers if paper}) > 1
    shown = [(paper, way) for paper, way in papers if paper and (by_aggregation or way == choice.aggregation)]
    columns = [Column("class", "Normal class", numeric=False)]
    for variant in variants:
        mark = " (selected)" if variant.aggregation == choice.aggregation else ""
        columns.append(Column(f"auroc_{variant.aggregation}", f"{variant.aggregation} %{mark}"))
    columns += [Column(f"auroc_{one.detector}", f"{one.title} %") for one in references]
    alike = [one for one in variants if any(paper.last20 and way == one.aggregation for paper, way in shown)]
    alike = [one for one in alike if len(data.metric(one, "last20", "_mean"))]
    columns += [Column(f"last20_{one.aggregation}", f"{one.aggregation} %, last 20 evaluations") for one in alike]
    columns += [
        Column(f"paper_{way}", f"the paper's % ({data.paper_source(choice, paper.source)})") for paper, way in shown
    ]
    columns += [Column("seeds", "Seeds (n)"), Column("images", "Test images (n)"), Column("anomalies", "Anomalies (n)")]
    rows = []
    for normal_class in _classes(data, choice):
        cells = [word(normal_class)]
        cells += [class_cell(data, one, normal_class, strong=one == choice) for one in [*variants, *references]]
        cells += [last20_cell(data, one, normal_class) for one in alike]
        number = paper_values.class_number(data.dataset, normal_class)
        cells += [_printed(paper.by_class.get(number), paper.spread.get(number)) for paper, _ in shown]
        rows.append((*cells, *_counts(data, choice, normal_class)))
    means = [percent(float(data.metric(one, "last20", "_mean").mean()), digits=2) for one in alike]
    means += _paper_means(data, choice, shown)
    rows.append((*_mean_cells(data, choice, [*variants, *references]), *means, *_no_counts()))
    note = (
        f"AUROC of {data.label(choice)} (configuration {choice.configuration}, error norm {choice.error}, selection: "
        f"{data.selected_by}), mean over seeds. {IMAGE_INTERVAL} Last row: mean over classes and seeds"
    )
    mean = data.mean(choice)
    note += f"; interval: {mean.method}." if mean else "."
    if shown:
        note += " The paper's values are as printed there; its mean is over the classes shown here."
        if alike:
            note += (
                " They are means over the last 20 epochs of a training; ours of that kind stand before them, over the "
                "last 20 evaluations on the images of evaluate.max_images, mean over seeds ± over the evaluations. "
                + paper_values.PLUS_MINUS
            )
        note += data.paper_note(choice)
    elif missing := paper_values.missing_auroc(data.dataset, conditions):
        note += f" {missing}"
    return Table(f"classes_{name}", f"AUROC by normal class: the {name}", tuple(columns), tuple(rows), note, collapsed)


def fpr_table(data: StudyData, choice: Choice, name: str) -> Table:
    """Return the share of normal images flagged when 95, 99 and 99.5 % of the anomalies are caught."""
    metrics = (("fpr_at_tpr95", "95", 95.0), ("fpr_at_tpr99", "99", 99.0), ("fpr_at_tpr995", "99.5", 99.5))
    conditions = data.conditions(choice)
    papers = [(tpr, paper_values.fpr_at_tpr(data.dataset, value, conditions)) for _, tpr, value in metrics]
    papers = [(f"at {tpr} %", values) for tpr, values in papers if values]
    unstated = paper_values.fpr_at_unstated_tpr(data.dataset, conditions)
    papers += [("TPR not stated", unstated)] if unstated else []
    columns = [Column("class", "Normal class", numeric=False)]
    columns += [Column(metric, f"FPR % at TPR {tpr} %") for metric, tpr, _ in metrics]
    columns += [Column("average_precision", "Average precision %")]
    source = data.paper_source(choice, "Table 4" if unstated else "Table 10")
    columns += [
        Column(f"paper_{''.join(filter(str.isalnum, tpr))}", f"the paper's FPR %, {tpr} ({source})")
        for tpr, _ in papers
    ]
    columns += [Column("seeds", "Seeds (n)"), Column("images", "Test images (n)"), Column("anomalies", "Anomalies (n)")]
    series = [data.metric(choice, metric) for metric, _, _ in metrics] + [data.metric(choice, "average_precision")]
    rows = []
    for normal_class in _classes(data, choice):
        lacks = _lacks(data, choice, normal_class)
        cells = [word(normal_class)]
        cells += [spread_cell(_of_class(values, normal_class), otherwise=lacks) for values in series]
        number = paper_values.class_number(data.dataset, normal_class)
        cells += [percent(values.get(number)) for _, values in papers]
        rows.append((*cells, *_counts(data, choice, normal_class)))
    means = [percent(float(values.mean())) if len(values) else Cell(NOTHING) for values in series]
    classes = [paper_values.class_number(data.dataset, one) for one in _classes(data, choice)]
    theirs = [percent(_mean_of([values[one] for one in classes if one in values])) for _, values in papers]
    missing = paper_values.missing_fpr(data.dataset, conditions)
    rows.append((word("mean", strong=True), *means, *theirs, *_no_counts()))
    return Table(
        f"fpr_{name}",
        f"False positive rate at high true positive rate: the {name}, {choice.aggregation}",
        tuple(columns),
        tuple(rows),
        "Share of normal images flagged when that share of anomalies is caught (smallest over all thresholds). Mean "
        "over seeds ± standard deviation over seeds where there are several; no interval. With few anomalies the "
        "highest rates hang on single images."
        + (data.paper_note(choice) if papers else "")
        + (f" {missing}" if missing else ""),
    )


def class_cell(data: StudyData, choice: Choice, normal_class: str, *, strong: bool = False) -> Cell:
    """Return the AUROC of a class, mean over seeds with the interval of its images."""
    values = _of_class(data.metric(choice), normal_class)
    if not len(values):
        return Cell(_lacks(data, choice, normal_class))
    low = _of_class(data.metric(choice, suffix="_low"), normal_class)
    high = _of_class(data.metric(choice, suffix="_high"), normal_class)
    ends = (float(low.mean()), float(high.mean())) if len(low) == len(high) == len(values) else (None, None)
    cell = percent(float(values.mean()), *ends, strong=strong)
    text = cell.text
    if len(values) > 1 and not choice.is_reference:
        text += f" ± {100 * float(values.std()):.1f}"
    if ends[1] is not None and ends[1] < 0.5:
        text += " inverted"
    return Cell(text, cell.value, cell.low, cell.high, strong)


def last20_cell(data: StudyData, choice: Choice, normal_class: str) -> Cell:
    """Return the mean over the last 20 evaluations of a class ± their standard deviation, both mean over seeds."""
    mean, spread = (_of_class(data.metric(choice, "last20", end), normal_class) for end in ("_mean", "_std"))
    return _printed(float(mean.mean()) if len(mean) else None, float(spread.mean()) if len(spread) else None)


def _printed(value: float | None, spread: float | None) -> Cell:
    """Return a share in percent with two digits and its ± with three, as the paper prints them."""
    cell = percent(value, digits=2)
    return cell if value is None or spread is None else Cell(f"{cell.text} ± {share(spread, digits=3)}", cell.value)


def flagged_table(data: StudyData, choice: Choice, name: str) -> Table | None:
    """Return the shares of the test images above the calibrated threshold, None if an old trials.csv lacks them."""
    if f"{FLAGGED[0][0]}_{choice.aggregation}" not in data.trials:
        return None
    rows = [
        (
            word(normal_class),
            *(
                spread_cell(_of_class(data.metric(choice, metric), normal_class), otherwise=f"no {kind} test images")
                for metric, kind in FLAGGED
            ),
            *_counts(data, choice, normal_class),
        )
        for normal_class in _classes(data, choice)
    ]
    return Table(
        f"flagged_{name}",
        f"Test images above the calibrated threshold: the {name}, {choice.aggregation}",
        (
            Column("class", "Normal class", numeric=False),
            *(Column(metric, f"Flagged of the {kind} %") for metric, kind in FLAGGED),
            Column("seeds", "Seeds (n)"),
            Column("images", "Test images (n)"),
            Column("anomalies", "Anomalies (n)"),
        ),
        tuple(rows),
        f"The threshold is that of `score` for a false-positive rate of {100 * FALSE_POSITIVE_RATE:g} %: it comes from "
        "the validation images alone, of which fewer than 19 cannot hold that rate. Of the "
        "normal images what is flagged are false alarms, of the anomalous ones those that are found. Mean "
        "over seeds ± standard deviation over seeds where there are several; no interval.",
    )


def flagged_sentence(data: StudyData, choice: Choice) -> str:
    """Return in a sentence what :func:`flagged_table` has, for a study that has no AUROC; it begins with a blank."""
    if f"{FLAGGED[0][0]}_{choice.aggregation}" not in data.trials:
        return ""
    measured = [(kind, data.metric(choice, metric)) for metric, kind in FLAGGED]
    return "".join(
        f" At the calibrated threshold for {100 * FALSE_POSITIVE_RATE:g} % false alarms "
        f"{share(float(values.mean()))} % of the {kind} test images are flagged (mean of {len(values)} trials)."
        for kind, values in measured
        if len(values)
    )


def spread_cell(values: pd.Series[float], *, digits: int = 1, otherwise: str = NOTHING) -> Cell:
    """Return a mean over seeds ± their standard deviation, or ``otherwise`` without values."""
    if not len(values):
        return Cell(otherwise)
    text = f"{100 * float(values.mean()):.{digits}f}"
    if len(values) > 1:
        text += f" ± {100 * float(values.std()):.{digits}f}"
    return Cell(text, float(values.mean()))


def _paper_means(data: StudyData, choice: Choice, shown: list[tuple[paper_values.PaperValues, str]]) -> list[Cell]:
    classes = [paper_values.class_number(data.dataset, one) for one in _classes(data, choice)]
    return [
        percent(
            _mean_of([paper.by_class[one] for one in classes if one in paper.by_class])
            if paper.by_class
            else paper.mean,
            digits=2,
        )
        for paper, _ in shown
    ]


def _mean_cells(data: StudyData, chosen: Choice, choices: list[Choice]) -> list[Cell]:
    cells = [word("mean", strong=True)]
    for choice in choices:
        mean = data.mean(choice)
        if mean:
            cells.append(percent(mean.value, mean.low, mean.high, strong=choice == chosen))
        else:
            cells.append(Cell(data.lacking(data.of(choice)) or NOTHING))
    return cells


def _counts(data: StudyData, choice: Choice, normal_class: str) -> list[Cell]:
    rows = data.of(choice)
    rows = rows[rows["normal_class"] == normal_class]
    images, anomalies = (
        rows[name].astype(float).max() if name in rows else np.nan for name in ("n_test", "n_anomalies")
    )
    return [count(len(rows)), count(images), count(anomalies)]


def _lacks(data: StudyData, choice: Choice, normal_class: str) -> str:
    """Return what stands where a class has no number."""
    rows = data.of(choice)
    return data.lacking(rows[rows["normal_class"] == normal_class]) or NOTHING


def _no_counts() -> list[Cell]:
    return [Cell(""), Cell(""), Cell("")]


def _classes(data: StudyData, choice: Choice) -> list[str]:
    return sorted(data.of(choice)["normal_class"].unique(), key=natural)


def _of_class(values: pd.Series[float], normal_class: str) -> pd.Series[float]:
    return values[values.index.get_level_values("normal_class") == normal_class]


def _mean_of(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
