"""Values of trials, indexed by task and seed, and the order of classes."""

from __future__ import annotations

from collections.abc import Hashable

import pandas as pd

from puzzle_study.statistics import intervals
from puzzle_study.statistics.intervals import Mean

TASK = ["dataset", "normal_class", "repeat"]
TRIAL_KEY = [*TASK, "seed"]


def mean_auroc(attacked: pd.DataFrame) -> Mean:
    """Return the mean of rows of an attack table, one per trial, with its interval."""
    values, low, high = (attacked[name].to_numpy() for name in ("auroc", "auroc_low", "auroc_high"))
    return intervals.auroc_interval(values, low, high, list(attacked[TASK].itertuples(index=False, name=None)))


def auroc_mean(values: pd.Series[float], low: pd.Series[float], high: pd.Series[float]) -> Mean:
    """Return the mean over classes and seeds of AUROCs with the ends of their intervals, all indexed alike."""
    return intervals.auroc_interval(values.to_numpy(), low.to_numpy(), high.to_numpy(), tasks_of(values))


def tasks_of(values: pd.Series[float]) -> list[Hashable]:
    """Return the stratum of each value in an index by task and seed: the task without its seed."""
    return [tuple(key[:-1]) for key in values.index]


def of_class(values: pd.Series[float], normal_class: str) -> pd.Series[float]:
    """Return the values of one normal class of an index by task and seed."""
    return values[values.index.get_level_values("normal_class") == normal_class]


def natural(name: str) -> tuple[int, int, str]:
    """Return a sorting key under which ``2`` comes before ``10`` and numbers before names."""
    text = str(name)
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)
