"""``python -m benchmarks.seeds RESULTS``: whether the trainings of different classes are independent.

Compares the variance, over the seeds, of the mean over classes with what independent trainings would give.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from benchmarks.trained import trained
from puzzle_study.detectors.scoring import AGGREGATIONS
from puzzle_study.results import Results
from puzzle_study.statistics.intervals import TAIL

PERMUTATIONS = 10_000


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(results: Path) -> None:
    """Print ratios of variances. Example: python -m benchmarks.seeds results/digits_seeds"""
    trials = trained(Results(results))
    for aggregation in AGGREGATIONS:
        auroc_CS = trials.pivot(index="normal_class", columns="seed", values=f"auroc_{aggregation}").to_numpy()
        ratio, p_value = compared(auroc_CS)
        covered = 1 - 2 * norm.cdf(norm.ppf(TAIL) / np.sqrt(ratio))
        centred_CS = auroc_CS - auroc_CS.mean(1, keepdims=True)
        equal, equal_p = compared(centred_CS / centred_CS.std(1, ddof=1, keepdims=True))
        click.echo(
            f"{aggregation}, {' classes × '.join(map(str, auroc_CS.shape))} seeds, mean {100 * auroc_CS.mean():.1f} %: "
            f"the variance of the mean over classes is {ratio:.2f} times that of independent trainings "
            f"(p = {p_value:.3f}; a 95 % interval would cover {100 * covered:.0f} %), and {equal:.2f} times (p = "
            f"{equal_p:.3f}) with each class scaled to one spread"
        )


def compared(value_CS: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ratio of variances and its p-value, by permuting the seeds within each class."""
    expected = value_CS.var(axis=1, ddof=1).mean() / len(value_CS)
    generator = np.random.default_rng(0)
    found = value_CS.mean(0).var(ddof=1)
    drawn_R = [generator.permuted(value_CS, axis=1).mean(0).var(ddof=1) for _ in range(PERMUTATIONS)]
    return float(found / expected), float((1 + np.sum(drawn_R >= found)) / (1 + PERMUTATIONS))


if __name__ == "__main__":
    main()
