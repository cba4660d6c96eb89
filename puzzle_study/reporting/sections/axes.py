"""How each searched setting affects the AUROC, and how much of the variance it explains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from puzzle_study.reporting import drawing, importance
from puzzle_study.reporting.blocks import Block, Blocks, Column, Figure, Paragraph, Table, absent, section, table, words
from puzzle_study.reporting.cells import Cell, bracketed, count, estimated, percent, share, word
from puzzle_study.reporting.choice import Choice
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.statistics import intervals

FEW_LEVELS = 6
SIDE_BY_SIDE = 4


@section("axes", "Searched settings")
def build(data: StudyData) -> Blocks:
    chosen = data.winner or data.default
    frame = configurations(data, chosen) if data.axes and chosen else pd.DataFrame()
    if not data.axes or chosen is None:
        yield absent("This study searched no setting.")
    elif frame.empty and (lacks := data.lacking()):
        yield absent(f"There is no test AUROC to show against the settings: {lacks}.")
    elif len(frame) < 2:
        yield absent("Fewer than two configurations are complete.")
    else:
        yield Paragraph(
            f"Test AUROC with {chosen.aggregation} aggregation, mean over classes and seeds of each complete "
            "configuration. This describes the search afterwards; nothing was selected by it."
        )
        yield _slices(data, frame, chosen)
        yield _importance(data, frame)
        yield _variance(data, chosen)


def configurations(data: StudyData, chosen: Choice) -> pd.DataFrame:
    """Return a row per complete configuration: its axes, AUROC, ends of the interval, and labels."""
    rows, labels = [], dict[str, list[str]]()
    for configuration, label in zip(data.complete["configuration"].astype(str), data.complete["label"], strict=True):
        labels.setdefault(configuration, []).append(label)
    for configuration, own in labels.items():
        mean = data.mean(replace(chosen, configuration=configuration))
        if mean is not None:
            rows.append(
                {
                    **data.values_of(configuration),
                    "_name": data.called(configuration),
                    "_auroc": mean.value,
                    "_low": mean.low,
                    "_high": mean.high,
                    "_label": ";".join(filter(None, own)),
                }
            )
    return pd.DataFrame(rows)


def _slices(data: StudyData, frame: pd.DataFrame, chosen: Choice) -> Figure:
    with drawing.panels(len(data.axes), most=SIDE_BY_SIDE, width=3.3, height=3.1, sharey=True) as (figure, places):
        for place, name in zip(places, data.axes, strict=True):
            _slice(data, frame, name, place)
        for place in places[::SIDE_BY_SIDE]:
            place.set_ylabel("AUROC, %")
        places[0].legend(fontsize=8, loc="best")
        best = frame.iloc[int(frame["_auroc"].argmax())]
        settings = ", ".join(f"{name} {best[name]}" for name in data.axes if pd.notna(best[name]))
        return drawing.finished(
            figure,
            name="slices",
            alt=f"One panel per searched setting ({', '.join(data.axes)}): AUROC of {len(frame)} configurations "
            f"against its value; AUROC goes from {share(frame['_auroc'].min())} to {share(frame['_auroc'].max())} %, "
            f"the highest with {settings}.",
            caption=f"Slices through the search: each point is a configuration (n = {len(frame)}), with "
            f"{chosen.aggregation} aggregation. Bars: 95 % intervals of the mean as in the ranking. The other settings "
            "vary together with the one shown.",
        )


def _slice(data: StudyData, frame: pd.DataFrame, name: str, place: Axes) -> None:
    column = frame[name]
    known = frame[column.notna()]
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    numeric = numeric and not (_kind(data, name) in ("choice", "grid") and len(known[name].unique()) <= FEW_LEVELS)
    if numeric:
        x = known[name].to_numpy(dtype=float)
        if _kind(data, name) == "log_uniform" and len(x) and (x > 0).all():
            place.set_xscale("log")
    else:
        levels = [_level(value) for value in sorted(known[name].unique())]
        generator = np.random.default_rng(0)
        # Spread sideways so that configurations with the same value do not hide each other.
        x = known[name].map(lambda value: levels.index(_level(value))).to_numpy(dtype=float) + generator.uniform(
            -0.15, 0.15, len(known)
        )
        place.set_xticks(range(len(levels)), levels)
        place.set_xlim(-0.6, len(levels) - 0.4)
    y = 100 * known["_auroc"].to_numpy(dtype=float)
    spread = np.nan_to_num(np.abs(100 * known[["_low", "_high"]].to_numpy(dtype=float).T - y))
    place.errorbar(x, y, yerr=spread, fmt="none", ecolor=drawing.GREY, elinewidth=0.8, alpha=0.6)
    for label, colour, marker, size in (
        ("", drawing.PALETTE[0], "o", 28),
        ("default", drawing.PALETTE[1], "D", 48),
        ("winner", drawing.PALETTE[3], "*", 130),
    ):
        mask = known["_label"].str.contains(label).to_numpy() if label else (known["_label"] == "").to_numpy()
        if mask.any():
            points = place.scatter(x[mask], y[mask], s=size, c=colour, marker=marker, zorder=3, label=label or "other")
            drawing.tell(
                points,
                [
                    f"{one['_name']}: {name} {_level(one[name])}, AUROC {share(one['_auroc'])} %"
                    for _, one in known[mask].iterrows()
                ],
            )
    place.set_xlabel(name)


def _level(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kind(data: StudyData, name: str) -> str:
    axis = data.study.search.space.get(name) if data.study and data.study.search else None
    return axis.kind if axis else ""


def _importance(data: StudyData, frame: pd.DataFrame) -> Block:
    if len(frame) < importance.FEWEST:
        return absent(
            f"No importance of settings: {len(frame)} configurations are complete, and a model of fewer than "
            f"{importance.FEWEST} would mean nothing."
        )
    found = importance.importances(frame[data.axes], frame["_auroc"])
    r2 = found.r2
    explained = f"{share(r2.value, digits=0)} %{bracketed(r2, digits=0)}"
    if not r2.low > 0:
        why = (
            "all configurations have the same AUROC"
            if np.isnan(r2.value)
            else f"a random forest explains {explained} of the variance of left-out configurations "
            f"({importance.METHOD}), which may be nothing"
        )
        return absent(f"No importance of settings: {why}; n = {found.n} configurations.")
    return table(
        "importance",
        "Importance of the searched settings",
        [
            {
                words("setting", "Setting"): word(name),
                Column("importance", "Importance % [95 %]"): estimated(axis, digits=0),
                Column("configurations", "Configurations (n)"): count(found.n),
            }
            for name, axis in sorted(found.axes.items(), key=lambda axis: -axis[1].value)
        ],
        "Permutation importance of a random forest on configurations that it was not fitted on: increase of the "
        f"squared error as a share of the variance between configurations. Interval: {importance.METHOD}. The "
        f"forest explains {explained} of the variance of left-out configurations.",
    )


def _variance(data: StudyData, chosen: Choice) -> Table | None:
    """Return the shares of the variance of trials for setting, class and seed."""
    choices = [replace(chosen, configuration=str(one)) for one in data.complete["configuration"].unique()]
    trials = [
        (value, choice.configuration, key)
        for choice in choices
        for value, key in zip(data.numbers(choice), data.keys(choice), strict=True)
        if not np.isnan(value)
    ]
    values = [value for value, _, _ in trials]
    factors = {
        "setting": [setting for _, setting, _ in trials],
        "class": [str(key[1:3]) for _, _, key in trials],
        # A seed means another random stream in another class, so it is a separate level there.
        "seed": [str(key[1:]) for _, _, key in trials],
    }
    if len(set(factors["seed"])) == len(set(factors["class"])):
        del factors["seed"]
    varied = {name: levels for name, levels in factors.items() if len(set(levels)) > 1}
    if len(varied) < 2 or len(values) < 8:
        return None
    shares = intervals.variance_shares(values, varied)
    titles = {"setting": "searched settings", "class": "normal class", "seed": "seed within class"}
    titles["rest"] = "interactions and noise"
    return table(
        "variance",
        "Where the variance of the trials comes from",
        [
            {
                words("source", "Source"): word(titles[name]),
                Column("share", "Share of variance %"): percent(value, digits=0),
                Column("levels", "Levels (n)"): count(len(set(varied[name]))) if name in varied else Cell(""),
            }
            for name, value in shares.items()
        ],
        f"η² of each factor over {len(values)} trials of complete configurations; no interval. A factor with few "
        "levels is described, not estimated; even pure noise gives a factor of k levels a share of about (k − 1)/(n − "
        "1).",
    )
