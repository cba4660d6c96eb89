"""AUROC during training, and whether the end of the training matters."""

from __future__ import annotations

import pandas as pd
import seaborn as sns

from puzzle_study.reporting import drawing, paper_values
from puzzle_study.reporting.blocks import Blocks, Column, Figure, Paragraph, Row, Table, absent, section, table, words
from puzzle_study.reporting.cells import Cell, count, percent, share, word
from puzzle_study.reporting.choice import AGGREGATIONS, Choice
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.values import natural, of_class

LAST = 20
LOSSES = {"loss_rec": "reconstruction", "loss_adv": "feature matching", "loss_d": "discriminator"}


@section("training", "Training")
def build(data: StudyData) -> Blocks:
    choice = data.described
    if choice is None:
        yield absent("No configuration finished.")
        return
    curves = _curves(data, choice)
    if curves is None:
        yield absent("This study stored no epochs of this configuration (epochs.parquet).")
    else:
        yield _auroc_figure(data, choice, curves)
        yield _loss_figure(data, choice, curves)
    yield _second_half(data, choice)
    yield last_table(data, choice) or absent(_no_last(data, choice))


def _no_last(data: StudyData, choice: Choice) -> str:
    lacks = data.lacking(data.of(choice))
    if lacks:
        return f"There is no test AUROC during training: {lacks}."
    won = "" if data.table_error(choice) == choice.error else f" under the error norm {choice.error}, which won"
    return f"The trials have no statistics over their last evaluations{won}."


def last_table(data: StudyData, choice: Choice) -> Table | None:
    """Return mean and standard deviation over the last 20 evaluations, by class and aggregation."""
    last = {
        one.aggregation: (data.metric(one, "last20", "_mean"), data.metric(one, "last20", "_std"))
        for one in choice.by_aggregation()
    }
    if not any(len(means) for means, _ in last.values()):
        return None
    conditions = data.conditions(choice)
    paper = paper_values.auroc(data.dataset, conditions, aggregation=choice.aggregation)
    alike = paper if paper is not None and paper.last20 and paper.by_class else None
    rows: list[Row] = []
    for name in data.classes_of(choice):
        row = {words("class", "Normal class"): word(name)}
        for way, (means, spreads) in last.items():
            row[Column(f"mean_{way}", f"{way}, mean %")] = _mean(means, name, digits=2)
            row[Column(f"std_{way}", f"{way}, std points")] = _mean(spreads, name, digits=3)
        if alike:
            source, number = data.paper_source(choice, alike.source), paper_values.class_number(data.dataset, name)
            row[Column("paper_mean", f"the paper's % ({source})")] = percent(alike.by_class.get(number), digits=2)
            row[Column("paper_spread", "the paper's ±, points")] = percent(alike.spread.get(number), digits=3)
        row[Column("seeds", "Seeds (n)")] = count(len(of_class(last[choice.along][0], name)))
        rows.append(row)
    rarely = " There were so few evaluations that these include the first epochs: use the second half above."
    counted = min(LAST, max(_evaluations(data, choice), default=LAST))
    these = f"last {counted} evaluations" if counted > 1 else "only evaluation"
    missing = paper_values.missing_auroc(data.dataset, conditions)
    return table(
        "last20",
        f"The {these} of the training: {data.label(choice)}",
        rows,
        f"Mean and standard deviation of the AUROC over the {these} of each trial, both averaged over "
        "seeds; evaluated on a subset of the test images if evaluate.max_images says so. No interval: the "
        "standard deviation is the result."
        + (rarely if covers_the_start(data, choice) else "")
        + " It describes how one training fluctuates, not how seeds differ."
        + (f" {missing}" if missing else "")
        + (f" {paper_values.PLUS_MINUS}{data.paper_note(choice)}" if alike else ""),
    )


def covers_the_start(data: StudyData, choice: Choice) -> bool:
    """Return whether the last 20 evaluations are more than half of all, so that they include the first epochs."""
    return min(_evaluations(data, choice), default=2 * LAST) < 2 * LAST


def _evaluations(data: StudyData, choice: Choice) -> list[int]:
    """Return how often each trial was evaluated; nothing if the study stored no epochs."""
    curves = _curves(data, choice)
    if curves is None:
        return []
    return list(curves.dropna(subset=[f"auroc_{choice.along}"]).groupby("trial").size())


