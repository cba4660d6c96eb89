"""The first screen: what won, how good and how robust it is, and how to use it."""

from __future__ import annotations

import math
from pathlib import Path

from puzzle_study.corruptions.registry import CORRUPTIONS
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE
from puzzle_study.inference.locating import detectors_in
from puzzle_study.reporting.blocks import Blocks, Card, Fact, section
from puzzle_study.reporting.cells import bracketed, capital, plural, share, significant
from puzzle_study.reporting.choice import Choice
from puzzle_study.reporting.comparing import paired
from puzzle_study.reporting.curves import Curve, caught_at, curves
from puzzle_study.reporting.sections import corruptions, robustness, verdict_figures
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.winning import Won, won
from puzzle_study.statistics import intervals

RATES = (0.01, 0.05)
"""Shares of false alarms at which the card says how many anomalies are caught."""
NAMED = 3
"""Settings, or winners of tasks, that the card names."""


@section("verdict", "Verdict")
def build(data: StudyData) -> Blocks:
    """Yield the card and its figures."""
    winners = won(data)
    if winners is None:
        yield Card("No configuration finished all of its trials, so none was selected.", (), warns=True)
        return
    found = curves(winners)
    yield _card(data, winners, found)
    yield verdict_figures.bars(data, winners)
    if found:
        yield verdict_figures.roc(winners, found)
        yield verdict_figures.precision_recall(winners, found)


def _card(data: StudyData, winners: Won, found: list[Curve]) -> Card:
    best = _best_reference(data, winners)
    reached = winners.mean()
    folders = detectors_in(data.results.best)
    of = "; of the configuration that is best over all tasks" if len(winners.choices) > 1 else ""
    facts = (
        _chosen(data, winners),
        _auroc(data, winners, reached),
        _reference(data, best),
        _caught(data, winners, found),
        _attacked(data, of),
        _corrupted(data, of),
    )
    locates = not data.criterion.blends and all(DETECTORS[one.detector].traits.maps for one in winners.choices)
    maps = " --overlay maps/" if locates else ""
    beaten = best is not None and best[2] > best[1]
    return Card(
        _headline(data, winners, reached, best),
        facts,
        "; ".join(f"{name}: {meaning}" for name, meaning in robustness.meanings(data).items()),
        _use(folders) if folders else "",
        f"puzzle-study score {_shown(folders[0])} IMAGES{maps}" if folders else "",
        warns=beaten or reached is None,
    )


def _headline(
    data: StudyData, winners: Won, reached: intervals.Mean | None, best: tuple[Choice, float, float] | None
) -> str:
    """Return the verdict in one sentence."""
    name = _name(data, winners)
    if reached is None:
        lacks = data.lacking(winners.rows) or "the study's tables have no AUROC"
        return f"{name} was chosen; how well it finds anomalies is unknown: {lacks}."
    if best is not None and best[2] > best[1]:
        title = capital(best[0].title)
        return f"{title}, a cheap reference, beats the winner: AUROC {share(best[2])} % against {share(best[1])} %."
    beside = f", the best cheap reference {share(best[2])} %" if best else ""
    return f"{name} wins: AUROC {share(reached.value)} %{beside}."


def _name(data: StudyData, winners: Won) -> str:
    """Return what won, in a few words."""
    if data.criterion.blends:
        return "An ensemble"
    if len(winners.choices) > 1:
        return "A winner for each task"
    (choice,) = winners.choices
    return f"{capital(choice.title)}, configuration {data.called(choice)}"


def _chosen(data: StudyData, winners: Won) -> Fact:
    """Return which detector and settings won, and by what."""
    how = f"chosen by {data.selected_by}"
    compared = len(data.configurations["configuration"].unique())
    among = f" among {compared} configurations" if compared > 1 else ", the only configuration"
    if len(winners.choices) > 1:
        named = [
            f"{winners.name(task)}: {choice.title}, {data.called(choice)}, {choice.aggregation}"
            for task, choice in winners.by_task.items()
        ]
        more = f"; {len(named) - NAMED} more below" if len(named) > NAMED else ""
        return Fact("Winner", f"{len(winners.choices)} winners", f"{'; '.join(named[:NAMED])}{more}; {how}{among}")
    (choice,) = winners.choices
    values = {name: value for name, value in data.values_of(choice.configuration).items() if value == value}
    told = [
        f"{name.rsplit('.', 1)[-1]} {value if isinstance(value, str) else significant(float(value))}"
        for name, value in values.items()
        if value is not None
    ]
    settings = ", ".join([*told[:NAMED], "…"] if len(told) > NAMED else told)
    blend = "; first of the ensemble in best/, whose model cards have its numbers" if data.criterion.blends else ""
    reading = f"{choice.aggregation}, {choice.error}"
    parts = [f"configuration {data.called(choice)}", f"reading {reading}", *filter(None, [settings]), f"{how}{among}"]
    return Fact("Winner", capital(choice.title), "; ".join(parts) + blend)


def _auroc(data: StudyData, winners: Won, reached: intervals.Mean | None) -> Fact:
    if reached is None:
        return Fact("Test AUROC", "no labels", data.lacking(winners.rows) or "not in the study's tables")
    default = data.mean(data.default) if data.default and data.searched else None
    name = f", {data.default.title}," if data.default and data.compares_detectors else ""
    beside = f"; default{name} {share(default.value)} %" if default else ""
    oracle = "; chosen with test labels, so too high" if data.objectives[0] == "auroc" else ""
    return Fact("Test AUROC", f"{share(reached.value)} %", f"{_interval(reached)}{beside}{oracle}")


