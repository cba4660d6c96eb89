"""``python -m benchmarks.overhead study|driver``: what a study costs beside its trials.

``study`` runs trivial trials on Ray and the same trials in a plain loop: seconds a trial of both, and how long it takes
until the first trial runs. ``driver`` leaves Ray and training out: a stand-in writes each record at once, and what the
driver does for a trial is timed at several numbers of trials. It must not grow with their number.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import click
import torch

from puzzle_study.config import read
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors.devices import claim_cpus
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.scoring import AGGREGATIONS, NORMS
from puzzle_study.results import Results
from puzzle_study.study import attacking
from puzzle_study.study.engine import make_plan
from puzzle_study.study.plan import Plan
from puzzle_study.study.tables import write_tables
from puzzle_study.trials import run
from puzzle_study.trials.record import Record, read_record
from puzzle_study.trials.spec import TrialSpec

Found = TypeVar("Found")
TRIVIAL = """
name: overhead
data: {{name: digits, normal_classes: [3], max_train_images: 20, max_test_images: 20}}
model: {{base_channels: 1}}
train: {{epochs: 1, batch_size: 32, lambda: 0.0, precision: float32}}
evaluate: {{max_images: 10}}
score: {{permutations: 2}}
references: []
seeds: {seeds}
max_concurrent: 1
"""
SEARCHED = """
name: overhead
data: {{name: digits, normal_classes: [3, 8]}}
references: []
search:
  algorithm: {algorithm}
  configurations: {configurations}
  space: {{train.lambda: {axis}, score.aggregation: {{choice: [min, avg, max]}}}}
attacks: {{configurations: [winner], methods: [fgsm]}}
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure what a study costs beside its trials."""


@main.command()
@click.option("--trials", default=64, show_default=True, help="How many trials.")
@click.option("--loop/--no-loop", default=True, show_default=True, help="Whether the plain loop is measured too.")
def study(trials: int, loop: bool) -> None:
    """Trivial trials one after the other: on Ray, and in a plain loop of this process."""
    with tempfile.TemporaryDirectory() as folder:
        file, results = Path(folder) / "overhead.yaml", Results(Path(folder) / "study" / "overhead")
        file.write_text(TRIVIAL.format(seeds=list(range(trials))), encoding="utf-8")
        plan = make_plan(read.load(file), Results(Path(folder) / "loop"))
        started = time.time()
        command = [sys.executable, "-m", "puzzle_study.tune", str(file), "--results", str(results.root.parent)]
        subprocess.run(
            [*command, "--quiet"], check=True, env=os.environ | {"COLUMNS": "200"}, stdout=subprocess.DEVNULL
        )
        ended = time.time()
        begun = min(first_line_at(path) for path in results.logs.glob("*.log"))
        written = sorted(path.stat().st_mtime for path in results.root.glob("records/*.json"))
        assert len(written) == trials
        # The first trial imports PyTorch in its worker; what every further one costs is the question.
        on_ray = (written[-1] - written[0]) / max(1, trials - 1)
        click.echo(f"{trials} trials on Ray, one at a time: {on_ray:.3f} s a trial after the first")
        click.echo(f"start to first trial running {begun - started:.1f} s, its end after {written[0] - started:.1f} s")
        click.echo(f"last trial to end of the command (tables, report) {ended - written[-1]:.1f} s")
        if loop:
            alone = in_a_loop(plan)
            click.echo(f"the same in a loop of one process: {alone:.3f} s a trial after the first")
            click.echo(f"overhead of the study: {on_ray - alone:.3f} s a trial")


def first_line_at(log: Path) -> float:
    """Return when the first line of a log was written."""
    stamp = log.read_text(encoding="utf-8").split(" INFO")[0]
    return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def in_a_loop(plan: Plan) -> float:
    """Run a plan's trials one after the other; returns seconds a trial, the first left out."""
    claim_cpus(1)
    ends = []
    while (spec := plan.take()) is not None:
        plan.done(spec.key, run.run(spec, plan.results, device=torch.device("cpu")))
        ends.append(time.perf_counter())
    return (ends[-1] - ends[0]) / max(1, len(ends) - 1)


