"""``python -m benchmarks.driver 100 1000``: what the driver of a study costs for each trial.

Training is left out. By default Ray is too: a stand-in writes each record at once and calls what Ray Tune would
call, so the figures are those of the plan, the search, the time left and the screen. ``--ray`` runs trivial trials on
Ray and watches the driver's process; ``--report`` writes the tables and the report of a finished study. A trial must
not cost more at the end of a long study than at its beginning.
"""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO, TypeVar

import click
import psutil
from rich.console import Console

from puzzle_study.config import read
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.scoring import AGGREGATIONS, NORMS
from puzzle_study.io import write_json, write_text
from puzzle_study.results import Results
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import StageProgress
from puzzle_study.study.tables import write_tables
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec

Found = TypeVar("Found")
RUNNING = 8
TASKS = (TaskSpec("digits", "3"), TaskSpec("digits", "8"))
SEARCHED = """
name: driver
data: {{name: digits, normal_classes: [3, 8]}}
references: []
search:
  algorithm: {algorithm}
  configurations: {configurations}
  space: {{train.lambda: {axis}, score.aggregation: {{choice: [min, avg, max]}}}}
"""
TRIVIAL = """
name: {name}
data: {{name: digits, normal_classes: [3], max_train_images: 20, max_test_images: 20}}
model: {{base_channels: 1}}
train: {{epochs: 1, batch_size: 32, lambda: 0.0, precision: float32}}
evaluate: {{max_images: 10}}
score: {{permutations: 2}}
references: []
seeds: {seeds}
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("counts", nargs=-1, required=True, type=click.IntRange(20))
@click.option(
    "--algorithm",
    type=click.Choice(["grid", "random", "optuna"]),
    default="random",
    show_default=True,
    help="Whose plan; the cost of Optuna's TPE itself grows with its trials.",
)
@click.option("--ray", "on_ray", is_flag=True, help="Run trivial trials on Ray and watch the driver's process.")
@click.option("--report", "reported", is_flag=True, help="Write the tables and the report of finished trials.")
def main(counts: tuple[int, ...], algorithm: str, on_ray: bool, reported: bool) -> None:
    """What the driver of a study costs for each trial, at several numbers of trials."""
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            if on_ray:
                watched(Path(folder), count)
            elif reported:
                report(Path(folder), algorithm, count)
            else:
                drive(Path(folder), algorithm, count)


class StandIn:
    """Calls what Ray Tune would call for trials that write their records at once, and adds up what that costs."""

    def __init__(self, plan: Plan, screen: TextIO) -> None:
        from puzzle_study.study.ray.runner import EndsTheStudy, ProgressCallback
        from puzzle_study.study.ray.searcher import PlanSearcher

        self.plan, self.done = plan, 0
        self.seconds: dict[str, float] = defaultdict(float)
        self._searcher, self._ends = PlanSearcher(plan, plan.results, {}), EndsTheStudy(plan, plan.results)
        self._callback = ProgressCallback(plan, StageProgress("trials", plan.total, console=Console(file=screen)), None)
        self._running: deque[SimpleNamespace] = deque()

    def step(self) -> bool:
        """End a trial and start others in its place; returns whether any is left."""
        while len(self._running) < RUNNING:
            if self._searcher.is_full():
                from puzzle_study.study.ray.searcher import PlanSearcher

                self._searcher = PlanSearcher(self.plan, self.plan.results, {})
            name = f"{self.done}-{len(self._running)}"
            config = self._timed("next", self._searcher.suggest, name)
            if not isinstance(config, dict):
                break
            self._running.append(SimpleNamespace(trial_id=name, config=config))
            self._timed("start", self._callback.on_trial_start, 0, [], self._running[-1])
        if not self._running:
            return False
        trial, result = self._running.popleft(), {"epoch": 1}
        spec = TrialSpec.from_json(trial.config["spec"])
        self.plan.results.write_record(spec.key, record_of(spec).to_json())
        self._timed("report", self._callback.on_trial_result, 0, [], trial, result)
        self._timed("done", self._searcher.on_trial_complete, trial.trial_id, result)
        self._timed("screen", self._callback.on_trial_complete, 0, [], trial)
        self._timed("step", self._ends.stop_all)
        self._timed("step", self._callback.on_step_end, 0, [])
        self.done += 1
        return True

    def _timed(self, name: str, work: Callable[..., Found], *arguments: Any) -> Found:
        started = time.process_time()
        try:
            return work(*arguments)
        finally:
            self.seconds[name] += time.process_time() - started


def drive(folder: Path, algorithm: str, count: int) -> None:
    """Run a plan with a stand-in for Ray and trials; prints CPU time and memory of a trial."""
    plan, nearly = searched(folder, algorithm, count), count * 9 // 10
    plan.keep_search(plan.results.optuna_file)
    with (folder / "screen").open("w", encoding="utf-8") as screen:
        ray = StandIn(plan, screen)
        memory, until_then = resident(), 0.0
        while ray.step():
            if ray.done == nearly:
                until_then, memory = sum(ray.seconds.values()), resident() - memory
    whole, last = sum(ray.seconds.values()), ray.done - nearly
    parts = ", ".join(f"{name} {1000 * value / ray.done:.2f}" for name, value in ray.seconds.items())
    click.echo(
        f"{algorithm}, {ray.done} trials: {1000 * whole / ray.done:.2f} ms a trial ({parts}); "
        f"of the last tenth {1000 * (whole - until_then) / last:.2f} ms; {memory / nearly / 1024:.1f} KiB a trial"
    )


def searched(folder: Path, algorithm: str, count: int) -> Plan:
    """Return the plan of a search with this many trials."""
    file, results = folder / "driver.yaml", Results(folder / "results")
    configurations = count // len(TASKS) - 1
    axis = "{uniform: [0.0, 1.0]}"
    if algorithm == "grid":
        axis = "{grid: [" + ", ".join(f"{(number + 1) / configurations:.6f}" for number in range(configurations)) + "]}"
    wanted = "null" if algorithm == "grid" else configurations
    file.write_text(SEARCHED.format(algorithm=algorithm, configurations=wanted, axis=axis), encoding="utf-8")
    results.root.mkdir(parents=True)
    return Plan(read.load(file), TASKS, "0" * 16, results)


def resident() -> int:
    """Return the memory of this process in bytes."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def report(folder: Path, algorithm: str, count: int) -> None:
    """Write the tables and the report of a study whose trials are all finished; prints seconds and megabytes."""
    from puzzle_study.reporting import build_report

    plan = searched(folder, algorithm, count)
    started = time.process_time()
    while (spec := plan.take()) is not None:
        record = record_of(spec)
        plan.results.write_record(spec.key, record.to_json())
        plan.done(spec.key, record)
    planned = time.process_time()
    write_tables(plan, plan.results)
    tables = time.process_time()
    write_text(plan.results.study_file, read.dump(plan.study))
    write_json(plan.results.environment_file, {})
    page = build_report(plan.results)
    ended = time.process_time()
    size = sum(path.stat().st_size for path in page.parent.rglob("*") if path.is_file()) / 1e6
    click.echo(
        f"{algorithm}, {plan.finished()} trials: plan {planned - started:.1f} s, tables {tables - planned:.1f} s, "
        f"report {ended - tables:.1f} s of CPU time; page {page.stat().st_size / 1e6:.2f} MB, folder {size:.2f} MB"
    )


