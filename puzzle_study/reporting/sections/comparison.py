"""Compares several studies."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import Blocks, Column, Figure, Row, Table, absent, section, table, words
from puzzle_study.reporting.cells import count, estimated, number, percent, share, spread, word
from puzzle_study.reporting.choice import Choice
from puzzle_study.reporting.comparing import IMAGES_NOTE, compare
from puzzle_study.reporting.sections.ranking import DIFFERENCE, PAIRS, TASKS
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.values import natural, of_class
from puzzle_study.statistics import intervals

Titled = tuple[StudyData, str]


@section("comparison", "Comparison of studies")
def build(studies: Sequence[StudyData]) -> Blocks:
    """Yield the comparison; the first study is the reported one."""
    titled = list(zip(studies, _titles(studies), strict=True))
    alike = [(data, title) for data, title in titled if data.dataset == studies[0].dataset]
    yield _overview(titled)
    yield _figure(titled)
    if len(alike) > 1:
        yield _by_class(alike)
        yield _differences(alike)
    if len(alike) < len(studies):
        yield absent("Studies of different data sets are not compared class by class.")


def _overview(titled: Sequence[Titled]) -> Table:
    rows: list[Row] = []
    for data, title in titled:
        best, value = _best_reference(data) or (None, None)
        own = data.study.detectors.values() if data.study else ()
        presets = [str(preset) for settings in own if (preset := getattr(settings, "preset", None))]
        rows.append(
            {
                words("study", "Study"): word(title),
                words("dataset", "Data set"): word(data.dataset),
                words("preset", "Preset"): word(", ".join(presets)),
                Column("winner", "Winner, AUROC % [95 %]"): estimated(_mean(data, data.winner), data.lacking()),
                words("aggregation", "Aggregation"): word(data.winner.aggregation if data.winner else ""),
                Column("default", "Default, AUROC % [95 %]"): estimated(_mean(data, data.default), data.lacking()),
                Column("reference", "Best reference %"): percent(value),
                words("reference_name", "Which"): word(best.title if best else ""),
                words("selection", "Selection"): word(data.selected_by),
                Column("classes", "Classes (n)"): count(len(data.classes)),
                Column("seeds", "Seeds (n)"): count(data.finished["seed"].nunique()),
                Column("trials", "Trials (n)"): count(len(data.finished)),
                words("commit", "Commit"): word(str(data.environment.get("git_commit") or "")[:8]),
            }
        )
    methods = intervals.method_note(_mean(data, one) for data, _ in titled for one in (data.winner, data.default))
    return table(
        "studies",
        "Studies",
        rows,
        f"AUROC: mean over classes and seeds. {methods} Means of studies with different classes, images or budgets "
        "are not comparable; see the settings of each.",
    )


def _by_class(alike: Sequence[Titled]) -> Table:
    rows: list[Row] = []
    for name in sorted({name for data, _ in alike for name in data.classes}, key=natural):
        row = {words("class", "Normal class"): word(name)}
        for index, (data, title) in enumerate(alike, start=1):
            values = of_class(data.metric(data.winner), name) if data.winner else pd.Series(dtype=float)
            row[Column(f"auroc_{index}", f"{title} %")] = spread(values)
            row[Column(f"seeds_{index}", "Seeds (n)")] = count(len(values) or None)
        rows.append(row)
    return table(
        "studies_by_class",
        "Winners of the studies by normal class",
        rows,
        "AUROC, mean over seeds ± standard deviation over seeds if there are several; no interval.",
    )


def _differences(alike: Sequence[Titled]) -> Table | None:
    """Compare the first study's winner with the others', on shared tasks and seeds."""
    (first, own_title), *others = alike
    if first.winner is None:
        return None
    found = {
        title: compared
        for data, title in others
        if data.winner and (compared := compare((first, first.winner), (data, data.winner)))
    }
    if not found:
        return None
    differences = [one.difference for one in found.values()]
    corrected = intervals.holm([one.p_value for one in differences])
    return table(
        "studies_differences",
        f"The winner of {own_title} against the winners of the others",
        [
            {
                words("against", "Against"): word(title),
                DIFFERENCE: estimated(one.difference.mean, signed=True, digits=2),
                Column("over_images", "Over test images, points [95 %]"): estimated(
                    one.over_images, signed=True, digits=2
                ),
                PAIRS: count(one.difference.pairs),
                TASKS: count(one.difference.mean.strata),
                Column("p", "p (Wilcoxon)"): number(one.difference.p_value),
                Column("p_holm", "p (Holm)"): number(p_value),
            }
            for (title, one), p_value in zip(found.items(), corrected, strict=True)
        ],
        f"{own_title} minus the other, on the tasks and seeds that both ran. "
        f"{intervals.method_note(one.mean for one in differences)} {IMAGES_NOTE} {intervals.p_note(differences)}",
    )


def _figure(titled: Sequence[Titled]) -> Figure:
    said = []
    with drawing.drawing(6.4, 0.9 + 0.55 * len(titled)) as (figure, (place,)):
        for index, (data, title) in enumerate(titled):
            for kind, choice, shift, marker, colour in (
                ("winner", data.winner, -0.15, "o", drawing.PALETTE[3]),
                ("default", data.default, 0.0, "D", drawing.PALETTE[1]),
            ):
                mean = _mean(data, choice)
                if mean:
                    place.errorbar(
                        [100 * mean.value],
                        [index + shift],
                        xerr=drawing.bars([mean]),
                        fmt=marker,
                        color=colour,
                        capsize=3,
                        label=kind if index == 0 else None,
                    )
                    said.append(f"{title}, {kind}: {share(mean.value)} %")
            reference = _best_reference(data)
            if reference:
                place.scatter(
                    [100 * reference[1]],
                    [index + 0.15],
                    marker="s",
                    color=drawing.GREY,
                    label="best reference" if index == 0 else None,
                )
        place.set_yticks(range(len(titled)), [title for _, title in titled])
        place.invert_yaxis()
        place.set(xlabel="AUROC, %")
        figure.legend(loc="outside upper center", ncols=3, fontsize=8)
        return drawing.finished(
            figure,
            name="studies",
            alt="Points with intervals: AUROC of each study. " + "; ".join(said) + ".",
            caption="Winner, default and best reference of each study; intervals as in the table.",
        )


def _titles(studies: Sequence[StudyData]) -> list[str]:
    """Return a name for each study; equal names get their folder too."""
    names = [data.name for data in studies]
    return [
        name if names.count(name) == 1 else f"{name} ({data.results.root.name}, {index + 1})"
        for index, (name, data) in enumerate(zip(names, studies, strict=True))
    ]


def _mean(data: StudyData, choice: Choice | None) -> intervals.Mean | None:
    return data.mean(choice) if choice else None


def _best_reference(data: StudyData) -> tuple[Choice, float] | None:
    known = [(one, float(values.mean())) for one in data.references if len(values := data.metric(one))]
    return max(known, key=lambda entry: entry[1]) if known else None
