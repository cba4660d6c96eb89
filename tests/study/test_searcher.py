"""What Ray Tune is handed, and what counts as the end of a trial. Ray is not started."""

from __future__ import annotations

import pickle
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError
from ray.tune import TuneConfig
from ray.tune.execution.tune_controller import _get_max_pending_trials
from ray.tune.search import Searcher, SearchGenerator
from rich.console import Console

from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import StageProgress
from puzzle_study.study.ray.losing import PatientScheduler
from puzzle_study.study.ray.runner import OF, EndsTheStudy, ProgressCallback, run_trials
from puzzle_study.study.ray.searcher import ENDED, PlanSearcher
from puzzle_study.study.storage import Place
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec
from tests.study.conftest import finish, finished, plan_of


@pytest.fixture
def failed(tmp_path: Path) -> Plan:
    """The plan of a study both of whose trials failed in an earlier run."""
    plan = plan_of(tmp_path, "data: {name: digits}\nreferences: []\nseeds: [0, 1]\n")
    for spec in plan.configurations[0].trials:
        plan.results.write_record(spec.key, Record(spec, "failed", "diverged in an earlier run").to_json())
    return plan


def test_workers_start_together_because_as_many_trials_wait_as_fit(
    failed: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one waits, one worker starts at a time, and Ray Tune gives it up whenever another is free."""
    nodes = [{"Alive": alive, "Resources": {"CPU": cpus}} for alive, cpus in ((True, 3.0), (False, 8.0), (True, 1.5))]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "auto")
    waiting: list[int] = []

    def begin(trainable: object, *, tune_config: TuneConfig, run_config: object) -> SimpleNamespace:
        assert isinstance(tune_config.search_alg, Searcher)
        search = SearchGenerator(tune_config.search_alg)
        return SimpleNamespace(fit=lambda: waiting.append(_get_max_pending_trials(search)))

    monkeypatch.setattr("ray.tune.Tuner", begin)
    progress = StageProgress("trials", failed.total, console=Console(file=StringIO()))
    run_trials(failed, failed.results, progress, Place.of(failed.results, None))
    assert waiting == [4]


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
    assert record.error.startswith("its worker crashed repeatedly")


def test_a_trial_that_ray_gives_up_after_its_node_was_lost_runs_again(failed: Plan) -> None:
    searcher = PlanSearcher(failed, failed.results, {}, {"a"})
    for name in ("a", "b"):
        searcher.suggest(name)
    for name in ("a", "b"):
        searcher.on_trial_complete(name, error=True)
    first, second = failed.configurations[0].trials
    assert list(failed.records) == [second.key]
    assert failed.take() == first


def test_a_run_of_ray_tune_has_no_more_trials_than_it_may_keep(failed: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puzzle_study.study.ray.searcher.MOST_TRIALS", 1)
    monkeypatch.setattr("puzzle_study.study.ray.searcher.MOST_TURNS", 1)
    searcher = PlanSearcher(failed, failed.results, {})
    assert isinstance(searcher.suggest("a"), dict)
    assert searcher.suggest("b") == Searcher.FINISHED
    assert not searcher.is_full(), "interrupted now, it would not have ended"
    searcher.on_trial_complete("a", error=True)
    assert searcher.is_full()
    assert not failed.ended()
    assert isinstance(PlanSearcher(failed, failed.results, {}).suggest("c"), dict)


LOSSES = [
    (ActorDiedError(), False, 0),
    (RayActorError(preempted=True), True, 0),
    (ActorUnavailableError("Socket closed", None), True, 1),
    (RayActorError(error_msg="The actor died because its node has died. Node Id: 5c4d"), True, 1),
    (ValueError("its node has died"), False, 0),
    (None, False, 0),
]


@pytest.mark.parametrize(("error", "is_lost", "more"), LOSSES)
def test_the_loss_of_a_node_does_not_count_against_a_trial(
    error: Exception | None, is_lost: bool, more: int, tmp_path: Path
) -> None:
    lost = set() if is_lost else {"a"}
    scheduler = PatientScheduler(lost)
    file = tmp_path / "error.pkl"
    if error is not None:
        file.write_bytes(pickle.dumps(error))
    trial = SimpleNamespace(trial_id="a", max_failures=3, pickled_error_file=str(file) if error else None)
    scheduler.on_trial_error(None, trial)
    assert lost == ({"a"} if is_lost else set())
    assert trial.max_failures == 3 + more


def test_rays_snapshots_hold_nothing_of_a_plan(failed: Plan) -> None:
    progress = StageProgress("trials", 2, console=Console(file=StringIO()))
    searcher, callback = PlanSearcher(failed, failed.results, {}), ProgressCallback(failed, progress, None)
    for held in (searcher, callback, EndsTheStudy(failed, failed.results)):
        assert len(pickle.dumps(held)) < 200


SEARCHED = """
data: {name: digits}
references: []
search:
  algorithm: random
  configurations: 39
  space: {train.lambda: {uniform: [0, 1]}}
"""


def test_the_time_left_follows_from_what_this_run_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of forty trials failed in an earlier run and twenty finished; each of this run takes ten minutes."""
    plan = plan_of(tmp_path, SEARCHED)
    for number in range(21):
        spec = plan.take()
        assert spec is not None
        finish(plan, finished(spec) if number else Record(spec, "failed", "diverged"))

    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    plan, said = plan_of(tmp_path, SEARCHED), StringIO()
    assert plan.next() is not None
    progress = StageProgress("trials", plan.total, done=plan.finished(), console=Console(file=said, width=200))
    searcher, callback = PlanSearcher(plan, plan.results, {}), ProgressCallback(plan, progress, None)
    for name in ("a", "b", "c"):
        trial = SimpleNamespace(trial_id=name, config=searcher.suggest(name))
        callback.on_trial_start(0, [], trial)
        now += 600
        record = finished(TrialSpec.from_json(trial.config["spec"]))
        plan.results.write_record(record.spec.key, record.to_json())
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
    plan = plan_of(tmp_path, SEARCHED)
    now, said = 0.0, StringIO()
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = StageProgress("trials", plan.total, console=Console(file=said, width=200))
    searcher, callback = PlanSearcher(plan, plan.results, {}), ProgressCallback(plan, progress, None)
    trials = [SimpleNamespace(trial_id=name, config=searcher.suggest(name)) for name in ("a", "b")]
    callback.on_trial_start(0, [], trials[0])
    key = TrialSpec.from_json(trials[0].config["spec"]).key
    for epoch in (1, 2, 3):
        now += 20.0
        callback.on_trial_result(0, [], trials[0], {"epoch": epoch, OF: key})
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
