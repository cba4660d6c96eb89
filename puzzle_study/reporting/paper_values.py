"""The paper's published numbers, for columns that stand beside ours and are labelled as the paper's.

The tables are data of this package (``paper/table*.csv``), in percent as printed; this module gives fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd

from puzzle_study.config import layers
from puzzle_study.config.types import DetectorSettings
from puzzle_study.datasets import DATASETS

PUZZLE_AE = "Puzzle-AE"
CLASSIFIERS = {"Jigsaw": "Jigsaw puzzle", "RotNet": "RotNet"}
"""Detectors of Table 6 by their titles here, with their names there."""
PLUS_MINUS = (
    "What the paper's ± is, it leaves open: its text has the mean and the variance over the last 20 epochs (section "
    "4.3), its tables print ± without a name. Ours is the standard deviation, in points; its square is the variance."
)


@dataclass(frozen=True)
class PaperValues:
    """AUROC of one row of the paper, as fractions.

    Attributes:
        source: where it is printed, such as ``Table 8, CPAE-G, avg``.
        by_class: AUROC by class number or category; empty where the paper has only a mean.
        spread: what stands behind its ± (:data:`PLUS_MINUS`), where it is printed.
        mean: the mean as printed, which sometimes differs from the mean of its row.
        last20: whether these are means over the last 20 epochs of a training (section 4.3), and not over draws.
    """

    source: str
    by_class: dict[str, float]
    spread: dict[str, float]
    mean: float
    last20: bool = True


@dataclass(frozen=True)
class Conditions:
    """The settings that the paper's tables tell apart or hold fixed; by default those of its main tables.

    What else a study searches, such as λ or ε, is an attempt at the same table and is held against it.

    Attributes:
        method: name of the detector, as the paper and this project write it.
        variant: ``PAE``, ``CPAE``, ``CPAE-G`` or ``Rot-AE``; Tables 6 and 8.
        grid: pieces per side; Table 1 has nine pieces for Fashion-MNIST.
        train_fraction: share of the training images; Table 9 has 1/12 for MNIST.
        max_train_images: bound on their number; no table has one, and a study with one is held against the table of
            all images, at a fraction of the budget.
        grayscale: whether colour was taken away; no table has it.
    """

    method: str = PUZZLE_AE
    variant: str = "CPAE-G"
    grid: int = 2
    train_fraction: float = 1.0
    max_train_images: int | None = None
    grayscale: bool = False


MAIN = Conditions()
TWELFTH = 1 / 12
MEDICAL = ("head_ct", "brain_mri")
ONLY_CLASS = "0"


@cache
def table(name: str) -> pd.DataFrame:
    """Return one of the paper's tables, such as ``table01_auroc_toy``, as printed there."""
    source = resources.files("puzzle_study.reporting").joinpath("paper", f"{name}.csv")
    with source.open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"normal_class": str, "category": str})


def class_number(dataset: str, normal_class: str) -> str:
    """Return the number by which the paper's tables call a class, or the name where they use names."""
    info = DATASETS.get(dataset)
    classes = info.classes if info and info.classes else ()
    if normal_class in classes and dataset != "mvtec":
        return str(classes.index(normal_class))
    return normal_class