@main.command()
@click.option("--trials", multiple=True, type=int, default=(50, 500, 2000), show_default=True, help="How many trials.")
@click.option(
    "--algorithm",
    "algorithms",
    multiple=True,
    type=click.Choice(["grid", "random", "optuna"]),
    default=("grid", "random"),
    show_default=True,
    help="Whose plan; the cost of Optuna's TPE itself grows with its trials.",
)
def driver(trials: tuple[int, ...], algorithms: tuple[str, ...]) -> None:
    """What the driver does for a trial, in milliseconds of CPU time, at several numbers of trials."""
    for algorithm in algorithms:
        for count in trials:
            with tempfile.TemporaryDirectory() as folder:
                seconds = drive(Path(folder), algorithm, count)
            shown = ", ".join(f"{name} {1000 * value / count:.2f}" for name, value in seconds.items())
            total = 1000 * sum(seconds.values()) / count
            click.echo(f"{algorithm}, {count} trials: {total:.2f} ms a trial ({shown})")


def drive(folder: Path, algorithm: str, count: int) -> dict[str, float]:
    """Run a plan to its end with a stand-in for trials; returns the CPU seconds of each part of the driver's work."""
    file, results = folder / "overhead.yaml", Results(folder / "results")
    configurations = count // 2 - 1
    axis = "{uniform: [0.0, 1.0]}"
    if algorithm == "grid":
        axis = "{grid: [" + ", ".join(f"{(number + 1) / configurations:.6f}" for number in range(configurations)) + "]}"
    text = SEARCHED.format(
        algorithm=algorithm, configurations="null" if algorithm == "grid" else configurations, axis=axis
    )
    file.write_text(text, encoding="utf-8")
    loaded, tasks = read.load(file), [TaskSpec("digits", "3"), TaskSpec("digits", "8")]
    seconds: dict[str, float] = defaultdict(float)

    def timed(name: str, work: Callable[[], Found]) -> Found:
        started = time.process_time()
        try:
            return work()
        finally:
            seconds[name] += time.process_time() - started

    results.root.mkdir(parents=True)
    plan = timed("plan", lambda: Plan(loaded, tasks, "0" * 16, results))
    timed("plan", lambda: plan.keep_search(results.optuna_file))
    while (spec := timed("next", plan.take)) is not None:
        results.write_record(spec.key, record_of(spec).to_json())
        record = timed("read", lambda key=spec.key: read_record(results, key))  # type: ignore[misc]
        assert record is not None
        timed("done", lambda key=spec.key, record=record: plan.done(key, record))  # type: ignore[misc]
        timed("screen", lambda: (plan.winner(), plan.finished(), plan.total))
    timed("tables", lambda: write_tables(plan, results))
    timed("attacks", lambda: attacking.attack_units(plan))
    timed("go on", lambda: Plan(loaded, tasks, "0" * 16, results).next())
    assert plan.finished() == len(plan.configurations) * len(tasks)
    return dict(seconds)


def record_of(spec: TrialSpec) -> Record:
    """Return a record of a finished trial of one epoch, with everything that tables are made of."""
    assert isinstance(spec.settings.own, PuzzleSettings)
    worth = 1 - abs(spec.settings.own.train.lambda_ - 0.3)
    values = dict.fromkeys(
        ("auroc", "auroc_low", "auroc_high", "average_precision", "fpr_at_tpr95", "fpr_at_tpr99", "fpr_at_tpr995"),
        worth,
    )
    reading = dict.fromkeys(AGGREGATIONS, values | {"inverted": False, "selection": worth})
    history: dict[str, list[float | None]] = {name: [0.1] for name in ("loss_rec", "loss_adv", "loss_d", "lr")}
    history |= {f"auroc_{name}_{error}": [worth] for name in AGGREGATIONS for error in NORMS}
    history["epoch"] = [1]
    measured = {"epochs": 1, "val_error": 0.1, "n_test": 100, "n_anomalies": 90}
    return Record(spec, "finished", "", 1.0, measured, dict.fromkeys(NORMS, reading), history)


if __name__ == "__main__":
    main()
