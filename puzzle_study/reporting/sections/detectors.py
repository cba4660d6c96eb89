"""Compares a study's detectors: AUROC, time and robustness, each at its best configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import Blocks, Column, Figure, Row, Table, absent, section, table, words
from puzzle_study.reporting.cells import (
    bracketed,
    count,
    estimated,
    number,
    percent,
    plural,
    share,
    significant,
    timed,
    word,
)
from puzzle_study.reporting.choice import Choice
from puzzle_study.reporting.sections.classes import class_cell
from puzzle_study.reporting.sections.robustness import NOISE, AttackCell, cells
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.statistics import intervals

USUAL_EPSILON = 8 / 255
"""The usual ε for small images in the literature."""


@dataclass(frozen=True)
class Rival:
    """A detector in the comparison: its best configuration by the study's criterion, or a reference."""

    choice: Choice
    auroc: intervals.Mean
    milliseconds: float
    attacked: AttackCell | None

    @property
    def name(self) -> str:
        """Its name."""
        return self.choice.title


@section("detectors", "Detectors")
def build(data: StudyData) -> Blocks:
    if not data.compares_detectors:
        # References that were attacked are points beside the study's own detector.
        yield _robustness_figure(compared(data))
        return
    rivals = compared(data)
    if not rivals:
        yield absent(f"The detectors cannot be compared by a test AUROC: {data.lacking() or 'none finished'}.")
        return
    yield _table(data, rivals)
    yield _speed_figure(rivals)
    yield _robustness_figure(rivals)
    if len(data.classes) > 1:
        yield _class_table(data, rivals)


def compared(data: StudyData) -> list[Rival]:
    """Return each detector once, the best AUROC first."""
    choices = [data.choice(row) for _, row in data.ranked.drop_duplicates("detector").iterrows()]
    names = {choice.detector for choice in choices}
    choices += [choice for choice in data.references if choice.detector not in names]
    attacks = cells(data)
    found = [
        Rival(choice, mean, _milliseconds(data.of(choice)), _strongest(data, choice, attacks))
        for choice in choices
        if (mean := data.mean(choice)) is not None
    ]
    return sorted(found, key=lambda rival: -rival.auroc.value)


def _milliseconds(trials: pd.DataFrame) -> float:
    """Return the scoring time per image, NaN if the trials lack it."""
    if not {"score_seconds", "images_scored"} <= set(trials.columns):
        return float("nan")
    seconds, images = (pd.to_numeric(trials[name], errors="coerce") for name in ("score_seconds", "images_scored"))
    return float(1000 * (seconds / images).mean())


def _strongest(data: StudyData, choice: Choice, attacks: list[AttackCell]) -> AttackCell | None:
    """Return the strongest attack1 on a detector, at the ε nearest to the usual one.

    It is on the compared configuration if that was attacked, otherwise on another one of the detector.
    """
    own = {str(name) for name in data.summary.loc[data.summary["detector"] == choice.detector, "configuration"]}
    found = [cell for cell in attacks if cell.attack == "attack1" and cell.method != NOISE and cell.victim[0] in own]
    if not found:
        return None
    if any(cell.victim[0] == choice.configuration for cell in found):
        found = [cell for cell in found if cell.victim[0] == choice.configuration]
    nearest = min((cell.epsilon for cell in found), key=lambda epsilon: abs(epsilon - USUAL_EPSILON))
    return min((cell for cell in found if cell.epsilon == nearest), key=lambda cell: cell.auroc.value)


def _table(data: StudyData, rivals: list[Rival]) -> Table:
    attacked = sum(rival.attacked.images for rival in rivals if rival.attacked)
    under = (
        f" Under attack: the strongest attack1 at the ε nearest to {significant(USUAL_EPSILON)} "
        f"({attacked} attacked images in all); the section Robustness has every attack."
    )
    return table(
        "detectors",
        "Each detector at its best configuration",
        [_row(data, rival, attacked=attacked > 0) for rival in rivals],
        "Each detector's best-ranked configuration; the winner is bold. "
        f"{intervals.method_note(rival.auroc for rival in rivals)} ±: standard deviation of the AUROC over the last 20 "
        "evaluations of a training, mean over trainings, in points. Fitting and scoring: mean over trials, while "
        f"other trials may have run at the same time.{under if attacked else ''}",
    )


