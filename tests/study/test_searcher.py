"""What Ray Tune is handed, and what counts as the end of a trial. Ray is not started."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from puzzle_study.config import read
from puzzle_study.datasets import TaskSpec
from puzzle_study.io import write_json
from puzzle_study.results import Results
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import StageProgress
from puzzle_study.study.ray.runner import ENDED, ProgressCallback
from puzzle_study.study.ray.searcher import PlanSearcher
from puzzle_study.trials.spec import TrialSpec, describe, failed_record


@pytest.fixture
def failed(tmp_path: Path) -> Plan:
    """The plan of a study both of whose trials failed in an earlier run."""
    path = tmp_path / "failed.yaml"
    path.write_text("data: {name: digits}\nreferences: []\nseeds: [0, 1]\n", encoding="utf-8")
    plan = Plan(read.load(path), [TaskSpec("digits", "3")], "0" * 16, Results(tmp_path / "results"))
    for spec in plan.configurations[0].trials:
        write_json(plan.results.record_file(spec.key), failed_record(spec, "diverged in an earlier run"))
    return plan


def test_trials_that_are_run_again_are_not_done_by_their_old_records_when_ray_breaks_off(failed: Plan) -> None:
    searcher = PlanSearcher(failed, failed.results, {})
    for name in ("a", "b"):
        searcher.suggest(name)
    searcher.abandon()
    assert not failed.ended()
    assert failed.finished() == 0


def test_a_trial_that_is_run_again_and_stops_without_a_record_is_not_done(failed: Plan) -> None:
    searcher = PlanSearcher(failed, failed.results, {})
    searcher.suggest("a")
    searcher.on_trial_complete("a")
    assert failed.finished() == 0
    assert failed.take() == failed.configurations[0].trials[0]


def test_a_trial_that_is_run_again_and_whose_worker_dies_says_so(failed: Plan) -> None:
    searcher = PlanSearcher(failed, failed.results, {})
    searcher.suggest("a")
    searcher.on_trial_complete("a", error=True)
    (record,) = failed.records.values()
    assert record["error"].startswith("its worker died again and again")


SEARCHED = """
data: {name: digits}
references: []
search:
  algorithm: random
  configurations: 39
  space: {train.lambda: {uniform: [0, 1]}}
"""


def finished_record(spec: TrialSpec) -> dict[str, Any]:
    values = {"selection": 0.5, "auroc": 0.5}
    by_aggregation = dict.fromkeys(("min", "avg", "max"), values)
    return describe(spec) | {
        "status": "finished",
        "error": "",
        "epochs": spec.settings.train.epochs,
        "metrics": dict.fromkeys(("l2", "mse"), by_aggregation),
    }


def test_the_time_left_follows_from_what_this_run_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of forty trials failed in an earlier run and twenty finished; each of this run takes ten minutes."""
    path = tmp_path / "searched.yaml"
    path.write_text(SEARCHED, encoding="utf-8")

    def make() -> Plan:
        return Plan(read.load(path), [TaskSpec("digits", "3")], "0" * 16, Results(tmp_path / "results"))

    plan = make()
    for number in range(21):
        spec = plan.take()
        assert spec is not None
        record = finished_record(spec) if number else failed_record(spec, "diverged")
        write_json(plan.results.record_file(spec.key), record)
        plan.done(spec.key, record)

    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    plan, said = make(), StringIO()
    assert plan.next() is not None
    progress = StageProgress("trials", plan.total, done=plan.finished(), console=Console(file=said, width=200))
    searcher, callback = PlanSearcher(plan, plan.results, {}), ProgressCallback(plan, progress, None)
    for name in ("a", "b", "c"):
        trial = SimpleNamespace(trial_id=name, config=searcher.suggest(name))
        callback.on_trial_start(0, [], trial)
        write = TrialSpec.from_json(trial.config["spec"])
        now += 600
        write_json(plan.results.record_file(write.key), finished_record(write))
        searcher.on_trial_complete(name)
        callback.on_trial_complete(0, [], trial)
    lines = [tuple(line.split(" · ")[:2]) for line in said.getvalue().splitlines()]
    assert lines == [
        ("trials 21/40", "about 3 h 10 min left"),
        ("trials 22/40", "about 3 h 0 min left"),
        ("trials 23/40", "about 2 h 50 min left"),
    ]


def test_epochs_are_followed_and_a_trial_that_never_began_is_only_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "searched.yaml"
    path.write_text(SEARCHED, encoding="utf-8")
    plan = Plan(read.load(path), [TaskSpec("digits", "3")], "0" * 16, Results(tmp_path / "results"))
    now, said = 0.0, StringIO()
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = StageProgress("trials", plan.total, console=Console(file=said, width=200))
    searcher, callback = PlanSearcher(plan, plan.results, {}), ProgressCallback(plan, progress, None)
    trials = [SimpleNamespace(trial_id=name, config=searcher.suggest(name)) for name in ("a", "b")]
    callback.on_trial_start(0, [], trials[0])
    for epoch in (1, 2, 3):
        now += 20.0
        callback.on_trial_result(0, [], trials[0], {"epoch": epoch})
        callback.on_step_end(0, [])
    # The last report names the trial, and tells nothing of its speed.
    callback.on_trial_result(0, [], trials[0], {"epoch": 40, ENDED: "its key"})
    searcher.on_trial_complete("b", error=True)
    callback.on_trial_error(0, [], trials[1])
    lines = said.getvalue().splitlines()
    assert [line.split(" · ")[::2] for line in lines] == [
        ["trials 0/40", "epoch 2/40"],
        ["trials 1/40", "epoch 3/40"],
    ]
    assert all(line.split(" · ")[1].endswith(" left") for line in lines)
    callback.setup()
    callback.on_step_end(0, [])
    now += 100.0
    callback.on_step_end(0, [])
    assert "epoch" not in said.getvalue().splitlines()[-1], "after memory ran out, nothing runs"
