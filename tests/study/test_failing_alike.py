"""When the first trials fail with one user error the study ends; a sweep in which only some fail goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from puzzle_study.datasets import TaskSpec
from puzzle_study.study.failing import common_failure
from puzzle_study.study.plan import Plan
from puzzle_study.study.ray.runner import EndsTheStudy
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec
from tests.core import tiny
from tests.core.tiny import own
from tests.study.conftest import DIGITS, finish, finished, plan_of

SENTENCE = "data.root /nowhere: no such folder; name another"
ALONE = "data: {name: digits}\nreferences: []\n"
SEEDS = ALONE + "seeds: [0, 1, 2, 3, 4]\n"
SWEEP = ALONE + "search: {algorithm: grid, space: {train.batch_size: {grid: [1, 2, 3, 4, 5, 6]}}}\n"
LONG_SWEEP = ALONE + "search: {algorithm: random, configurations: 30, space: {train.lambda: {uniform: [0, 1]}}}\n"
WITH_REFERENCES = SWEEP.replace("references: []", "references: [pca, nearest_neighbour]")
SEVERAL = WITH_REFERENCES.replace("train.", "puzzle_ae.train.") + "detectors: {puzzle_ae: {}, untrained: {}}\n"
DATA_SWEEP = WITH_REFERENCES.replace("train.batch_size", "data.augment_to")
ONE, FOUR = DIGITS[3:4], DIGITS[:4]
Failing = Callable[[TrialSpec], str | None]


def always(spec: TrialSpec) -> str:
    return SENTENCE


def naming_the_class(spec: TrialSpec) -> str:
    return f"class {spec.task.normal_class} has too few images"


def failed(spec: TrialSpec, sentence: str = SENTENCE) -> Record:
    return Record(spec, "failed", sentence or "diverged", user_error=sentence)


def outcome(plan: Plan, failing: Failing, *, workers: int = 1, user_error: bool = True) -> tuple[str | None, int]:
    """Run a plan until its trials end it, with workers that finish in any order; returns why, after how many."""
    rng, running = random.Random(workers), list[TrialSpec]()
    for count in range(1000):
        while len(running) < workers and (spec := plan.take()) is not None:
            running.append(spec)
        if not running:
            return None, count
        spec = running.pop(rng.randrange(len(running)))
        sentence = failing(spec)
        plan.done(spec.key, failed(spec, sentence if user_error else "") if sentence else finished(spec))
        plan.next()
        if (reason := common_failure(plan)) is not None:
            return reason, count + 1
    raise AssertionError("the plan does not end")


@pytest.mark.parametrize("failing", [always, naming_the_class])
@pytest.mark.parametrize(
    ("text", "tasks", "trials"),
    [
        (ALONE, ONE, 1),
        (SEEDS, ONE, 3),
        (SWEEP, ONE, 7),
        (LONG_SWEEP, ONE, 10),
        (WITH_REFERENCES, ONE, 3),
        (SEVERAL, ONE, 3),
        (WITH_REFERENCES, FOUR, 12),
    ],
)
def test_trials_that_all_fail_alike_end_the_study_early(
    text: str, tasks: tuple[TaskSpec, ...], trials: int, failing: Failing, tmp_path: Path
) -> None:
    reason, count = outcome(plan_of(tmp_path, text, tasks), failing)
    assert reason is not None
    assert reason.startswith(failing(TrialSpec(tiny.settings(), tasks[0], 0, "")) or "")
    assert count <= trials
    assert f"the first {count} trials" in reason


@pytest.mark.parametrize("workers", [2, 7])
def test_workers_that_finish_in_any_order_end_it_too(workers: int, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, WITH_REFERENCES, FOUR)
    reason, count = outcome(plan, always, workers=workers)
    assert reason is not None
    assert count <= 9 + workers
    assert plan.total > 2 * count


@pytest.mark.parametrize("workers", [1, 7])
@pytest.mark.parametrize(
    ("text", "failing"),
    [
        (SWEEP, lambda spec: None if own(spec.settings).train.batch_size == 6 else SENTENCE),
        (SWEEP, lambda spec: f"train.batch_size {own(spec.settings).train.batch_size} is too large"),
        (DATA_SWEEP, lambda spec: None if spec.settings.data.augment_to == 6 else SENTENCE),
        (ALONE, lambda spec: None if spec.task.normal_class == "2" else SENTENCE),
        (ALONE, lambda spec: None if spec.task.normal_class == "3" else naming_the_class(spec)),
        (WITH_REFERENCES, lambda spec: SENTENCE if spec.detector == "pca" else None),
    ],
    ids=["a sweep", "each its own", "a sweep of images", "classes", "named classes", "references"],
)
def test_a_study_in_which_only_some_trials_fail_goes_on(
    text: str, failing: Failing, workers: int, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, text, FOUR)
    assert outcome(plan, failing, workers=workers) == (None, plan.total)


def test_trainings_that_diverge_or_die_are_not_the_users_error(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, SWEEP, ONE)
    assert outcome(plan, always, user_error=False) == (None, plan.total)


def test_failures_beside_a_long_training_wait_for_its_end(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, WITH_REFERENCES, ONE)
    first = plan.take()
    assert first is not None
    assert outcome(plan, always)[0] is None
    plan.done(first.key, failed(first))
    assert common_failure(plan) is not None


def test_a_run_in_which_something_trains_or_an_earlier_one_finished_something_goes_on(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, SWEEP, ONE)
    assert outcome(plan, always)[0] is not None
    ended = EndsTheStudy(plan, plan.results)
    for result, ends in (({"epoch": 1}, False), ({"epoch": 0}, True)):
        ended("one", result)
        assert ended.stop_all() is ends
    finish(plan, finished(tiny.trial()))
    assert not EndsTheStudy(plan, plan.results).stop_all()
