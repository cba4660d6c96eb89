"""What a reader in a hurry must know, in sentences computed from the data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from puzzle_study.reporting import paper_values
from puzzle_study.reporting.blocks import Paragraph, Section, absent, section, share, significant
from puzzle_study.reporting.scores import image_difference
from puzzle_study.reporting.sections import robustness, selection, training
from puzzle_study.reporting.sections.classes import flagged_sentence
from puzzle_study.reporting.study_data import paired, tasks_of, title_of
from puzzle_study.statistics import intervals

if TYPE_CHECKING:
    from pathlib import Path

    from puzzle_study.reporting.study_data import Choice, StudyData
    from puzzle_study.statistics.delong import ImageDifference
    from puzzle_study.statistics.intervals import Mean


def build(data: StudyData, figures: Path) -> Section:
    """Return the section; its first sentence is the one that hurts most."""
    if data.winner is None:
        text = "No configuration finished all of its trials, so that none was selected."
        return section("summary", "Summary", [Paragraph(text, kind="finding"), _failures(data)])
    return section(
        "summary",
        "Summary",
        [
            against_references(data, data.winner),
            *(robustness.weaker_than_noise(data, ("winner",)) or robustness.weaker_than_noise(data)),
            _robustness(data),
            _against_default(data, data.winner),
            selection.hindsight(data),
            _inverted(data, data.winner),
            _against_paper(data, data.winner),
            _last_epochs(data, data.winner),
            _failures(data),
        ],
    )


def against_references(data: StudyData, winner: Choice) -> Paragraph:
    """Return whether a detector that costs nothing is better than the winner, with numbers."""
    own = data.metric(winner)
    of = f"{winner.title}, " if data.compares_detectors else ""
    what = f"the winner ({of}configuration {winner.configuration}, {winner.aggregation}; selection: {data.selected_by})"
    reached = data.mean(winner)
    if reached is None:
        lacks = data.lacking(data.of(winner))
        why = f"cannot be measured: {lacks}.{flagged_sentence(data, winner)}"
        why = why if lacks else "is not in the study's tables."
        return Paragraph(f"The test AUROC of {what} {why}", kind="finding")
    compared = []
    for name in data.references:
        mine, theirs = paired(own, data.metric(data.reference(name)), reference=True)
        if len(mine):
            difference = intervals.paired_difference(theirs.to_numpy(), mine.to_numpy(), tasks_of(mine))
            per_class = (theirs - mine).groupby(level="normal_class").mean()
            better = int((per_class > 0).sum())
            compared.append((name, float(theirs.mean()), difference, better, len(per_class), mine.index))
    if not compared:
        text = (
            f"{_capital(what)} reaches AUROC {_of(reached)}. The study ran no reference, so that this cannot be judged."
        )
        return Paragraph(text, kind="finding")
    compared.sort(key=lambda entry: -entry[2].mean.value)
    name, value, difference, better, classes, pairs = compared[0]
    title = title_of(name)
    gap = _points(difference.mean)
    images = image_difference((data, data.reference(name)), (data, winner), pairs)
    sure = _doubt(difference.mean, images)
    if difference.mean.value > 0:
        text = (
            f"{_capital(title)} beats {what}: AUROC {share(value)} % against {_of(reached)}, a difference of {gap} on "
            f"{_plural(difference.pairs, 'paired trial', 'paired trials')}{sure}; it is better on {better} of "
            f"{_plural(classes, 'class', 'classes')}."
        )
        also = [f"{title_of(other)} ({share(mean)} %)" for other, mean, d, *_ in compared[1:] if d.mean.value > 0]
        text += f" So {'do' if len(also) > 1 else 'does'} {_listed(also)}." if also else ""
        return Paragraph(text, kind="finding")
    lost = f"; {title} is better on {better} of {_plural(classes, 'class', 'classes')}" if better else ""
    return Paragraph(
        f"{_capital(what)} reaches AUROC {_of(reached)}; the best reference, {title}, reaches {share(value)} %, a "
        f"difference of {gap} on {_plural(difference.pairs, 'paired trial', 'paired trials')}{sure}{lost}.",
        kind="finding",
    )


def _robustness(data: StudyData) -> Paragraph | None:
    """Return the strongest attack on the winner."""
    cells = robustness.cells(data)
    cells = [cell for cell in cells if "winner" in cell.label and cell.method != "noise"]
    if not cells:
        return None
    worst = min(cells, key=lambda cell: cell.auroc.value)
    flags = f" Flags: {worst.flags}." if worst.flags else ""
    return Paragraph(
        f"Under the strongest attack that was tried ({worst.attack}, {worst.method}, ε = {significant(worst.epsilon)}, "
        f"target {worst.target}) the winner's AUROC falls from {share(worst.clean)} % to {_of(worst.auroc)} on the "
        f"same images.{flags}"
    )


def _against_default(data: StudyData, winner: Choice) -> Paragraph | None:
    default = data.default
    if default is None or not data.searched:
        return None
    if default == winner:
        return Paragraph("The search selected the default configuration itself.")
    mine, theirs = paired(data.metric(winner), data.metric(default))
    if not len(mine):
        return None
    difference = intervals.paired_difference(mine.to_numpy(), theirs.to_numpy(), tasks_of(mine))
    verdict = _doubt(difference.mean, image_difference((data, winner), (data, default), mine.index))
    tasks = difference.mean.strata
    least = intervals.smallest_p(tasks)
    bound = f", at least {significant(least, 2)} whatever the trials" if least > intervals.LEVEL else ""
    return Paragraph(
        f"Against the default configuration ({share(float(theirs.mean()))} %, {default.aggregation}) the winner "
        f"differs by {_points(difference.mean)} on {_plural(difference.pairs, 'paired trial', 'paired trials')} "
        f"(Wilcoxon over {_plural(tasks, 'task', 'tasks')}: p = {significant(difference.p_value, 2)}{bound}){verdict}."
    )


def _inverted(data: StudyData, winner: Choice) -> Paragraph | None:
    values, high = data.metric(winner), data.metric(winner, suffix="_high")
    turned = high[high < 0.5].index
    if not len(turned):
        return None
    classes = ", ".join(dict.fromkeys(turned.get_level_values("normal_class")))
    lowest = float(values.loc[turned].min())
    return Paragraph(
        f"Inverted scores: in {len(turned)} of {len(values)} trials of the winner normal images score higher than "
        f"anomalies (class {classes}; lowest AUROC {share(lowest)} %, interval wholly below 50 %).",
        kind="finding",
    )


def _against_paper(data: StudyData, winner: Choice) -> Paragraph | None:
    conditions = data.conditions(winner)
    paper = paper_values.auroc(data.dataset, conditions, aggregation=winner.aggregation)
    if paper is None:
        missing = paper_values.missing_auroc(data.dataset, conditions)
        return absent(missing) if missing else None
    reached = data.mean(winner)
    if reached is None:
        return None
    own = data.metric(winner).groupby(level="normal_class").mean()
    common = {name: paper.by_class.get(paper_values.class_number(data.dataset, str(name))) for name in own.index}
    known = {name: value for name, value in common.items() if value is not None}
    if known:
        theirs, ours = sum(known.values()) / len(known), float(own[list(known)].mean())
        scope = f"mean of the same {_plural(len(known), 'class', 'classes')}"
    else:
        theirs, ours, scope = paper.mean, reached.value, "mean"
    there, here = "", f"{share(ours)} % at its end"
    last = data.metric(winner, "last20", "_mean").groupby(level="normal_class").mean()
    if paper.last20:
        there = " over the last 20 epochs"
        if known and set(known) <= set(last.index) and not training.covers_the_start(data, winner):
            here = f"{share(float(last[list(known)].mean()))} % over the last 20 evaluations and {here}"
    epochs = pd.to_numeric(data.of(winner)["epochs"], errors="coerce").max()
    short = data.budget(winner)
    return Paragraph(
        f"The paper reports {share(theirs)} % ({paper.source}, {scope}){there} where this study reaches {here}, after "
        f"{epochs:.0f} epochs; the paper trains until convergence with 64 base channels."
        + (f" This study is at a fraction of the budget: {short}." if short else "")
    )


def _last_epochs(data: StudyData, winner: Choice) -> Paragraph | None:
    spread = data.metric(winner, "last20", "_std")
    if not len(spread) or training.covers_the_start(data, winner):
        return None
    return Paragraph(
        f"Over the last 20 evaluations of a training the winner's AUROC has a standard deviation of "
        f"{share(float(spread.mean()), digits=2)} points (mean of {_plural(len(spread), 'trial', 'trials')}; highest "
        f"{share(float(spread.max()), digits=2)})."
    )


def _failures(data: StudyData) -> Paragraph | None:
    failed = len(data.failed)
    if not failed:
        return None
    return Paragraph(
        f"{failed} of {len(data.trials)} trials failed; their configurations have no rank (see Provenance).",
        kind="finding",
    )


def _of(mean: Mean) -> str:
    interval = "" if math.isnan(mean.low) else f" [{share(mean.low)}, {share(mean.high)}]"
    return f"{share(mean.value)} %{interval} (n = {mean.n})"


def _points(mean: Mean) -> str:
    interval = "" if math.isnan(mean.low) else f" [{share(mean.low, signed=True)}, {share(mean.high, signed=True)}]"
    return f"{share(mean.value, signed=True)} points{interval}"


def _doubt(mean: Mean, images: ImageDifference | None) -> str:
    """Return what forbids to read a difference as one, if anything does, and what the test images say of it."""
    said = []
    if mean.method == intervals.NO_INTERVAL:
        said.append("too few trainings to say what others would give")
    elif mean.low <= 0 <= mean.high:
        said.append("the interval holds zero: this may be chance")
    if images is not None and not math.isnan(images.low):
        interval = f"[{share(images.low, signed=True)}, {share(images.high, signed=True)}]"
        said.append(f"over the {images.images} test images {interval}, which speaks of images, not of trainings")
    return f" ({'; '.join(said)})" if said else ""


def _plural(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
