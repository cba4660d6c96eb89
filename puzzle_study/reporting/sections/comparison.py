"""Several studies side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import (
    Block,
    Cell,
    Column,
    Figure,
    Section,
    Table,
    absent,
    count,
    number,
    percent,
    section,
    share,
    word,
)
from puzzle_study.reporting.scores import IMAGES_NOTE, image_difference
from puzzle_study.reporting.study_data import Choice, natural, paired, tasks_of, title_of
from puzzle_study.statistics import intervals

if TYPE_CHECKING:
    from puzzle_study.reporting.study_data import StudyData


def build(studies: Sequence[StudyData], figures: Path) -> Section:
    """Return the section; the first study is the one that is reported."""
    titles = _titles(studies)
    blocks: list[Block | None] = [_overview(studies, titles), _figure(studies, titles, figures)]
    alike = [(data, title) for data, title in zip(studies, titles, strict=True) if data.dataset == studies[0].dataset]
    if len(alike) > 1:
        blocks += [_by_class(alike), _differences(alike)]
    if len(alike) < len(studies):
        blocks.append(absent("Studies of other data sets are not compared class by class."))
    return section("comparison", "Comparison of studies", blocks)


def _presets(data: StudyData) -> str:
    """Return the presets of a study's detectors."""
    own = data.study.detectors.values() if data.study else ()
    return ", ".join(str(preset) for settings in own if (preset := getattr(settings, "preset", None)))


def _overview(studies: Sequence[StudyData], titles: Sequence[str]) -> Table:
    rows, methods = [], set()
    for data, title in zip(studies, titles, strict=True):
        winner, default = _mean(data, data.winner), _mean(data, data.default)
        methods |= {mean.method for mean in (winner, default) if mean}
        reference = _best_reference(data)
        rows.append(
            (
                word(title),
                word(data.dataset),
                word(_presets(data)),
                percent(winner.value, winner.low, winner.high) if winner else Cell(data.lacking() or "–"),
                word(data.winner.aggregation if data.winner else ""),
                percent(default.value, default.low, default.high) if default else Cell(data.lacking() or "–"),
                percent(reference[1]) if reference else Cell("–"),
                word(title_of(reference[0]) if reference else ""),
                word(data.selected_by),
                count(len(data.classes)),
                count(data.finished["seed"].nunique()),
                count(len(data.finished)),
                word(str(data.environment.get("git_commit") or "")[:8]),
            )
        )
    return Table(
        "studies",
        "Studies",
        (
            Column("study", "Study", numeric=False),
            Column("dataset", "Data set", numeric=False),
            Column("preset", "Preset", numeric=False),
            Column("winner", "Winner, AUROC % [95 %]"),
            Column("aggregation", "Aggregation", numeric=False),
            Column("default", "Default, AUROC % [95 %]"),
            Column("reference", "Best reference %"),
            Column("reference_name", "Which", numeric=False),
            Column("selection", "Selection", numeric=False),
            Column("classes", "Classes (n)"),
            Column("seeds", "Seeds (n)"),
            Column("trials", "Trials (n)"),
            Column("commit", "Commit", numeric=False),
        ),
        tuple(rows),
        f"AUROC: mean over classes and seeds. {intervals.method_note(methods)} Studies of other classes, images "
        "or budgets are not comparable by their means; see Settings of each.",
    )


def _by_class(alike: Sequence[tuple[StudyData, str]]) -> Table:
    names = sorted({name for data, _ in alike for name in data.classes}, key=natural)
    columns = [Column("class", "Normal class", numeric=False)]
    for index, (_, title) in enumerate(alike):
        columns += [Column(f"auroc_{index + 1}", f"{title} %"), Column(f"seeds_{index + 1}", "Seeds (n)")]
    rows = []
    for name in names:
        cells = [word(name)]
        for data, _ in alike:
            values = data.metric(data.winner).dropna() if data.winner else None
            own = values[values.index.get_level_values("normal_class") == name] if values is not None else None
            if own is None or not len(own):
                cells += [Cell("–"), Cell("–")]
            else:
                text = share(float(own.mean())) + (f" ± {share(float(own.std()))}" if len(own) > 1 else "")
                cells += [Cell(text, float(own.mean())), count(len(own))]
        rows.append(tuple(cells))
    return Table(
        "studies_by_class",
        "Winners of the studies by normal class",
        tuple(columns),
        tuple(rows),
        "AUROC, mean over seeds ± standard deviation over seeds where there are several; no interval.",
    )