def _row(data: StudyData, rival: Rival, *, attacked: bool) -> Row:
    choice, cell = rival.choice, rival.attacked
    strong = data.winner is not None and choice.configuration == data.winner.configuration
    selection = data.mean(choice, "selection")
    how = f"{cell.method}, ε {significant(cell.epsilon)}, {cell.target}" if cell else None
    return {
        words("detector", "Detector"): word(rival.name, strong=strong),
        words("configuration", "Configuration"): word("reference" if choice.is_reference else data.called(choice)),
        Column("auroc", "AUROC % [95 %]"): estimated(rival.auroc, strong=strong),
        Column("last20", "± over the last 20 evaluations"): percent(
            float(data.metric(choice, "last20", "_std").mean())
        ),
        Column("selection", "Selection %"): percent(selection.value if selection else None),
        Column("train_seconds", "Fitting, s"): timed(float(data.metric(choice, "train_seconds").mean())),
        Column("milliseconds", "Scoring, ms per image"): number(rival.milliseconds),
        **({Column("attacked", "Under attack %"): estimated(cell.auroc if cell else None)} if attacked else {}),
        **({words("attack", "Attack"): word(how)} if attacked else {}),
        Column("trials", "Trials (n)"): count(rival.auroc.n),
    }


def _class_table(data: StudyData, rivals: list[Rival]) -> Table:
    rows = [
        {
            words("class", "Normal class"): word(normal_class),
            **{
                Column(f"auroc_{rival.choice.detector}", f"{rival.name} %"): class_cell(
                    data, rival.choice, normal_class
                )
                for rival in rivals
            },
        }
        for normal_class in data.classes
    ]
    return table(
        "detector_classes",
        "AUROC of the detectors by normal class",
        rows,
        "Mean over seeds; the section Classes explains the intervals.",
        collapsed=len(rows) > 12,
    )


def _speed_figure(rivals: list[Rival]) -> Figure | None:
    shown = [rival for rival in rivals if math.isfinite(rival.milliseconds)]
    if len(shown) < 2:
        return None
    with drawing.drawing(6.4, 4.2) as (figure, (place,)):
        _draw(place, [(rival.name, rival.milliseconds, rival.auroc) for rival in shown])
        place.set_xscale("log")
        place.set(xlabel="scoring, ms per image", ylabel="AUROC, %")
        figure.legend(loc="outside right upper", fontsize=8)
        fastest, best = min(shown, key=lambda rival: rival.milliseconds), shown[0]
        return drawing.finished(
            figure,
            name="detectors_speed",
            alt=f"Scatter of AUROC against scoring time of {len(shown)} detectors: the fastest is {fastest.name} "
            f"({significant(fastest.milliseconds)} ms per image, {share(fastest.auroc.value)} %), the highest AUROC "
            f"has {best.name} ({significant(best.milliseconds)} ms, {share(best.auroc.value)} %).",
            caption=f"Mean AUROC against scoring time per image, one point per detector (n = "
            f"{plural(best.auroc.n, 'trial')} each at most). {intervals.method_note(rival.auroc for rival in shown)}",
        )


def _draw(place: Axes, points: list[tuple[str, float, intervals.Mean]]) -> None:
    """Draw each detector, by name, as a point with the interval of its AUROC."""
    for index, (name, x, mean) in enumerate(points):
        drawn = place.errorbar(
            x,
            100 * mean.value,
            yerr=drawing.bars([mean]),
            fmt="oDs^vP"[index % 6],
            color=drawing.PALETTE[index % len(drawing.PALETTE)],
            label=name,
            capsize=3,
        )
        drawing.tell(drawn[0], [f"{name}: {significant(x)}, AUROC {share(mean.value)} %{bracketed(mean)}"])


def _robustness_figure(rivals: list[Rival]) -> Figure | None:
    shown = [(rival, rival.attacked) for rival in rivals if rival.attacked]
    if len(shown) < 2:
        return None
    epsilons = sorted({cell.epsilon for _, cell in shown})
    with drawing.drawing(6.4, 4.2) as (figure, (place,)):
        _draw(place, [(rival.name, 100 * cell.clean, cell.auroc) for rival, cell in shown])
        place.axhline(50, color="black", linewidth=0.8, linestyle=":")
        place.set(xlabel="AUROC of the same images without attack, %", ylabel="AUROC under attack, %")
        figure.legend(loc="outside right upper", fontsize=8)
        best, cell = max(shown, key=lambda pair: pair[1].auroc.value)
        return drawing.finished(
            figure,
            name="detectors_robustness",
            alt=f"Scatter of AUROC under attack against AUROC without it for {len(shown)} detectors: the highest is "
            f"{best.name} with {share(cell.auroc.value)} % of {share(cell.clean)} %.",
            caption=f"AUROC of each detector under the strongest attack1 at ε = "
            f"{', '.join(map(significant, epsilons))}, one point per detector. "
            f"{intervals.method_note(cell.auroc for _, cell in shown)} Dotted: chance.",
        )
