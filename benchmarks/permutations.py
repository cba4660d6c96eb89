"""``python -m benchmarks.permutations RESULTS``: what the AUROC loses when fewer permutations score an image.

Reads the error matrices of a finished study; nothing is trained. n drawn at random many times show what any choice may
give, and the last number is of those that ``evaluate.views: n`` takes.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.trained import trained
from puzzle_study.config import Reading
from puzzle_study.detectors.scoring import AGGREGATIONS, scores, seen_by
from puzzle_study.results import Results
from puzzle_study.statistics import metrics

DRAWS = 30


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(results: Path) -> None:
    """Print AUROC by number of permutations. Example: python -m benchmarks.permutations results/cpu_mnist"""
    study = Results(results)
    for _, row in trained(study).iterrows():
        arrays = study.errors(row["trial"])
        test, validation = torch.from_numpy(arrays["test"]), torch.from_numpy(arrays["validation"])
        whole = test.shape[1]
        for aggregation in AGGREGATIONS:
            parts = []
            for count in (1, 3, 6, 12, whole):
                generator = np.random.default_rng(0)
                drawn = []
                for _ in range(1 if count == whole else DRAWS):
                    chosen = torch.from_numpy(generator.permutation(whole)[:count])
                    score_N = scores(test[:, chosen], validation[:, chosen], Reading("l2", aggregation))
                    drawn.append(100 * metrics.auroc(score_N.numpy(), arrays["labels"]))
                spread = f" ± {np.std(drawn, ddof=1):.2f}" if len(drawn) > 1 else ""
                taken = scores(seen_by(test, count), seen_by(validation, count), Reading("l2", aggregation))
                fixed = 100 * metrics.auroc(taken.numpy(), arrays["labels"])
                parts.append(f"{count}: {np.mean(drawn):.2f}{spread}, fixed {fixed:.2f}")
            click.echo(f"class {row['normal_class']} seed {row['seed']} {aggregation}: " + ", ".join(parts))


if __name__ == "__main__":
    main()
