"""Stopping along the training: real Ray workers, Ray's own rules, one for each task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from puzzle_study import config
from puzzle_study.datasets import TaskSpec
from puzzle_study.results import Results
from puzzle_study.study.ray.stopping import TaskwiseScheduler
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec
from tests.core import tiny
from tests.study.conftest import Tune

STUDY = """
data: {name: digits, normal_classes: [3], max_train_images: 60, max_test_images: 60}
model: {base_channels: 4, initialisation: he}
train: {epochs: 8, batch_size: 16, learning_rate: 3.0e-3}
evaluate: {every: 2, max_images: 30, selection: true}
references: []
seeds: [0, 1]
loggers: [tensorboard]
search:
  algorithm: grid
  stopping: {rule: asha, grace_epochs: 2, reduction: 2}
  space: {train.learning_rate: {grid: [1.0e-3, 1.0e-9, 1.0e-8, 1.0e-7]}}
"""


@pytest.mark.slow
def test_asha_stops_trials_and_the_study_says_which_and_why(tmp_path: Path, tune: Tune) -> None:
    path = tmp_path / "stopped.yaml"
    path.write_text(STUDY, encoding="utf-8")
    done = tune(path, "--results", tmp_path / "results")
    assert done.returncode == 0, done.stdout + done.stderr
    results = Results(tmp_path / "results" / "stopped")
    table = results.table(results.trials_file)
    default = table[table["train.learning_rate"] == 3e-3]
    assert set(default["status"]) == {"finished"}
    stopped = table[(table["status"] == "stopped") & table["epochs"].notna()]
    assert len(stopped) > 0
    assert stopped["error"].str.match(r"asha stopped it after epoch \d+ at selection [\d.]+ %").all()
    assert (stopped["epochs"] < 8).all()
    assert not any(results.checkpoints(trial).exists() for trial in stopped["trial"])
    epochs = results.table(results.epochs_file)
    assert epochs[epochs["epoch"] % 2 == 0]["selection_max"].notna().all()
    assert list(results.ray.rglob("events.out.tfevents.*"))
    # What was stopped stays stopped: the study is finished.
    assert "is finished" in tune(path, "--results", tmp_path / "results").stdout


@dataclass(frozen=True, eq=False)
class Trial:
    """As much of Ray's trial as a scheduler looks at."""

    trial_id: str
    config: dict[str, Any]


def trial(name: str, normal_class: str, *, stoppable: bool = True) -> Trial:
    spec = TrialSpec(tiny.settings(), TaskSpec("digits", normal_class), 0, "0" * 16)
    return Trial(name, {"specs": [spec.to_json()], "stoppable": stoppable})


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_trials_are_compared_within_their_task_only(rule: str) -> None:
    stopped: dict[str, Record] = {}
    settings = config.Stopping(rule=rule, grace_epochs=2, reduction=2)  # type: ignore[arg-type]
    scheduler = TaskwiseScheduler(settings, stopped)
    controller = SimpleNamespace(get_live_trials=list)

    def follow(one: Trial, value: float) -> str:
        scheduler.on_trial_add(controller, one)
        decision = "CONTINUE"
        for epoch in (2, 4, 6, 8):
            decision = scheduler.on_trial_result(controller, one, {"epoch": epoch, "selection": value})
            if decision == TrialScheduler.STOP:
                break
        scheduler.on_trial_complete(controller, one, {"epoch": 8})
        return decision

    for number in range(4):
        assert follow(trial(f"easy{number}", "0"), 0.95 + number / 100) == TrialScheduler.CONTINUE
    # Worse than every trial of the easy class, and the best of its own.
    assert follow(trial("hard", "1"), 0.6) == TrialScheduler.CONTINUE
    assert follow(trial("bad", "0"), 0.7) == TrialScheduler.STOP
    assert follow(trial("default", "0", stoppable=False), 0.1) == TrialScheduler.CONTINUE
    assert list(stopped) == ["bad"]
    assert stopped["bad"].stopping["selection"] == 0.7
