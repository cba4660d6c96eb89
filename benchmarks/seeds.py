"""``python -m benchmarks.seeds RESULTS``: whether the trainings of different classes are independent.

Compares the variance, over the seeds, of the mean over classes with what independent trainings would give.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from scipy.stats import norm

from benchmarks.trained import trained
from puzzle_study.results import Results
from puzzle_study.statistics import TAIL

PERMUTATIONS = 10_000


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--aggregation", type=click.Choice(["min", "avg", "max"]), default="max", show_default=True)
def main(results: Path, aggregation: str) -> None:
    """Print the ratio of variances. Example: python -m benchmarks.seeds results/digits_seeds"""
    trials = trained(Results(results))
    auroc_CS = trials.pivot(index="normal_class", columns="seed", values=f"auroc_{aggregation}").to_numpy()
    classes, seeds = auroc_CS.shape
    expected = auroc_CS.var(axis=1, ddof=1).mean() / classes
    found = auroc_CS.mean(0).var(ddof=1)
    generator = np.random.default_rng(0)
    drawn_R = [generator.permuted(auroc_CS, axis=1).mean(0).var(ddof=1) for _ in range(PERMUTATIONS)]
    p_value = (1 + np.sum(drawn_R >= found)) / (1 + PERMUTATIONS)
    ratio = found / expected
    covered = 1 - 2 * norm.cdf(norm.ppf(TAIL) / np.sqrt(ratio))
    click.echo(
        f"{classes} classes, {seeds} seeds: mean {100 * auroc_CS.mean():.2f} %, variance of the mean over classes "
        f"{ratio:.2f} times that of independent trainings (seeds permuted within classes: p = {p_value:.4f}); a 95 % "
        f"interval for independent ones covers {100 * covered:.0f} %"
    )


if __name__ == "__main__":
    main()
