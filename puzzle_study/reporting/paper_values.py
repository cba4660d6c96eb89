"""The paper's published numbers, which reports show labelled beside ours.

The tables are data of this package (``paper/table*.csv``), in percent as printed; this module gives fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, reduce
from importlib import resources
from typing import Any

import pandas as pd

from puzzle_study.config import layers
from puzzle_study.config.types import DetectorSettings
from puzzle_study.datasets import DATASETS

PUZZLE_AE = "Puzzle-AE"
IN_THE_PAPER = {"Jigsaw": "Jigsaw puzzle", "one-class SVM": "OCSVM"}
"""The paper's names of detectors, by their titles here, if they differ."""
PLUS_MINUS = (
    "The paper does not say what its ± is: its text mentions mean and variance over the last 20 epochs (section 4.3), "
    "its tables print ± without a name. Ours is the standard deviation, in points; its square is the variance."
)


@dataclass(frozen=True)
class PaperValues:
    """AUROC of one row of the paper, as fractions.

    Attributes:
        source: where it is printed, such as ``Table 8, CPAE-G, avg``.
        by_class: AUROC by class number or category; empty if the paper has only a mean.
        spread: the number after its ± (:data:`PLUS_MINUS`), if printed.
        mean: the mean as printed, which sometimes differs from the mean of its row.
        last20: whether these are means over the last 20 epochs of a training (section 4.3) instead of over draws.
    """

    source: str
    by_class: dict[str, float]
    spread: dict[str, float]
    mean: float
    last20: bool = True


@dataclass(frozen=True)
class Conditions:
    """The settings that select a table of the paper; by default those of its main tables.

    Other searched settings, such as λ or ε, are compared with the same table.

    Attributes:
        method: the detector's name in the paper.
        variant: ``PAE``, ``CPAE``, ``CPAE-G`` or ``Rot-AE``; Tables 6 and 8.
        grid: pieces per side; Table 1 has nine pieces for Fashion-MNIST.
        train_fraction: share of the training images; Table 9 has 1/12 for MNIST.
        max_train_images: bound on their number; no table has one, so such a study is compared with the table of
            all images, at a fraction of the budget.
        grayscale: whether images were converted to gray; no table has it.
    """

    method: str = PUZZLE_AE
    variant: str = "CPAE-G"
    grid: int = 2
    train_fraction: float = 1.0
    max_train_images: int | None = None
    grayscale: bool = False


MAIN = Conditions()
ROTATIONS = Conditions(variant="Rot-AE")
TWELFTH = 1 / 12
MEDICAL = ("head_ct", "brain_mri")
ONLY_CLASS = "0"
TOY, EFFICIENCY, GENERALITY = "table01_auroc_toy", "table09_data_efficiency_mnist", "table05_generality"
PEERS: dict[str, dict[str, str]] = {
    **{name: {"Table 1": TOY, "Table 5": GENERALITY} for name in ("mnist", "fashion_mnist", "cifar10")},
    "mvtec": {"Table 2": "table02_auroc_mvtec", "Table 6": "table06_auroc_mvtec_ssl", "Table 5": GENERALITY},
    "coil100": {"Table 3": "table03_auroc_coil100"},
    **{name: {"Table 4": "table04_medical", "Table 5": GENERALITY} for name in MEDICAL},
}
"""Tables with other detectors, by data set; the first one with the detector counts."""
DOUBTFUL = {("fashion_mnist", "DSVDD"): "the numbers of its row of OCSVM in another order"}
"""Rows of Table 1 that cannot be right."""


@cache
def table(name: str) -> pd.DataFrame:
    """Return one of the paper's tables, such as ``table01_auroc_toy``, as printed there."""
    source = resources.files("puzzle_study.reporting").joinpath("paper", f"{name}.csv")
    with source.open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"normal_class": str, "category": str})


def class_number(dataset: str, normal_class: str) -> str:
    """Return a class's number in the paper's tables, or its name if they use names."""
    info = DATASETS.get(dataset)
    classes = info.classes if info and info.classes else ()
    if normal_class in classes and dataset != "mvtec":
        return str(classes.index(normal_class))
    return normal_class


