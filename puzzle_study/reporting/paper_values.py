"""The paper's published numbers, for columns that stand beside ours and are labelled as the paper's.

The tables are data of this package (``paper/table*.csv``), in percent as printed; this module gives fractions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

import pandas as pd

from puzzle_study.config import Aggregation
from puzzle_study.datasets import DATASETS

PUZZLE_AE = "Puzzle-AE"


@dataclass(frozen=True)
class PaperValues:
    """AUROC of one row of the paper, as fractions.

    Attributes:
        source: where it is printed, such as ``Table 8, CPAE-G, avg``.
        by_class: AUROC by class number or category; empty where the paper has only a mean.
        deviation: standard deviation over the last 20 epochs, where it is printed.
        mean: the mean as printed, which sometimes differs from the mean of its row.
    """

    source: str
    by_class: dict[str, float]
    deviation: dict[str, float]
    mean: float


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


def auroc(
    dataset: str, *, variant: str = "CPAE-G", aggregation: Aggregation = "avg", grid: int = 2
) -> PaperValues | None:
    """Return what the paper reports for a data set and variant, or None where it reports nothing.

    Args:
        dataset: name of the data set in a study file.
        variant: ``PAE``, ``CPAE``, ``CPAE-G`` or ``Rot-AE``.
        aggregation: only Table 8 (CIFAR-10) tells the aggregations apart.
        grid: pieces per side; only Table 1 (Fashion-MNIST) tells 4 from 9 parts.
    """
    if dataset == "cifar10" and variant in ("PAE", "CPAE", "CPAE-G"):
        rows = table("table08_ablation_cifar10")
        rows = rows[(rows["variant"] == variant) & (rows["aggregation"] == aggregation)]
        found = _values(f"Table 8, {variant}, {aggregation}", rows, "normal_class")
        if (variant, aggregation) == ("CPAE-G", "avg"):
            # Table 1 prints this very row again, with its standard deviations.
            return replace(found, deviation=_toy("cifar10", PUZZLE_AE).deviation)
        return found
    if dataset == "mvtec" and variant == "Rot-AE":
        rows = table("table06_auroc_mvtec_ssl")
        return _values("Table 6, Rot-AE", rows[rows["method"] == "Rot-AE"], "category")
    if variant != "CPAE-G":
        return None
    if dataset in ("mnist", "fashion_mnist"):
        return _toy(dataset, f"{PUZZLE_AE} ({grid * grid} parts)" if dataset == "fashion_mnist" else PUZZLE_AE)
    if dataset == "mvtec":
        rows = table("table02_auroc_mvtec")
        return _values("Table 2", rows[rows["method"] == PUZZLE_AE], "category")
    if dataset == "coil100":
        rows = table("table03_auroc_coil100")
        return PaperValues("Table 3", {}, {}, _only(rows[rows["method"] == PUZZLE_AE]))
    if dataset in ("head_ct", "brain_mri"):
        rows = table("table04_medical")
        return PaperValues("Table 4", {}, {}, _only(rows[(rows["dataset"] == dataset) & (rows["method"] == PUZZLE_AE)]))
    return None


def fpr_at_tpr(dataset: str, tpr_percent: float) -> dict[str, float]:
    """Return the paper's FPR at a TPR by class: Table 10, MNIST at 99 and 99.5 %; else empty."""
    if dataset != "mnist":
        return {}
    rows = table("table10_fpr_at_tpr_mnist")
    rows = rows[(rows["method"] == PUZZLE_AE) & (rows["tpr_percent"] == tpr_percent)]
    return dict(zip(rows["normal_class"], rows["fpr"].astype(float), strict=True))


def data_efficiency(dataset: str) -> dict[str, float]:
    """Return the paper's mean AUROC at 1/12 of the training images by method: Table 9, MNIST; else empty."""
    if dataset != "mnist":
        return {}
    rows = table("table09_data_efficiency_mnist").drop_duplicates("method")
    return dict(zip(rows["method"], rows["reported_mean_percent"].astype(float) / 100, strict=True))


def _toy(dataset: str, method: str) -> PaperValues:
    rows = table("table01_auroc_toy")
    return _values("Table 1", rows[(rows["dataset"] == dataset) & (rows["method"] == method)], "normal_class")


def _values(source: str, rows: pd.DataFrame, key: str) -> PaperValues:
    by_class = dict(zip(rows[key], rows["auroc_percent"].astype(float) / 100, strict=True))
    deviation = {}
    if "std_percent" in rows:
        printed = rows.dropna(subset=["std_percent"])
        deviation = dict(zip(printed[key], printed["std_percent"].astype(float) / 100, strict=True))
    return PaperValues(source, by_class, deviation, float(rows["reported_mean_percent"].iloc[0]) / 100)


def _only(rows: pd.DataFrame) -> float:
    return float(rows["auroc_percent"].iloc[0]) / 100
