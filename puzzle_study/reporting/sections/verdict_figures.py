"""The figures of the first screen: bars with intervals, ROC and precision-recall curves with the operating point."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE
from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import Figure
from puzzle_study.reporting.cells import bracketed, plural, share, significant
from puzzle_study.reporting.choice import Choice
from puzzle_study.reporting.curves import GRID, Curve
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.winning import Won
from puzzle_study.statistics import intervals

SIZE = (4.3, 3.3)
FRAME: dict[str, Any] = {"frameon": True, "framealpha": 0.85, "edgecolor": "none"}
CHANCE = 50
MOST = 30
"""Trials whose curves are drawn; the mean is that of all."""
POINT = f"threshold for {share(FALSE_POSITIVE_RATE, digits=0)} % false alarms"


def bars(data: StudyData, winners: Won) -> Figure | None:
    """Return the AUROC of winner, default and references, or without labels that against pseudo-anomalies."""
    metric = "auroc" if winners.mean() else "selection"
    found = [(_called(data, "winner", winners.choices), winners.mean(metric), drawing.PALETTE[0])]
    if data.default and data.searched and [data.default] != winners.choices:
        found.append((_called(data, "default", [data.default]), data.mean(data.default, metric), drawing.PALETTE[9]))
    references = [(one.title, data.mean(one, metric), drawing.PALETTE[7]) for one in data.references]
    found += sorted(references, key=lambda entry: -entry[1].value if entry[1] else 0.0)
    shown = [(name, mean, colour) for name, mean, colour in found if mean is not None]
    if not shown:
        return None
    against = "AUROC" if metric == "auroc" else "AUROC against pseudo-anomalies"
    lowest = min(100 * min(mean.value, np.nan_to_num(mean.low, nan=1.0)) for _, mean, _ in shown)
    with drawing.drawing(*SIZE) as (figure, (place,)):
        for index, (name, mean, colour) in enumerate(shown):
            value = 100 * mean.value
            (bar,) = place.barh(index, value - CHANCE, left=CHANCE, height=0.62, color=colour, linewidth=0)
            drawing.tell(bar, [f"{name}: {share(mean.value)} %{bracketed(mean)}, n = {mean.n}"])
            place.errorbar(value, index, xerr=drawing.bars([mean]), fmt="none", ecolor="black", capsize=3, linewidth=1)
        many = len(shown) > 6
        names = [f"{name}{' ' if many else chr(10)}{share(mean.value)} %" for name, mean, _ in shown]
        place.set_yticks(range(len(shown)), names, fontsize=8 if many else 9)
        place.invert_yaxis()
        place.grid(visible=False, axis="y")
        place.set_xlim(min(CHANCE - 3, 10 * np.floor(lowest / 10)), 100)
        place.set_xlabel(f"{against}, %")
        what = f"{against} of winner, default and references" if len(shown) > 1 else f"{against} of the winner"
        real = " These are made from validation images and are no real anomalies." if metric == "selection" else ""
        return drawing.finished(
            figure,
            name="verdict",
            alt=f"Bars: {what}: " + ", ".join(f"{name} {share(mean.value)} %" for name, mean, _ in shown) + ".",
            caption=f"{what}, mean over tasks and seeds (n = {plural(shown[0][1].n, 'trial')} of the winner). Bars "
            f"begin at chance, {CHANCE} %.{real} "
            f"{intervals.method_note(mean for _, mean, _ in shown)}",
        )


def _called(data: StudyData, label: str, choices: list[Choice]) -> str:
    """Return a bar's name: its label, and the detector if the study compares several."""
    return f"{choices[0].title} ({label})" if data.compares_detectors and len(choices) == 1 else label