def auroc(dataset: str, conditions: Conditions = MAIN, *, aggregation: str = "avg") -> PaperValues | None:
    """Return what the paper reports for a data set under some settings, or None where it reports nothing.

    Args:
        dataset: name of the data set in a study file.
        conditions: the settings.
        aggregation: only Table 8 (CIFAR-10) tells the aggregations apart.
    """
    conditions = _effective(dataset, conditions)
    if conditions.method in (*CLASSIFIERS, "GT"):
        return _classifier(dataset, conditions)
    if dataset == "mnist" and _is_twelfth(conditions):
        rows = table("table09_data_efficiency_mnist")
        return _values("Table 9", rows[rows["method"] == PUZZLE_AE], "normal_class")
    if dataset == "fashion_mnist" and conditions in (MAIN, replace(MAIN, grid=3)):
        return _toy(dataset, f"{PUZZLE_AE} ({conditions.grid**2} parts)")
    variant = conditions.variant
    if replace(conditions, variant=MAIN.variant) != MAIN:
        return None
    if dataset == "cifar10" and variant in ("PAE", "CPAE", "CPAE-G"):
        rows = table("table08_ablation_cifar10")
        rows = rows[(rows["variant"] == variant) & (rows["aggregation"] == aggregation)]
        found = _values(f"Table 8, {variant}, {aggregation}", rows, "normal_class")
        if (variant, aggregation) == ("CPAE-G", "avg"):
            # Table 1 prints this very row again, with its ±.
            return replace(found, spread=_toy("cifar10", PUZZLE_AE).spread)
        return found
    if dataset == "mvtec" and variant == "Rot-AE":
        rows = table("table06_auroc_mvtec_ssl")
        return _values("Table 6, Rot-AE", rows[rows["method"] == "Rot-AE"], "category")
    if variant != MAIN.variant:
        return None
    if dataset == "mnist":
        return _toy(dataset, PUZZLE_AE)
    if dataset == "mvtec":
        rows = table("table02_auroc_mvtec")
        return _values("Table 2", rows[rows["method"] == PUZZLE_AE], "category")
    if dataset == "coil100":
        rows = table("table03_auroc_coil100")
        row = rows[rows["method"] == PUZZLE_AE].iloc[0]
        return PaperValues("Table 3", {}, {}, row["auroc_percent"] / 100, last20=False)
    if dataset in MEDICAL:
        row = _medical(dataset)
        mean = row["auroc_percent"] / 100
        return PaperValues("Table 4", {ONLY_CLASS: mean}, {ONLY_CLASS: row["auroc_std_percent"] / 100}, mean)
    return None


def _classifier(dataset: str, conditions: Conditions) -> PaperValues | None:
    """Return the paper's values of a classifier of transformations: Table 6 by category, Table 5 means only."""
    if replace(conditions, method=MAIN.method, grid=MAIN.grid) != MAIN:
        return None
    if dataset == "mvtec" and conditions.method in CLASSIFIERS:
        rows = table("table06_auroc_mvtec_ssl")
        name = CLASSIFIERS[conditions.method]
        found = _values(f"Table 6, {name}", rows[rows["method"] == name], "category")
        return replace(found, last20=False)
    rows = table("table05_generality")
    rows = rows[(rows["dataset"] == dataset) & (rows["method"] == conditions.method)]
    if rows.empty:
        return None
    return PaperValues(f"Table 5, {conditions.method}", {}, {}, rows["auroc_percent"].iloc[0] / 100, last20=False)


def fpr_at_tpr(dataset: str, tpr_percent: float, conditions: Conditions = MAIN) -> dict[str, float]:
    """Return the paper's FPR at a TPR by class: Table 10, MNIST at 99 and 99.5 %; else empty."""
    if dataset != "mnist" or _effective(dataset, conditions) != MAIN:
        return {}
    rows = table("table10_fpr_at_tpr_mnist")
    rows = rows[(rows["method"] == PUZZLE_AE) & (rows["tpr_percent"] == tpr_percent)]
    return dict(zip(rows["normal_class"], rows["fpr"].astype(float), strict=True))


def fpr_at_unstated_tpr(dataset: str, conditions: Conditions = MAIN) -> dict[str, float]:
    """Return the paper's FPR by class where it does not say at which TPR: Table 4, the medical sets; else empty."""
    if dataset not in MEDICAL or _effective(dataset, conditions) != MAIN:
        return {}
    return {ONLY_CLASS: float(_medical(dataset)["fpr"])}


def fraction_of_budget(
    settings: type[DetectorSettings],
    dataset: str,
    setting: Callable[[str], Any],
    *,
    size: int | None,
    max_train_images: int | None,
) -> str:
    """Return by what a training falls short of the budget of the detector's paper, or nothing if it does not.

    Args:
        settings: the class of the detector's settings.
        dataset: name of the data set in a study file.
        setting: returns a setting of the training by its dotted name.
        size: side of the images in pixels; None: the data set's own.
        max_train_images: bound on the training images; None: all.
    """
    merged = layers.leaves(layers.resolved(settings, {"preset": "paper"}, dataset))
    short = []
    for name in settings.BUDGET:
        wanted, has = merged.get(name, _default(settings, name)), setting(name)
        if has is not None and int(has) < wanted:
            short.append(f"{int(has)} of {wanted} {name.rpartition('.')[2].replace('_', ' ')}")
    side = DATASETS[dataset].size
    short += [f"{size} of {side} pixels a side"] if size is not None and size < side else []
    short += [f"at most {max_train_images} training images"] if max_train_images is not None else []
    return ", ".join(short)


