"""Statistics over trials: means with intervals, paired differences, and tests.

A *stratum* is a task without its seed (a data set, a normal class, a repeat). Trials differ between strata because the
tasks do, and within a stratum only by the seed. All intervals are 95 %.

Trainings are taken as independent given their tasks, because each has its own seed (``TrialSpec.training_seed``).
Images are not: all seeds of a task share them, and often all classes do. Intervals over seeds keep the images fixed;
:mod:`puzzle_study.statistics.delong` covers images.

Everywhere ``values``, ``first`` and ``second`` have one number per trial [n], ``strata`` has each trial's stratum [n],
``seed`` is the seed of the resampling, and ``resamples`` the number of resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

TAIL = 0.025
LEVEL = 0.05
WITHIN = "stratified bootstrap over seeds within class (n − 1 of n drawn, widened for few trials), 95 %"
POOLED = (
    "stratified bootstrap over seeds within class (n − 1 of n drawn, widened for few trials; classes with one seed by "
    "the scatter within the others), 95 %"
)
BETWEEN = "bootstrap over classes with one seed each (n − 1 of n drawn, widened for few trials), 95 %"
NO_INTERVAL = "none if there are too few trials"
IMAGES = "bootstrap over test images, its ends averaged over trials, 95 % (too few trials for one over seeds)"
FREEDOM = 2
NO_SPREAD = "none if the seeds change nothing"


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; the ends are NaN if it has none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Mean(Estimate):
    """A mean over strata and seeds; ``method`` says how its interval was made, or why it has none."""

    standard_error: float
    n: int
    strata: int
    method: str


@dataclass(frozen=True)
class Difference:
    """A paired comparison of A with B on the same tasks and seeds; positive: A is higher.

    ``pairs``, ``wins`` and ``ties`` count trials. ``p_value`` is from Wilcoxon's two-sided signed-rank test over the
    ``mean.strata`` mean differences of the strata, not yet corrected (see :func:`holm`).
    """

    mean: Mean
    p_value: float
    pairs: int
    wins: int
    ties: int


def mean_interval(
    values: ArrayLike,
    strata: Sequence[Hashable],
    *,
    seed: int = 0,
    resamples: int = 2000,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Mean:
    """Return the mean over strata of the mean within each, with a bootstrap interval.

    If a stratum has several seeds, the seeds are resampled within their stratum: the interval describes
    repeating the training on *these* classes and test images. With one seed per class the classes are resampled
    instead: the interval then describes drawing other classes of this kind, and is wider. Both take the values as
    independent given their strata. If a seed were lucky for all classes at once, they would cover less.

    From n trials n − 1 are drawn: drawing n would understate the variance of the mean by (n − 1)/n, a third with
    three seeds (Rao and Wu, 1988). The quantiles' distances from the mean are then multiplied by the ratio of
    Student's quantile to the normal one, because few trials also estimate their variance badly. Together this
    covers 92 to 95 % of normal trials, 89 to 91 % with two seeds each of two or three classes; percentiles alone
    cover 50 % for two classes. There is no interval with fewer than two degrees of freedom, or if all seeds give the
    same number.

    If trials are missing, a stratum with one seed beside others with several would add no variance. So it is drawn with
    the deviations of the others, as if its seeds scattered as much: this covers 91 to 95 % if they do, 87 to
    93 % if standard deviations differ by a factor of 1.6 (lognormal, σ = 0.5), less if they differ more. Two
    strata of very unequal size are covered less well, [10, 2] seeds 84 %.

    The interval is cut at ``bounds``, which the mean cannot leave.

    Raises:
        ValueError: there are no values, one is NaN, or the lengths differ.
    """
    from scipy.stats import norm, t

    value_N = np.asarray(values, dtype=np.float64)
    if value_N.ndim != 1 or len(value_N) != len(strata) or not len(value_N):
        raise ValueError(f"values and strata must be two vectors of one length, got {value_N.shape}, {len(strata)}")
    if np.isnan(value_N).any():
        raise ValueError("values hold NaN")
    groups = [value_N[np.array(indices)] for indices in _by_stratum(strata).values()]
    means = np.array([group.mean() for group in groups])
    value, n = float(means.mean()), len(value_N)
    if n > len(groups) and not any(np.ptp(group) for group in groups):
        return Mean(value, np.nan, np.nan, np.nan, n, len(groups), NO_SPREAD)
    error, freedom = _error_of_mean(groups, means)
    if freedom < FREEDOM:
        return Mean(value, np.nan, np.nan, error, n, len(groups), NO_INTERVAL)
    generator = np.random.default_rng(seed)
    if n > len(groups):
        drawn_R = np.mean(_drawn_within(groups, resamples, generator), axis=0)
        method = POOLED if any(len(group) == 1 for group in groups) else WITHIN
    else:
        drawn_R, method = _drawn_means(means, resamples, generator), BETWEEN
    low, high = np.quantile(drawn_R, [TAIL, 1 - TAIL])
    widening = float(t.ppf(1 - TAIL, freedom) / norm.ppf(1 - TAIL))
    ends = np.clip([value - (value - low) * widening, value + (high - value) * widening], *bounds)
    return Mean(value, float(ends[0]), float(ends[1]), error, n, len(groups), method)


def _error_of_mean(groups: Sequence[NDArray[np.float64]], means: NDArray[np.float64]) -> tuple[float, int]:
    """Return the standard error of the mean over strata, NaN for a single value, and its degrees of freedom."""
    n = sum(map(len, groups))
    if n == len(groups):
        return float(means.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan, n - 1
    freedom = n - len(groups)
    pooled = sum(((group - group.mean()) ** 2).sum() for group in groups) / freedom
    variances = [group.var(ddof=1) / len(group) if len(group) > 1 else pooled for group in groups]
    return float(np.sqrt(np.sum(variances)) / len(groups)), freedom


def auroc_interval(values: ArrayLike, lows: ArrayLike, highs: ArrayLike, strata: Sequence[Hashable]) -> Mean:
    """Return the mean AUROC of trials with :func:`mean_interval`, or with an interval over test images for few trials.

    Each trial has an interval over its test images, with ends ``lows`` and ``highs`` [n]. Their distances from the
    values are averaged like the values. That is right if the trials share their images and err alike on them, as
    a class's seeds do. If they do not, for example classes with their own images, the interval is too wide, because
    differing errors partly cancel.
    """
    mean = mean_interval(values, strata, bounds=(0, 1))
    value_N, low_N, high_N = (np.asarray(one, dtype=np.float64) for one in (values, lows, highs))
    if mean.method != NO_INTERVAL or not len(value_N) == len(low_N) == len(high_N):
        return mean
    groups = _by_stratum(strata).values()
    below, above = (
        float(np.mean([distance_N[group].mean() for group in groups]))
        for distance_N in (value_N - low_N, high_N - value_N)
    )
    if np.isnan([below, above]).any():
        return mean
    low, high = max(0.0, mean.value - below), min(1.0, mean.value + above)
    return replace(mean, low=low, high=high, method=IMAGES)


def paired_difference(
    first: ArrayLike, second: ArrayLike, strata: Sequence[Hashable], *, seed: int = 0, resamples: int = 2000
) -> Difference:
    """Compare two configurations trial by trial, each pair with the same task and seed.

    Trials of one stratum are alike, so the test's units are the strata, each with its mean difference. With
    trials as units, p < 0.05 occurred in 22 % of comparisons without a difference in ten strata of three seeds, and in
    45 % in three of five (standard deviation of strata 1, of seeds 0.3). A few strata can show little: a single one has
    p = 1 whatever its seeds (see :func:`smallest_p`). If strata have several seeds, the interval answers another
    question, about repeating the training on *these* strata, and may exclude zero although p is large.
    """
    from scipy.stats import wilcoxon

    difference_N = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    mean = mean_interval(difference_N, strata, seed=seed, resamples=resamples)
    means = np.array([difference_N[group].mean() for group in _by_stratum(strata).values()])
    differing = means[means != 0]
    # Tied strata are dropped (Wilcoxon's own rule); if all tie, there is no evidence of a difference.
    p_value = float(wilcoxon(differing).pvalue) if len(differing) else 1.0
    wins = int((difference_N > 0).sum())
    return Difference(mean, p_value, len(difference_N), wins, int((difference_N == 0).sum()))


def smallest_p(strata: int) -> float:
    """Return the smallest two-sided p-value that Wilcoxon's test can give with this many strata, 2 / 2^strata."""
    return min(1.0, 2.0 ** (1 - strata))


