"""A study small enough to run for real within a test."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

from puzzle_study.config import Reading, read
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors.scoring import readings
from puzzle_study.results import Results
from puzzle_study.study import attacking, corrupting, engine
from puzzle_study.study.plan import Plan
from puzzle_study.study.stage import StageUnit
from puzzle_study.trials import run
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec

TINY = """
name: tiny
data: {name: digits, normal_classes: [3], max_test_images: 60}
model: {base_channels: 2}
train: {epochs: 2, batch_size: 32, precision: float32}
evaluate: {every: 1, max_images: 30}
references: [nearest_neighbour]
resources: {fuse: 2}
search:
  configurations: 1
  space:
    train.lambda: {log_uniform: [0.001, 0.1]}
    score.aggregation: {choice: [min, avg, max]}
attacks: {configurations: [winner], methods: [fgsm, noise], epsilons: [0.1], max_images: 10}
corruptions: {configurations: [winner, references], kinds: [shift], severities: [3], max_images: 10}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A study file of two trained configurations and one reference."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


Tune = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tune() -> Tune:
    """Run the command as a user does, in a process of its own."""
    return run_tune


def run_tune(*arguments: str | Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a study to its end, with its environment changed."""
    return subprocess.run(
        tune_command(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=tune_environment() | environment,
        check=False,
    )


def tune_command(*arguments: str | Path) -> list[str]:
    """Return the command line of a run."""
    return [sys.executable, "-m", "puzzle_study.tune", *map(str, arguments)]


def tune_environment() -> dict[str, str]:
    """Return an environment without a terminal's width, so that no line of output is wrapped."""
    return os.environ | {"COLUMNS": "200"}


def start(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Start a run that is to be disturbed, in a session of its own, with its environment changed."""
    return start_process(tune_command(*arguments), tune_environment() | environment)


def start_process(command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a command whose output is read, in a session of its own."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=dict(environment), start_new_session=True)


def wait_until(there: Callable[[], object], process: subprocess.Popen[str], *, seconds: float = 120) -> None:
    """Wait until a started run has got somewhere."""
    end = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the study did not get that far in time"
        time.sleep(0.02)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a started run with signal 9, and its trials, which would write until they notice, for up to four seconds."""
    of_ray = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    end(of_ray)
    process.communicate()


def end(processes: Sequence[psutil.Process]) -> None:
    """Kill processes with signal 9, and wait until they are gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    # Where nobody reaps orphans, they stay as zombies.
    _, left = psutil.wait_procs(processes, timeout=10)
    assert {process.status() for process in left} <= {psutil.STATUS_ZOMBIE}


def finish_here(study: Path, folder: Path) -> tuple[Results, str]:
    """Run what is left of a study in this process, and let it end itself, which then needs no Ray.

    Returns the results and what the study said.
    """
    file, said, cpu = read.load(study), StringIO(), torch.device("cpu")
    results = Results(folder / file.study.name)
    plan = engine.make_plan(file, results)
    while (spec := plan.take()) is not None:
        plan.done(spec.key, run.run(spec, results, device=cpu))
    attacks = [unit for unit in attacking.attack_units(plan) if results.attack_record(unit.key) is None]
    units: list[StageUnit] = [*attacks, *corrupting.left(plan, results)]
    for unit in units:
        unit.run(results, cpu)
    assert engine.run_study(file, folder, resume=True, console=Console(file=said, width=400)) == 0
    return results, said.getvalue()


DIGITS = tuple(TaskSpec("digits", str(digit)) for digit in range(10))


def plan_of(folder: Path, text: str, tasks: Sequence[TaskSpec] = DIGITS[3:4], *, journal: Path | None = None) -> Plan:
    """The plan of a study file with this text, whose results lie beside it."""
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    plan = Plan(read.load(path), tasks, "0" * 16, Results(folder / "results"))
    if journal is not None:
        plan.keep_search(journal)
    return plan


Values = Mapping[str, float]
HALF: Values = {"selection": 0.5, "auroc": 0.5}


def finished(spec: TrialSpec, values: Values | Callable[[Reading], Values] = HALF, **measured: Any) -> Record:
    """The record of a finished trial that has these values, by reading or under each."""
    metrics: dict[str, dict[str, Values]] = {}
    for reading in readings(spec.numbers_of_views):
        found = values(reading) if callable(values) else values
        metrics.setdefault(reading.error, {})[reading.aggregation] = found
    counted = {"epochs": spec.settings.own.epochs_wanted, "n_test": 60, "n_anomalies": 30}
    return Record(spec, "finished", measured=counted | measured, metrics=metrics)


def stopped(spec: TrialSpec, plan: Plan) -> Record:
    """The record of a trial that the plan's rule stopped."""
    assert plan.stopping is not None
    rule = plan.stopping.model_dump(mode="json")
    return Record(spec, "stopped", "asha stopped it", stopping={"rule": rule, "selection": 0.5})


def finish(plan: Plan, record: Record) -> None:
    """Let a trial that was taken end with this record, which is written."""
    plan.results.write_record(record.spec.key, record.to_json())
    plan.done(record.spec.key, record)


def carry_out(
    plan: Plan, trial: Callable[[TrialSpec], Record], *, workers: int = 1, seed: int = 0, write: bool = False
) -> int:
    """Run a plan with workers that finish in a random order; returns how many trials were run."""
    rng, running, count = random.Random(seed), list[TrialSpec](), 0
    while True:
        while len(running) < workers and (spec := plan.take()) is not None:
            running.append(spec)
        if not running:
            break
        record = trial(running.pop(rng.randrange(len(running))))
        finish(plan, record) if write else plan.done(record.spec.key, record)
        count += 1
    assert plan.ended()
    return count