def roc(winners: Won, found: list[Curve]) -> Figure:
    """Return the ROC curves of the winner."""
    with drawing.drawing(*SIZE) as (figure, (place,)):
        place.plot([0, 100], [0, 100], color="black", linewidth=0.8, linestyle=":", label="chance")
        mean = np.mean([one.tpr_G for one in found], axis=0)
        for one in found[:MOST] if len(found) > 1 else ():
            place.step(100 * GRID, 100 * one.tpr_G, where="post", color=drawing.PALETTE[9], linewidth=0.7, alpha=0.6)
        place.step(100 * GRID, 100 * mean, where="post", color=drawing.PALETTE[0], linewidth=2, label=_mean(found))
        _points(place, winners, found, [one.alarms for one in found], [one.caught for one in found])
        place.set(xlabel="false alarms (FPR), % of normal images", ylabel="caught (TPR), % of anomalies")
        place.legend(loc="lower right", fontsize=8, **FRAME)
        alarms, caught = (float(np.mean([getattr(one, name) for one in found])) for name in ("alarms", "caught"))
        return drawing.finished(
            figure,
            name="roc",
            alt=f"ROC curves of the winner; at the calibrated threshold {share(alarms)} % false alarms and "
            f"{share(caught)} % of the anomalies caught.",
            caption=f"ROC curves of the winner, {_curves(found)}. Points: the operating point of each trial, the "
            f"{POINT}, which validation images alone gave; mean {share(alarms)} % false alarms, {share(caught)} % "
            "caught, no interval.",
        )


def precision_recall(winners: Won, found: list[Curve]) -> Figure:
    """Return the precision-recall curves of the winner."""
    with drawing.drawing(*SIZE) as (figure, (place,)):
        base = float(np.mean([one.anomalous / (one.anomalous + one.normal) for one in found]))
        place.axhline(100 * base, color="black", linewidth=0.8, linestyle=":", label="all flagged")
        mean = np.mean([one.precision_G for one in found], axis=0)
        for one in found[:MOST] if len(found) > 1 else ():
            place.plot(100 * GRID, 100 * one.precision_G, color=drawing.PALETTE[9], linewidth=0.7, alpha=0.6)
        place.plot(100 * GRID, 100 * mean, color=drawing.PALETTE[0], linewidth=2, label=_mean(found))
        _points(place, winners, found, [one.caught for one in found], [one.precision for one in found])
        place.set(xlabel="caught (recall), % of anomalies", ylabel="precision, % of flagged images")
        # A little room above 100 %, without a tick there.
        bottom = place.get_ylim()[0]
        place.set_ylim(bottom, 100 + 0.02 * (100 - bottom))
        place.legend(loc="best", fontsize=8, **FRAME)
        return drawing.finished(
            figure,
            name="precision_recall",
            alt=f"Precision-recall curves of the winner; if all images are flagged the precision is {share(base)} %.",
            caption=f"Precision and recall of the winner, {_curves(found)}. Points: the operating points, as beside. "
            f"Precision depends on how many anomalies there are: {share(base)} % of these test images.",
        )


def _mean(found: list[Curve]) -> str:
    return f"mean of {len(found)} trials" if len(found) > 1 else "1 trial"


def _curves(found: list[Curve]) -> str:
    normal, anomalous = (sum(getattr(one, name) for one in found) for name in ("normal", "anomalous"))
    thin = f"; thin: single trials{f', the first {MOST}' if len(found) > MOST else ''}" if len(found) > 1 else ""
    return f"{_mean(found)} ({normal} normal and {anomalous} anomalous test images in all{thin})"


def _points(place: Axes, winners: Won, found: list[Curve], x: list[float], y: list[float]) -> None:
    """Draw each trial's operating point."""
    points = place.scatter(
        *(100 * np.array(x), 100 * np.array(y)),
        clip_on=False, s=36, color=drawing.PALETTE[3], edgecolor="white", linewidth=0.6, zorder=4, label=POINT,
    )  # fmt: skip
    told = [
        f"{winners.name(one.key[:-1])}, seed {one.key[-1]}: threshold {significant(one.threshold, 4)}, "
        f"{share(one.alarms)} % false alarms, {share(one.caught)} % caught"
        for one in found
    ]
    # A threshold that flags nothing has no precision, and its point is not drawn.
    drawing.tell(points, [text for text, value in zip(told, y, strict=True) if not np.isnan(value)])