def p_note(differences: Sequence[Difference]) -> str:
    """Return sentences for a table's note on what its p-values, corrected by :func:`holm`, can show."""
    strata = max(difference.mean.strata for difference in differences)
    note = (
        "p: Wilcoxon's signed-rank test on the mean differences of the tasks, two-sided; Holm-corrected for "
        f"{len(differences)} comparisons."
    )
    if smallest_p(strata) * len(differences) > LEVEL:
        note += (
            f" With {strata} {'task' if strata == 1 else 'tasks'} the smallest p-value that this test can give is "
            f"{smallest_p(strata):.2g}: nothing here can be significant at 5 %."
        )
    return note


def method_note(means: Iterable[Mean | None]) -> str:
    """Return the sentence for a table's note on how the intervals of its means were made."""
    methods = {mean.method for mean in means if mean}
    found = sorted(methods, key=lambda method: (method in (NO_INTERVAL, NO_SPREAD), method))
    return f"Interval: {'; '.join(found)}." if found else "No interval."


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method, in the order given."""
    order = np.argsort(p_values, kind="stable")
    raised = np.arange(len(order), 0, -1) * np.asarray(p_values, dtype=np.float64)[order]
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(raised))
    return [float(value) for value in corrected]


def probability_of_improvement(
    first: ArrayLike, second: ArrayLike, strata: Sequence[Hashable], *, seed: int = 0, resamples: int = 2000
) -> Mean:
    """Return the probability that a trial of A beats a trial of B on a random task; ties count ½.

    Within each stratum every seed of A meets every seed of B (Agarwal et al., 2021); the strata are averaged.
    The interval resamples seeds within strata, n of n, or the strata if each has one seed. If only some have one,
    there is no interval: a single pair of trials says nothing about its variation.
    """
    a_N, b_N = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    indices = [np.array(group) for group in _by_stratum(strata).values()]
    generator = np.random.default_rng(seed)
    wins = np.array([_wins(a_N[group][None], b_N[group][None])[0] for group in indices])
    value, n = float(wins.mean()), len(a_N)
    freedom = n - len(indices) if n > len(indices) else n - 1
    mixed = n > len(indices) and any(len(group) == 1 for group in indices)
    if mixed or freedom < FREEDOM:
        return Mean(value, np.nan, np.nan, np.nan, n, len(indices), NO_INTERVAL)
    if n == len(indices):
        drawn_R = wins[generator.integers(n, size=(resamples, n))].mean(1)
        method = "bootstrap over classes with one seed each, percentile, 95 %"
    else:
        drawn_RS = []
        for group in indices:
            pick_a, pick_b = generator.integers(len(group), size=(2, resamples, len(group)))
            drawn_RS.append(_wins(a_N[group][pick_a], b_N[group][pick_b]))
        drawn_R = np.mean(drawn_RS, axis=0)
        method = "stratified bootstrap over seeds within class, percentile, 95 %"
    low, high = np.quantile(drawn_R, [TAIL, 1 - TAIL])
    return Mean(value, float(low), float(high), float(drawn_R.std(ddof=1)), n, len(indices), method)


def one_standard_error(means: Sequence[float], standard_errors: Sequence[float], costs: Sequence[float]) -> int:
    """Return the index of the cheapest configuration whose mean is within one standard error of the best mean.

    The standard error is that of the best configuration (Breiman et al., 1984); if it is NaN (one trial) only
    the best itself qualifies. Equal costs are decided by the higher mean.
    """
    mean_N = np.asarray(means, dtype=np.float64)
    best = int(np.nanargmax(mean_N))
    margin = float(np.nan_to_num(standard_errors[best]))
    allowed = [index for index, mean in enumerate(mean_N) if mean >= mean_N[best] - margin]
    return min(allowed, key=lambda index: (costs[index], -mean_N[index]))


@dataclass(frozen=True)
class RankStability:
    """How far two seeds of one configuration agree on the order of one task's images.

    ``overlap`` is the share of the most anomalous tenth that two seeds share (chance: 0.1).
    """

    spearman: float
    spearman_low: float
    overlap: float
    seeds: int
    images: int


def rank_stability(score_SN: ArrayLike) -> RankStability:
    """Compare the order of the same N images over all pairs of S ≥ 2 seeds, from their scores.

    Mean and lowest Spearman correlation and mean overlap are over the S(S − 1)/2 pairs. They have no interval: the
    pairs share seeds.
    """
    from scipy.stats import rankdata

    scores = np.asarray(score_SN, dtype=np.float64)
    seeds, images = scores.shape
    if seeds < 2:
        raise ValueError("rank stability needs at least two seeds")
    correlation_SS = np.atleast_2d(np.corrcoef(rankdata(scores, axis=1)))
    pairs = np.triu_indices(seeds, 1)
    top = max(1, images // 10)
    sets = [set(np.argsort(-row, kind="stable")[:top].tolist()) for row in scores]
    overlap = np.mean([len(sets[a] & sets[b]) / top for a, b in zip(*pairs, strict=True)])
    values = correlation_SS[pairs]
    return RankStability(float(values.mean()), float(values.min()), float(overlap), seeds, images)


def variance_shares(values: ArrayLike, factors: Mapping[str, Sequence[Hashable]]) -> dict[str, float]:
    """Return each factor's share of the variance, and the rest.

    Each share is the variance of the factor's group means, after subtracting those of the factors before it, over the
    total variance. With a balanced design (each setting on the same classes and seeds) that is η², in any order, for a
    factor that is crossed with the others; for a nested one (seeds within classes, after the classes) it is what the
    factor adds. ``"rest"`` is interactions and noise. ``factors`` has each trial's level [n] by name.
    """
    value_N = np.asarray(values, dtype=np.float64)
    rest_N = value_N - value_N.mean()
    total = float((rest_N**2).sum())
    if total == 0:
        return dict.fromkeys([*factors, "rest"], np.nan)
    shares, before = {}, total
    for name, levels in factors.items():
        for group in _by_stratum(levels).values():
            rest_N[group] -= rest_N[group].mean()
        after = float((rest_N**2).sum())
        shares[name], before = (before - after) / total, after
    shares["rest"] = before / total
    return shares


def _by_stratum(strata: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """Return the positions of each stratum, in order of appearance."""
    positions: dict[Hashable, list[int]] = {}
    for index, stratum in enumerate(strata):
        positions.setdefault(stratum, []).append(index)
    return positions


def _drawn_means(group: NDArray[np.float64], resamples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return the mean of n − 1 of the n trials drawn with replacement, ``resamples`` times."""
    drawn = generator.integers(len(group), size=(resamples, max(1, len(group) - 1)))
    return np.asarray(group[drawn].mean(1))


def _drawn_within(
    groups: Sequence[NDArray[np.float64]], resamples: int, generator: np.random.Generator
) -> list[NDArray[np.float64]]:
    """Return ``resamples`` drawn means of each group, if some groups have several trials."""
    # A deviation from a mean of n trials has (n − 1)/n of a trial's variance.
    deviations = np.concatenate(
        [(group - group.mean()) * np.sqrt(len(group) / (len(group) - 1)) for group in groups if len(group) > 1]
    )
    return [
        _drawn_means(group, resamples, generator)
        if len(group) > 1
        else group + deviations[generator.integers(len(deviations), size=resamples)]
        for group in groups
    ]


def _wins(a_RN: NDArray[np.float64], b_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of pairs in which A is higher, ties ½, for each row."""
    difference = a_RN[:, :, None] - b_RN[:, None, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean((1, 2)))
