"""What Ray Tune is handed, and what counts as the end of a trial. Ray is not started."""

from __future__ import annotations

from pathlib import Path

import pytest

from puzzle_study import studyfile
from puzzle_study.datasets import TaskSpec
from puzzle_study.results import Results, write_json
from puzzle_study.study.plan import Plan
from puzzle_study.study.searcher import PlanSearcher
from puzzle_study.trial_spec import failed_record


@pytest.fixture
def failed(tmp_path: Path) -> Plan:
    """The plan of a study both of whose trials failed in an earlier run."""
    path = tmp_path / "failed.yaml"
    path.write_text("data: {name: digits}\nreferences: []\nseeds: [0, 1]\n", encoding="utf-8")
    plan = Plan(studyfile.load(path), [TaskSpec("digits", "3")], "0" * 16, Results(tmp_path / "results"))
    for spec in plan.configurations[0].trials:
        write_json(plan.results.record_file(spec.key), failed_record(spec, "diverged in an earlier run"))
    return plan


def test_trials_that_are_run_again_are_not_done_by_their_old_records_when_ray_breaks_off(failed: Plan) -> None:
    searcher = PlanSearcher(failed, failed.results, {})
    for name in ("a", "b"):
        searcher.suggest(name)
    searcher.abandon()
    assert not failed.complete
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