def auroc(dataset: str, conditions: Conditions = MAIN, *, aggregation: str = "avg") -> PaperValues | None:
    """Return what the paper reports for a data set and settings, or None if it reports nothing.

    Args:
        dataset: name of the data set in a study file.
        conditions: the settings.
        aggregation: only Table 8 (CIFAR-10) has separate values for each.
    """
    conditions = _effective(dataset, conditions)
    if conditions.method != PUZZLE_AE:
        return _peer(dataset, conditions)
    variant, file = conditions.variant, ""
    chosen = {"method": PUZZLE_AE}
    if dataset == "mnist" and _is_twelfth(conditions):
        source, file = "Table 9", EFFICIENCY
    elif dataset == "cifar10" and conditions in (MAIN, replace(MAIN, variant="PAE"), replace(MAIN, variant="CPAE")):
        source, file = f"Table 8, {variant}, {aggregation}", "table08_ablation_cifar10"
        chosen = {"variant": variant, "aggregation": aggregation}
    elif dataset == "fashion_mnist" and conditions in (MAIN, replace(MAIN, grid=3)):
        source, file = "Table 1", TOY
        chosen = {"dataset": dataset, "method": f"{PUZZLE_AE} ({conditions.grid**2} parts)"}
    elif dataset == "mvtec" and conditions == ROTATIONS:
        source, file, chosen = "Table 6, Rot-AE", "table06_auroc_mvtec_ssl", {"method": variant}
    elif conditions == MAIN:
        source, file = {
            "mnist": ("Table 1", TOY),
            "mvtec": ("Table 2", "table02_auroc_mvtec"),
            "coil100": ("Table 3", "table03_auroc_coil100"),
            **dict.fromkeys(MEDICAL, ("Table 4", "table04_medical")),
        }.get(dataset, ("", ""))
        chosen |= {"dataset": dataset}
    if not file:
        return None
    values = _values(source, _rows(file, **chosen))
    if source == "Table 8, CPAE-G, avg":
        # Table 1 prints this same row, with its ±.
        return replace(values, spread=_values("", _rows(TOY, dataset=dataset, method=PUZZLE_AE)).spread)
    return values


def _peer(dataset: str, conditions: Conditions) -> PaperValues | None:
    """Return what the paper prints for another detector: in Table 5 only means over classes."""
    method, tables = IN_THE_PAPER.get(conditions.method, conditions.method), PEERS.get(dataset, {})
    if dataset == "mnist" and _is_twelfth(replace(conditions, method=PUZZLE_AE)):
        tables = {"Table 9": EFFICIENCY}
    elif replace(conditions, method=PUZZLE_AE, grid=MAIN.grid) != MAIN:
        return None
    for source, file in tables.items():
        rows = _rows(file, dataset=dataset, method=method)
        if len(rows):
            doubt = f" ({DOUBTFUL[dataset, method]})" if (dataset, method) in DOUBTFUL else ""
            found = replace(_values(f"{source}, {method}{doubt}", rows), last20=False)
            means = file == GENERALITY and dataset not in MEDICAL
            return replace(found, by_class={}, spread={}) if means else found
    return None


def fpr_at_tpr(dataset: str, tpr_percent: float, conditions: Conditions = MAIN) -> dict[str, float]:
    """Return the paper's FPR at a TPR by class: Table 10, MNIST at 99 and 99.5 %; otherwise empty."""
    if dataset != "mnist" or _effective(dataset, conditions) != MAIN:
        return {}
    rows = _rows("table10_fpr_at_tpr_mnist", method=PUZZLE_AE, tpr_percent=tpr_percent)
    return dict(zip(rows["normal_class"], rows["fpr"].astype(float), strict=True))


def fpr_at_unstated_tpr(dataset: str, conditions: Conditions = MAIN) -> dict[str, float]:
    """Return the paper's FPR by class without a stated TPR: Table 4, the medical sets; otherwise empty."""
    if dataset not in MEDICAL or _effective(dataset, conditions) != MAIN:
        return {}
    return {ONLY_CLASS: float(_rows("table04_medical", dataset=dataset, method=PUZZLE_AE)["fpr"].iloc[0])}