def _default(settings: type[DetectorSettings], dotted: str) -> Any:
    value: Any = settings()
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def data_efficiency(dataset: str, conditions: Conditions) -> dict[str, float]:
    """Return the paper's mean AUROC at 1/12 of the training images by method: Table 9, MNIST; else empty."""
    if dataset != "mnist" or not _is_twelfth(_effective(dataset, conditions)):
        return {}
    rows = table("table09_data_efficiency_mnist").drop_duplicates("method")
    return dict(zip(rows["method"], rows["reported_mean_percent"].astype(float) / 100, strict=True))


def missing_auroc(dataset: str, conditions: Conditions) -> str:
    """Return that the paper has no AUROC under these settings; empty where it has one, or none of the data set."""
    there = auroc(dataset) is None or auroc(dataset, conditions) is not None or conditions.method != PUZZLE_AE
    return "" if there else _missing("AUROC", dataset, conditions)


def missing_fpr(dataset: str, conditions: Conditions) -> str:
    """Return that the paper has no FPR under these settings; empty where it has one, or none of the data set."""
    there = not fpr_at_tpr(dataset, 99) or fpr_at_tpr(dataset, 99, conditions) or conditions.method != PUZZLE_AE
    return "" if there else _missing("FPR", dataset, conditions)


def images_in_use(conditions: Conditions) -> str:
    """Return the settings that take training images away, by name and value; empty where all are in use."""
    settings = {"data.train_fraction": conditions.train_fraction, "data.max_train_images": conditions.max_train_images}
    return ", ".join(f"{name} {value:.3g}" for name, value in settings.items() if value not in (None, 1))


def _missing(what: str, dataset: str, conditions: Conditions) -> str:
    conditions = _effective(dataset, conditions)
    other = [
        f"variant {conditions.variant}" if conditions.variant != MAIN.variant else "",
        f"puzzle.grid {conditions.grid}" if conditions.grid != MAIN.grid else "",
        "data.grayscale" if conditions.grayscale else "",
        images_in_use(conditions),
    ]
    return f"The paper has no {what} for {dataset} with {', '.join(filter(None, other))}."


def _effective(dataset: str, conditions: Conditions) -> Conditions:
    """Return the settings without those that choose no table: a gray set has no colour to lose."""
    info = DATASETS.get(dataset)
    gray = conditions.grayscale and not (info and info.channels == 1)
    return replace(conditions, max_train_images=None, grayscale=gray)


def _is_twelfth(conditions: Conditions) -> bool:
    fraction = conditions.train_fraction
    # A study file may say 0.0833, and a table keeps fewer digits than a float has.
    return math.isclose(fraction, TWELFTH, rel_tol=1e-3) and replace(conditions, train_fraction=1.0) == MAIN


def _toy(dataset: str, method: str) -> PaperValues:
    rows = table("table01_auroc_toy")
    return _values("Table 1", rows[(rows["dataset"] == dataset) & (rows["method"] == method)], "normal_class")


def _values(source: str, rows: pd.DataFrame, key: str) -> PaperValues:
    by_class = dict(zip(rows[key], rows["auroc_percent"].astype(float) / 100, strict=True))
    spread = {}
    if "std_percent" in rows:
        printed = rows.dropna(subset=["std_percent"])
        spread = dict(zip(printed[key], printed["std_percent"].astype(float) / 100, strict=True))
    return PaperValues(source, by_class, spread, float(rows["reported_mean_percent"].iloc[0]) / 100)


def _medical(dataset: str) -> pd.Series[float]:
    rows = table("table04_medical")
    return rows[(rows["dataset"] == dataset) & (rows["method"] == PUZZLE_AE)].iloc[0]
