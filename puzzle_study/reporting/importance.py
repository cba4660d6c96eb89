"""Importance of searched settings: permutation importance of a random forest, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from puzzle_study.statistics.intervals import TAIL, Estimate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

FEWEST = 8
RESAMPLES, TREES, SHUFFLES = 30, 25, 5
METHOD = "bootstrap over configurations, percentile, 95 %"


@dataclass(frozen=True)
class Importances:
    """The importance of each axis, and how well the forest predicts unseen configurations.

    An importance is the share of the variance between configurations that the forest loses if the axis is shuffled.
    ``r2`` at or below 0 means that the forest predicts nothing, so the importances mean nothing either.
    """

    axes: dict[str, Estimate]
    r2: Estimate
    n: int


def importances(settings: pd.DataFrame, values: ArrayLike, *, seed: int = 0) -> Importances:
    """Return the importance of each axis for the mean AUROC of a configuration.

    In each resample configurations are drawn with replacement, a forest is fitted on them, and one axis at a time is
    shuffled among the configurations that were not drawn. The importance is the increase of the squared error there,
    over the variance of all values; 1 would be all of the variance. Correlated axes share theirs.

    Args:
        settings: a row per configuration, a column per axis; words, numbers or missing (axis not used).
        values: the mean AUROC of each configuration.
        seed: seed of the resampling and of the forests.

    Raises:
        ValueError: there are fewer configurations than ``FEWEST``, or no axis.
    """
    from sklearn.ensemble import RandomForestRegressor

    value_N = np.asarray(values, dtype=np.float64)
    if len(value_N) < FEWEST or not len(settings.columns):
        raise ValueError(f"importances need {FEWEST} configurations and an axis, got {len(value_N)}")
    input_ND = encoded(settings)
    variance = float(value_N.var())
    generator = np.random.default_rng(seed)
    lost, explained = [], []
    for resample in range(RESAMPLES):
        drawn = generator.integers(len(value_N), size=len(value_N))
        left = np.setdiff1d(np.arange(len(value_N)), drawn)
        if len(left) < 2 or variance == 0:
            continue
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=seed + resample, n_jobs=1)
        forest.fit(input_ND[drawn], value_N[drawn])
        stacked = _shuffled(input_ND[left], generator)
        # One call for all shuffles, because a call of a forest costs far more than its rows.
        error = (forest.predict(stacked).reshape(-1, len(left)) - value_N[left]) ** 2
        plain, shuffled = error[0].mean(), error[1:].reshape(input_ND.shape[1], -1).mean(1)
        lost.append((shuffled - plain) / variance)
        explained.append(1 - plain / variance)
    if not lost:
        lost, explained = [np.full(input_ND.shape[1], np.nan)], [np.nan]
    axes = zip(map(str, settings.columns), _with_ends(lost), strict=True)
    return Importances({name: Estimate(*own) for name, own in axes}, Estimate(*_with_ends(explained)), len(value_N))


def _with_ends(drawn: Sequence[Any]) -> Any:
    """Return mean and ends of the interval over the resamples, of each axis if there are several."""
    return np.stack([np.mean(drawn, axis=0), *np.quantile(drawn, [TAIL, 1 - TAIL], axis=0)], axis=-1).tolist()


def encoded(settings: pd.DataFrame) -> NDArray[np.float64]:
    """Return settings as numbers: words by alphabetical order, missing values below everything else."""
    columns = []
    for name in settings.columns:
        column = settings[name]
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            codes = column.map(str, na_action="ignore").astype("category").cat.codes
            column = codes.where(codes >= 0)
        number = column.to_numpy(dtype=np.float64)
        known = number[~np.isnan(number)]
        below = known.min() - (np.ptp(known) or 1.0) if len(known) else 0.0
        columns.append(np.where(np.isnan(number), below, number))
    return np.stack(columns, axis=1)


def _shuffled(input_ND: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return the rows unchanged, then for each axis ``SHUFFLES`` copies with that axis shuffled."""
    copies = [input_ND]
    for axis in range(input_ND.shape[1]):
        for _ in range(SHUFFLES):
            copy = input_ND.copy()
            copy[:, axis] = generator.permutation(copy[:, axis])
            copies.append(copy)
    return np.concatenate(copies)