def watched(folder: Path, count: int) -> None:
    """Run trivial trials on Ray; prints the driver's CPU time and memory of a trial, early and late in the study."""
    file, results = folder / "driver.yaml", Results(folder / "driver")
    file.write_text(TRIVIAL.format(name="driver", seeds=list(range(count))), encoding="utf-8")
    command = [sys.executable, "-m", "puzzle_study.tune", str(file), "--results", str(folder), "--quiet"]
    study = psutil.Popen(command, env=os.environ | {"COLUMNS": "200"}, stdout=subprocess.DEVNULL)
    records, marks = results.root / "records", [count // 10, count // 2, count * 9 // 10]
    seen: list[tuple[int, float, int]] = []
    while study.poll() is None:
        done = sum(1 for _ in records.glob("[!.]*.json")) if records.exists() else 0
        if len(seen) < len(marks) and done >= marks[len(seen)]:
            used = study.cpu_times()
            seen.append((done, used.user + used.system, study.memory_info().rss))
        time.sleep(0.2)
    size = sum(path.stat().st_size for path in results.ray.rglob("*") if path.is_file()) / 1e6
    for (done, used, memory), (later, more, higher) in itertools.pairwise(seen):
        between = later - done
        click.echo(
            f"Ray, trials {done} to {later}: {1000 * (more - used) / between:.1f} ms of the driver's CPU and "
            f"{(higher - memory) / between / 1024:.1f} KiB a trial"
        )
    click.echo(f"Ray, {count} trials: exit code {study.returncode}, {size:.2f} MB left in ray/")


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
    measured |= {"train_seconds": 1.0, "score_seconds": 1.0, "seconds": 2.0, "images_seen": 100}
    return Record(spec, "finished", "", 1.0, measured, dict.fromkeys(NORMS, reading), history)


if __name__ == "__main__":
    main()