def fraction_of_budget(settings: type[DetectorSettings], dataset: str, setting: Callable[[str], Any]) -> str:
    """Return what a training lacks of the budget of the detector's paper, or nothing.

    Args:
        settings: the class of the detector's settings.
        dataset: name of the data set in a study file.
        setting: returns a setting of the training by its dotted name, or None if it is left out.
    """
    merged = layers.leaves(layers.resolved(settings, {"preset": "paper"}, dataset))
    short = []
    for name in settings.BUDGET:
        wanted, has = merged.get(name, reduce(getattr, name.split("."), settings())), setting(name)
        if has is not None and int(has) < wanted:
            short.append(f"{int(has)} of {wanted} {name.rpartition('.')[2].replace('_', ' ')}")
    side, size, most = DATASETS[dataset].size, setting("data.size"), setting("data.max_train_images")
    short += [f"{int(size)} of {side} pixels a side"] if size is not None and int(size) < side else []
    short += [f"at most {int(most)} training images"] if most is not None else []
    return ", ".join(short)


def data_efficiency(dataset: str, conditions: Conditions) -> dict[str, float]:
    """Return the paper's mean AUROC at 1/12 of the training images by method: Table 9, MNIST; otherwise empty."""
    if dataset != "mnist" or not _is_twelfth(_effective(dataset, conditions)):
        return {}
    rows = table(EFFICIENCY).drop_duplicates("method")
    return dict(zip(rows["method"], rows["reported_mean_percent"].astype(float) / 100, strict=True))


def missing_auroc(dataset: str, conditions: Conditions) -> str:
    """Return that the paper has no AUROC for these settings; empty if it has one, or none for the data set."""
    return _missing("AUROC", dataset, conditions, auroc)


def missing_fpr(dataset: str, conditions: Conditions) -> str:
    """Return that the paper has no FPR for these settings; empty if it has one, or none for the data set."""
    return _missing("FPR", dataset, conditions, lambda *own: fpr_at_tpr(own[0], 99, *own[1:]))


def images_in_use(conditions: Conditions) -> str:
    """Return the settings that reduce the training images, by name and value; empty if all are used."""
    settings = {"data.train_fraction": conditions.train_fraction, "data.max_train_images": conditions.max_train_images}
    return ", ".join(f"{name} {value:.3g}" for name, value in settings.items() if value not in (None, 1))


def _missing(what: str, dataset: str, conditions: Conditions, printed: Callable[..., object]) -> str:
    if not printed(dataset) or printed(dataset, conditions) or conditions.method != PUZZLE_AE:
        return ""
    conditions = _effective(dataset, conditions)
    other = [
        f"variant {conditions.variant}" if conditions.variant != MAIN.variant else "",
        f"puzzle.grid {conditions.grid}" if conditions.grid != MAIN.grid else "",
        "data.grayscale" if conditions.grayscale else "",
        images_in_use(conditions),
    ]
    return f"The paper has no {what} for {dataset} with {', '.join(filter(None, other))}."


def _effective(dataset: str, conditions: Conditions) -> Conditions:
    """Return the settings without those that select no table: a gray set has no colour to remove."""
    info = DATASETS.get(dataset)
    gray = conditions.grayscale and not (info and info.channels == 1)
    return replace(conditions, max_train_images=None, grayscale=gray)


def _is_twelfth(conditions: Conditions) -> bool:
    fraction = conditions.train_fraction
    # A study file may have 0.0833, and a table has fewer digits than a float.
    return math.isclose(fraction, TWELFTH, rel_tol=1e-3) and replace(conditions, train_fraction=1.0) == MAIN


def _rows(file: str, **chosen: object) -> pd.DataFrame:
    """Return the rows of a table with these values, in the columns that it has."""
    rows = table(file)
    for name, value in chosen.items():
        rows = rows[rows[name] == value] if name in rows else rows
    return rows


def _values(source: str, rows: pd.DataFrame) -> PaperValues:
    """Return one row of the paper; a table without classes has a mean over draws, or a set with one class."""
    shares = {
        name: rows[name].astype(float) / 100
        for name in ("auroc_percent", "std_percent", "auroc_std_percent", "reported_mean_percent")
        if name in rows
    }
    key = next((rows[name] for name in ("normal_class", "category") if name in rows), None)
    mean = float(shares.get("reported_mean_percent", shares["auroc_percent"]).iloc[0])
    if key is None and "dataset" not in rows:
        return PaperValues(source, {}, {}, mean, last20=False)
    keys = [ONLY_CLASS] if key is None else list(key)
    deviations = shares.get("std_percent", shares.get("auroc_std_percent", pd.Series(dtype=float)))
    printed = {name: float(value) for name, value in zip(keys, deviations, strict=False) if not math.isnan(value)}
    return PaperValues(source, dict(zip(keys, shares["auroc_percent"], strict=True)), printed, mean)