def _differences(alike: Sequence[tuple[StudyData, str]]) -> Table | None:
    """Return the first study's winner against the others', on tasks and seeds that they share."""
    (first, own_title), *others = alike
    if first.winner is None:
        return None
    found = []
    for data, title in others:
        if data.winner is None:
            continue
        mine, theirs = paired(first.metric(first.winner), data.metric(data.winner))
        if len(mine):
            difference = intervals.paired_difference(mine.to_numpy(), theirs.to_numpy(), tasks_of(mine))
            found.append((title, difference, image_difference((first, first.winner), (data, data.winner), mine.index)))
    if not found:
        return None
    corrected = intervals.holm([difference.p_value for _, difference, _ in found])
    return Table(
        "studies_differences",
        f"The winner of {own_title} against the winners of the others",
        (
            Column("against", "Against", numeric=False),
            Column("difference", "AUROC difference, points [95 %]"),
            Column("over_images", "Over test images, points [95 %]"),
            Column("pairs", "Pairs (n)"),
            Column("tasks", "Tasks (n)"),
            Column("p", "p (Wilcoxon)"),
            Column("p_holm", "p (Holm)"),
        ),
        tuple(
            (
                word(title),
                percent(one.mean.value, one.mean.low, one.mean.high, signed=True, digits=2),
                percent(images.value, images.low, images.high, signed=True, digits=2) if images else Cell("–"),
                count(one.pairs),
                count(one.mean.strata),
                number(one.p_value),
                number(p_value),
            )
            for (title, one, images), p_value in zip(found, corrected, strict=True)
        ),
        f"{own_title} minus the other, on the tasks and seeds that both ran. "
        f"{intervals.method_note(one.mean.method for _, one, _ in found)} "
        f"{IMAGES_NOTE} {intervals.p_note([one for _, one, _ in found])}",
    )


def _figure(studies: Sequence[StudyData], titles: Sequence[str], figures: Path) -> Figure:
    with drawing.drawing(6.4, 0.9 + 0.55 * len(studies)) as (figure, (place,)):
        said = []
        for index, (data, title) in enumerate(zip(studies, titles, strict=True)):
            for kind, choice, shift, marker in (
                ("winner", data.winner, -0.15, "o"),
                ("default", data.default, 0.0, "D"),
            ):
                mean = _mean(data, choice)
                if mean:
                    spread = [[max(0.0, 100 * (mean.value - mean.low))], [max(0.0, 100 * (mean.high - mean.value))]]
                    colour = drawing.PALETTE[3] if kind == "winner" else drawing.PALETTE[1]
                    place.errorbar(
                        [100 * mean.value],
                        [index + shift],
                        xerr=spread,
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
        place.set_yticks(range(len(studies)), titles)
        place.invert_yaxis()
        place.set(xlabel="AUROC, %")
        figure.legend(loc="outside upper center", ncols=3, fontsize=8)
        return drawing.finished(
            figure,
            figures,
            name="studies",
            alt="Points with intervals: AUROC of each study. " + "; ".join(said) + ".",
            caption="Winner, default and best reference of each study; intervals as in the table.",
        )


def _titles(studies: Sequence[StudyData]) -> list[str]:
    """Return a name for each study; equal names get the folder beside them."""
    names = [data.name for data in studies]
    return [
        name if names.count(name) == 1 else f"{name} ({data.results.root.name}, {index + 1})"
        for index, (name, data) in enumerate(zip(names, studies, strict=True))
    ]


def _mean(data: StudyData, choice: Choice | None) -> intervals.Mean | None:
    return data.mean(choice) if choice else None


def _best_reference(data: StudyData) -> tuple[str, float] | None:
    means = [(name, data.metric(data.reference(name))) for name in data.references]
    known = [(name, float(values.mean())) for name, values in means if len(values)]
    return max(known, key=lambda entry: entry[1]) if known else None
