"""The most important findings, in sentences computed from the data."""

from __future__ import annotations

import math

import pandas as pd

from puzzle_study.reporting import paper_values
from puzzle_study.reporting.blocks import Blocks, Paragraph, absent, finding, section
from puzzle_study.reporting.cells import bracketed, capital, plural, share, significant
from puzzle_study.reporting.choice import Choice
from puzzle_study.reporting.comparing import Comparison, compare
from puzzle_study.reporting.sections import corruptions, robustness, selection, training
from puzzle_study.reporting.sections.classes import flagged_sentence
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.statistics import intervals
from puzzle_study.statistics.intervals import Mean


@section("summary", "Summary")
def build(data: StudyData) -> Blocks:
    """Yield the sentences, the most critical one first."""
    winner = data.winner
    if winner is None:
        yield finding("No configuration finished all of its trials, so none was selected.")
    else:
        yield against_references(data, winner)
        yield from robustness.weaker_than_noise(data, ("winner",)) or robustness.weaker_than_noise(data)
        yield _robustness(data)
        yield from corruptions.sentences(data)
        yield _against_default(data, winner)
        yield selection.closed(data)
        yield selection.hindsight(data)
        yield _inverted(data, winner)
        yield _against_paper(data, winner)
        yield _last_epochs(data, winner)
    if failed := len(data.failed):
        yield finding(
            f"{failed} of {len(data.trials)} trials failed; their configurations have no rank (see Provenance)."
        )


def against_references(data: StudyData, winner: Choice) -> Paragraph:
    """Return whether a cheap reference is better than the winner, with numbers."""
    name = data.titled(winner, "configuration ")
    what = f"the winner ({name}, {winner.aggregation}; selection: {data.selected_by})"
    reached = data.mean(winner)
    if reached is None:
        lacks = data.lacking(data.of(winner))
        why = f"cannot be measured: {lacks}.{flagged_sentence(data, winner)}"
        why = why if lacks else "is not in the study's tables."
        return finding(f"The test AUROC of {what} {why}")
    return finding(_held_against_references(data, winner, what, reached))


def _held_against_references(data: StudyData, winner: Choice, what: str, reached: Mean) -> str:
    compared = [
        (reference, comparison)
        for reference in data.references
        if (comparison := compare((data, reference), (data, winner)))
    ]
    own = f"{capital(what)} reaches AUROC {_of(reached)}"
    if not compared:
        return f"{own}. The study ran no reference to compare it with."
    compared.sort(key=lambda entry: -entry[1].difference.mean.value)
    (best, comparison), *others = compared
    per_class = (comparison.first - comparison.second).groupby(level="normal_class").mean()
    gap = f"a difference of {_gap(comparison)}"
    better = f"is better on {int((per_class > 0).sum())} of {plural(len(per_class), 'class', 'classes')}"
    value = share(float(comparison.first.mean()))
    if comparison.difference.mean.value > 0:
        also = [
            f"{one.title} ({share(float(other.first.mean()))} %)"
            for one, other in others
            if other.difference.mean.value > 0
        ]
        so = f" So {'do' if len(also) > 1 else 'does'} {_listed(also)}." if also else ""
        return f"{capital(best.title)} beats {what}: AUROC {value} % against {_of(reached)}, {gap}; it {better}.{so}"
    lost = f"; {best.title} {better}" if (per_class > 0).any() else ""
    return f"{own}; the best reference, {best.title}, reaches {value} %, {gap}{lost}."


def _robustness(data: StudyData) -> Paragraph | None:
    """Return the strongest attack on the winner."""
    cells = [one for one in robustness.cells(data) if "winner" in one.label and one.method != robustness.NOISE]
    if not cells:
        return None
    worst = min(cells, key=lambda cell: cell.auroc.value)
    flags = f" Flags: {worst.flags}." if worst.flags else ""
    return Paragraph(
        f"Under the strongest attack tried ({worst.attack}, {worst.method}, ε = {significant(worst.epsilon)}, "
        f"target {worst.target}) the winner's AUROC falls from {share(worst.clean)} % to {_of(worst.auroc)} on the "
        f"same images.{flags}"
    )