def _interval(mean: intervals.Mean) -> str:
    """Return a mean's interval and its n."""
    ends = bracketed(mean).strip()
    n = f"{plural(mean.n, 'trial')} of {plural(mean.strata, 'task')}"
    return f"{f'95 %: {ends}' if ends else 'no interval'}, n = {n}"


def _best_reference(data: StudyData, winners: Won) -> tuple[Choice, float, float] | None:
    """Return the reference with the highest AUROC, the winner's on the same tasks, and its own."""
    found = []
    for reference in data.references:
        ours, theirs = paired(winners.metric(), data.metric(reference), reference=True)
        if len(ours):
            found.append((reference, float(ours.mean()), float(theirs.mean())))
    return max(found, key=lambda entry: entry[2] - entry[1], default=None)


def _reference(data: StudyData, best: tuple[Choice, float, float] | None) -> Fact:
    if best is None:
        ran = len(data.references)
        why = f"{ran} ran, without labels to compare them by" if ran else "the study ran none (references)"
        return Fact("Best cheap reference", "unknown", why)
    reference, ours, theirs = best
    gap = share(theirs - ours, signed=True)
    among = f", the best of {len(data.references)}" if len(data.references) > 1 else ""
    return Fact(
        "Best cheap reference",
        f"{share(theirs)} %",
        f"{reference.title}{among}; {gap} points against the winner on the same tasks",
    )


def _caught(data: StudyData, winners: Won, found: list[Curve]) -> Fact:
    """Return the share of anomalies caught at two shares of false alarms, and what the calibrated threshold does."""
    name = f"Anomalies caught at {' and '.join(share(rate, digits=0) for rate in RATES)} % false alarms"
    flagged = _flagged(winners)
    if not found:
        return Fact(name, "unknown", flagged or "the study kept no error matrices, or has no labels")
    values = [caught_at(found, rate) for rate in RATES]
    few = min(one.normal for one in found)
    rough = f"; with {few} normal images 1 % means no false alarm" if few < 1 / RATES[0] else ""
    return Fact(
        name,
        f"{' / '.join(share(value.value) for value in values)} %",
        f"by the ROC curve, n = {plural(len(found), 'trial')}{rough}{'; ' if flagged else ''}{flagged}",
    )


def _flagged(winners: Won) -> str:
    """Return what the calibrated threshold flags; an empty string if no test image tells."""
    if f"flagged_normal_{winners.choices[0].aggregation}" not in winners.data.trials:
        return ""
    alarms, caught = winners.mean("flagged_normal"), winners.mean("flagged_anomalous")
    parts = [f"gives {share(alarms.value)} % false alarms"] if alarms else []
    parts += [f"catches {share(caught.value)} %"] if caught else []
    meant = f"the threshold calibrated for {share(FALSE_POSITIVE_RATE, digits=0)} %"
    return f"{meant} {' and '.join(parts)}" if parts else ""


def _attacked(data: StudyData, of: str) -> Fact:
    """Return what the strongest attack leaves of the winner."""
    name = "The strongest attack leaves"
    cells = [one for one in robustness.cells(data) if "winner" in one.label and one.method != robustness.NOISE]
    if not cells:
        return Fact(name, "not attacked", "a section attacks in the study file measures it")
    worst = min(cells, key=lambda cell: cell.auroc.value)
    return Fact(
        name,
        f"{share(worst.auroc.value)} %",
        f"of AUROC {share(worst.clean)} %: {worst.attack}, {worst.method}, ε = {significant(worst.epsilon)}, n = "
        f"{plural(worst.auroc.n, 'trial')}{of}",
    )


def _corrupted(data: StudyData, of: str) -> Fact:
    """Return what the worst corruption leaves of the winner, by AUROC, or by false alarms without labels."""
    name = "The worst corruption leaves"
    own = [curve for curve in corruptions.curves(data) if "winner" in curve.label]
    if not own:
        return Fact(name, "not measured", "a section corruptions in the study file measures it")
    by_auroc = not any(math.isnan(value) for curve in own for value in curve.measured["auroc"])
    measure, worst_of = ("auroc", min) if by_auroc else ("flagged_normal", max)
    points = [(value, place, curve) for curve in own for place, value in enumerate(curve.measured[measure]) if place]
    value, place, curve = worst_of(points, key=lambda point: point[0])
    title = CORRUPTIONS[curve.corruption].title
    under = f"{title} {curve.written(curve.values[place])}, severity {curve.severities[place]} of 5"
    clean = share(curve.measured[measure][0])
    under += f", n = {plural(curve.rows['trial'].nunique(), 'trial')}{of}"
    if by_auroc:
        return Fact(name, f"{share(value)} %", f"of AUROC {clean} %: {under}")
    return Fact("The worst corruption gives", f"{share(value)} % false alarms", f"clean {clean} %: {under}")


def _use(folders: list[Path]) -> str:
    """Return where the winner's detectors are."""
    if len(folders) == 1:
        return f"The detector is in {_shown(folders[0])}, with a model card. It scores new images:"
    names = [folder.name for folder in folders]
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return (
        f"{len(folders)} detectors are in {_shown(folders[0].parent)}, each with a model card: {shown}. "
        f"This one scores new images:"
    )


def _shown(folder: Path) -> str:
    """Return a path relative to the current folder if it is below."""
    whole, here = folder.resolve(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
