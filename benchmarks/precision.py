"""``python -m benchmarks.precision RESULTS``: what scoring in bfloat16 instead of float32 does to the AUROC.

Loads the detectors of a finished study and scores its validation and test images in both; nothing is trained.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import click

from benchmarks.trained import trained
from puzzle_study import datasets
from puzzle_study.config import Reading, read
from puzzle_study.detectors.devices import Precision, default_device
from puzzle_study.detectors.files import load_detector
from puzzle_study.detectors.scoring import AGGREGATIONS, scores
from puzzle_study.results import Results
from puzzle_study.statistics import metrics

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
WANTED = 0.1


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(results: Path) -> None:
    """Print the AUROC in float32 and in bfloat16. Example: python -m benchmarks.precision results/cpu_mnist"""
    place = Results(results)
    study = read.load_dumped(place.study_file)
    trials, device, apart = trained(place), default_device(), []
    for spec in datasets.task_specs(study.data):
        task = datasets.load_task(study.data, spec)
        of_task = trials[trials["normal_class"] == spec.normal_class]
        if "repeat" in of_task:
            of_task = of_task[of_task["repeat"] == spec.repeat]
        for _, row in of_task.iterrows():
            detector = load_detector(place.detector(row["trial"]), device=device)
            errors = {}
            for precision in PRECISIONS:
                detector.precision = precision
                errors[precision] = detector.error_matrix(task.test), detector.error_matrix(task.validation)
            parts = []
            for aggregation in AGGREGATIONS:
                full, half = (
                    100 * metrics.auroc(scores(*errors[p], Reading("l2", aggregation)).numpy(), task.labels.numpy())
                    for p in PRECISIONS
                )
                apart.append(abs(half - full))
                parts.append(f"{aggregation} {full:.3f} and {half:.3f} ({half - full:+.3f})")
            click.echo(f"class {spec.normal_class} seed {row['seed']} {row['configuration']}: {', '.join(parts)}")
    within = sum(points <= WANTED for points in apart)
    click.echo(
        f"apart by {fmean(apart):.3f} points of AUROC on average and {max(apart):.3f} at most; "
        f"{within} of {len(apart)} by no more than {WANTED}"
    )


if __name__ == "__main__":
    main()