def _against_default(data: StudyData, winner: Choice) -> Paragraph | None:
    default = data.default
    if default is None or not data.searched:
        return None
    if default == winner:
        return Paragraph("The search selected the default configuration itself.")
    comparison = compare((data, winner), (data, default))
    if comparison is None:
        return None
    difference = comparison.difference
    tasks = difference.mean.strata
    least = intervals.smallest_p(tasks)
    bound = f", at least {significant(least, 2)} whatever the trials" if least > intervals.LEVEL else ""
    p = f" (Wilcoxon over {tasks} tasks: p = {significant(difference.p_value, 2)}{bound})" if tasks > 1 else ""
    name = f"{default.title}, " if data.compares_detectors else ""
    return Paragraph(
        f"Against the default configuration ({name}{share(float(comparison.second.mean()))} %, {default.aggregation}) "
        f"the winner differs by {_gap(comparison, p)}."
    )


def _inverted(data: StudyData, winner: Choice) -> Paragraph | None:
    values, high = data.metric(winner), data.metric(winner, suffix="_high")
    turned = high[high < 0.5].index
    if not len(turned):
        return None
    classes = ", ".join(dict.fromkeys(turned.get_level_values("normal_class")))
    lowest = float(values.loc[turned].min())
    return finding(
        f"Inverted scores: in {len(turned)} of {len(values)} trials of the winner normal images score higher than "
        f"anomalies (class {classes}; lowest AUROC {share(lowest)} %, its whole interval below 50 %)."
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
    numbers = {name: paper_values.class_number(data.dataset, str(name)) for name in own.index}
    known = {name: paper.by_class[number] for name, number in numbers.items() if number in paper.by_class}
    if known:
        theirs, ours = sum(known.values()) / len(known), float(own[list(known)].mean())
        scope = f"mean of the same {plural(len(known), 'class', 'classes')}"
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
        f"The paper reports {share(theirs)} % ({paper.source}, {scope}){there}; this study reaches {here} after "
        f"{epochs:.0f} epochs. The paper trains until convergence with 64 base channels."
        + (f" This study is at a fraction of the budget: {short}." if short else "")
    )


def _last_epochs(data: StudyData, winner: Choice) -> Paragraph | None:
    spread = data.metric(winner, "last20", "_std")
    if not len(spread) or training.covers_the_start(data, winner):
        return None
    return Paragraph(
        f"Over the last 20 evaluations of a training the winner's AUROC has a standard deviation of "
        f"{share(float(spread.mean()), digits=2)} points (mean of {plural(len(spread), 'trial', 'trials')}; highest "
        f"{share(float(spread.max()), digits=2)})."
    )


def _of(mean: Mean) -> str:
    return f"{share(mean.value)} %{bracketed(mean)} (n = {mean.n})"


def _gap(comparison: Comparison, beside: str = "") -> str:
    """Return a difference with its number of trials, and any reason not to trust it."""
    mean, images, said = comparison.difference.mean, comparison.over_images, []
    if mean.method == intervals.NO_INTERVAL:
        said.append("too few trainings to say what others would give")
    elif mean.low <= 0 <= mean.high:
        said.append("the interval includes zero, so this may be chance")
    if images is not None and not math.isnan(images.low):
        interval = bracketed(images, signed=True)
        said.append(f"over the {images.images} test images{interval}, which covers images, not trainings")
    trials = plural(comparison.difference.pairs, "paired trial", "paired trials")
    doubt = f" ({'; '.join(said)})" if said else ""
    return f"{share(mean.value, signed=True)} points{bracketed(mean, signed=True)} on {trials}{beside}{doubt}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