def _second_half(data: StudyData, choice: Choice) -> Paragraph | None:
    """Return how much the AUROC varies over the second half of the evaluations."""
    curves = _curves(data, choice)
    if curves is None:
        return None
    column = f"auroc_{choice.along}"
    spreads, counts = [], []
    for _, own in curves.dropna(subset=[column]).sort_values("epoch").groupby("trial"):
        half = own[column].iloc[len(own) // 2 :]
        if len(half) > 1:
            spreads.append(float(half.std()))
            counts.append(len(half))
    if not spreads:
        return None
    return Paragraph(
        f"Over the second half of its evaluations (at least {min(counts)} of a training) the AUROC of "
        f"{data.label(choice)} with {choice.along} ({curve_norm(data, choice)}) has a standard deviation of "
        f"{share(sum(spreads) / len(spreads), digits=2)} points, mean of {len(spreads)} trials; highest "
        f"{share(max(spreads), digits=2)}."
    )


def curve_norm(data: StudyData, choice: Choice) -> str:
    """Return the error norm of the curves in epochs.parquet, which may differ from the winner's."""
    own = data.table_error(choice)
    other = "" if own == choice.error else f", the study's own, although {choice.error} won"
    return f"error norm {own}{other}"


def _curves(data: StudyData, choice: Choice) -> pd.DataFrame | None:
    if data.epochs is None:
        return None
    trials = data.of(choice)[["trial", "normal_class", "seed"]]
    curves = data.epochs.merge(trials, on="trial")
    return curves if len(curves) else None


def _auroc_figure(data: StudyData, choice: Choice, curves: pd.DataFrame) -> Figure | None:
    long = curves.melt(
        id_vars=["trial", "epoch", "normal_class"],
        value_vars=[f"auroc_{way}" for way in AGGREGATIONS],
        var_name="aggregation",
        value_name="auroc",
    ).dropna(subset=["auroc"])
    if not len(long):
        return None
    long["aggregation"] = long["aggregation"].str.removeprefix("auroc_")
    long["auroc"] *= 100
    own = long[long["aggregation"] == choice.along]
    names = sorted(own["normal_class"].unique(), key=natural)
    trials = long["trial"].nunique()
    with drawing.drawing(9.6, 3.8, columns=2, sharey=True) as (figure, (left, right)):
        sns.lineplot(long, x="epoch", y="auroc", errorbar=("pi", 100), ax=left, **drawing.BY_AGGREGATION)
        left.set(title="all classes, mean and range over trials", xlabel="epoch", ylabel="AUROC, %")
        left.legend(title=None)
        sns.lineplot(
            own,
            x="epoch",
            y="auroc",
            hue="normal_class",
            hue_order=names,
            errorbar=None,
            ax=right,
            palette=sns.color_palette("colorblind", len(names)) if len(names) <= 10 else "viridis",
        )
        right.set(title=f"{choice.along} by normal class, mean over seeds", xlabel="epoch")
        right.legend(title=None, ncols=2 if len(names) <= 10 else 3, fontsize=8)
        ends = own.groupby("epoch")["auroc"].mean().iloc[[0, -1]]
        return drawing.finished(
            figure,
            name="auroc_by_epoch",
            alt=f"Lines of AUROC against epoch for {', '.join(AGGREGATIONS)} (left) and by normal class (right); "
            f"with {choice.along} the mean goes from {ends.iloc[0]:.1f} % in epoch {ends.index[0]} to "
            f"{ends.iloc[1]:.1f} % in epoch {ends.index[1]}.",
            caption=f"Test AUROC during training of {data.label(choice)} (configuration {data.called(choice)}); it "
            f"affects neither training nor selection. {curve_norm(data, choice).capitalize()}. Band: lowest to highest "
            f"of {trials} trials of {len(names)} classes.",
        )


def _loss_figure(data: StudyData, choice: Choice, curves: pd.DataFrame) -> Figure | None:
    names = map(str, curves.columns)
    losses = [name for name in names if name.startswith("loss") and curves[name].notna().any()]
    if not losses:
        return None
    titles = {name: LOSSES.get(name, name.removeprefix("loss_")) for name in losses}
    with drawing.drawing(3.2 * len(losses), 2.8, columns=len(losses)) as (figure, axes):
        for place, name in zip(axes, losses, strict=True):
            sns.lineplot(curves, x="epoch", y=name, errorbar="sd", color=drawing.PALETTE[0], ax=place)
            place.set(title=titles[name], xlabel="epoch", ylabel="loss")
            if name == "loss_rec" and (curves[name].dropna() > 0).all():
                place.set_yscale("log")
        ends = curves[curves["epoch"] == curves["epoch"].max()]
        return drawing.finished(
            figure,
            name="losses",
            alt="Lines of the losses against epoch: "
            + ", ".join(f"{titles[name]} ends at {ends[name].mean():.3g}" for name in losses)
            + ".",
            caption=f"Losses of configuration {data.called(choice)}, mean and standard deviation over "
            f"{curves['trial'].nunique()} trials.",
        )


def _mean(values: pd.Series[float], name: str, *, digits: int) -> Cell:
    own = of_class(values, name)
    return percent(float(own.mean()) if len(own) else None, digits=digits)
