"""Configurations that one training answers: what the plan queues, what the search is told, what is refused."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puzzle_study.errors import UserError
from puzzle_study.study.changes import can_use
from puzzle_study.study.failing import common_failure
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import TimeLeft
from puzzle_study.study.ray.searcher import ENDED, PlanSearcher, specs_of
from puzzle_study.study.space import NAME, OptunaAsker
from puzzle_study.study.work import TrialsLeft, planned_work
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec
from tests.study.conftest import DIGITS, Values, finish, finished, plan_of

TASKS = DIGITS[:2]
SPACE = """
    train.epochs: {grid: [10, 40, 20]}
    train.averaging: {grid: [0.9, 0.99]}
"""
STUDY = (
    """
data: {name: digits}
model: {base_channels: 8}
references: []
train: {epochs: 15, schedule: constant}
search:
  algorithm: ALGORITHM
  space:
    train.lambda: AXIS"""
    + SPACE
)
RANDOM = STUDY.replace("ALGORITHM", "optuna\n  configurations: 5").replace("AXIS", "{log_uniform: [0.001, 0.1]}")
GRID = STUDY.replace("ALGORITHM", "grid").replace("AXIS", "{grid: [0, 0.02, 0.5]}")


def worth(spec: TrialSpec) -> Values:
    """A value that follows from the trial alone."""
    value = random.Random(spec.key).random()
    return {"selection": value, "auroc": value}


def carried_out(plan: Plan, *, workers: int = 1, seed: int = 0) -> list[list[TrialSpec]]:
    """Run trainings to their end, whose trials end in a random order beside those of others; returns them."""
    rng, running, groups = random.Random(seed), list[list[TrialSpec]](), list[list[TrialSpec]]()
    while True:
        while len(running) < workers and (group := plan.take_together()):
            running.append(list(group))
            groups.append(group)
        if not running:
            break
        place = rng.randrange(len(running))
        spec = running[place].pop(rng.randrange(len(running[place])))
        plan.done(spec.key, finished(spec, worth(spec)))
        running = [group for group in running if group]
    assert plan.ended()
    return groups


def told(plan: Plan) -> list[tuple[Any, ...]]:
    asker = plan._asker
    assert isinstance(asker, OptunaAsker)
    return [(one.user_attrs.get(NAME), one.params, one.values) for one in asker.study.trials]


def test_neither_workers_nor_who_ends_first_decide_what_is_trained_and_told(tmp_path: Path) -> None:
    found = []
    for workers, seed in ((1, 0), (2, 1), (3, 2), (8, 3)):
        plan = plan_of(tmp_path, RANDOM, TASKS)
        groups = carried_out(plan, workers=workers, seed=seed)
        trainings = sorted([spec.key for spec in group] for group in groups)
        found.append(([planned.values for planned in plan.configurations], trainings, told(plan)))
    assert found == found[:1] * 4


def test_each_configuration_along_a_training_is_told_once_with_the_mean_of_its_own_trials(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, RANDOM, TASKS)
    groups = carried_out(plan)
    # The study's own epochs and decay are no values of the axes.
    assert [len(group) for group in groups] == [7, 7, *[6] * 10]
    assert len(plan.configurations) == 7 + 5 * 6
    (own, *rest), told_of = plan.configurations, told(plan)
    names = [name for name, _, _ in told_of]
    assert sorted(names) == sorted(planned.name for planned in rest), "each once; the study's own is outside the space"
    by_name = {planned.name: planned for planned in rest}
    for name, params, values in told_of:
        planned = by_name[name]
        assert own.values | params == own.values | planned.values or planned.training == 0
        assert values == [pytest.approx(sum(worth(spec)["selection"] for spec in planned.trials) / len(TASKS))]


def test_a_training_has_one_task_one_seed_and_every_value_the_longest_last(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, RANDOM + "seeds: [0, 1]\n", TASKS)
    groups = carried_out(plan, workers=3)
    assert len(groups) == 6 * 4
    for group in groups:
        assert len({(spec.stem, spec.task, spec.seed) for spec in group}) == 1
        epochs = [spec.settings.own.epochs_wanted for spec in group]
        assert epochs == sorted(epochs)
        assert {10, 20, 40} <= set(epochs)


def test_what_is_finished_is_not_run_again_and_the_rest_of_its_training_is(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, RANDOM, TASKS)
    group = plan.take_together()
    for spec in group[1:-1]:
        finish(plan, finished(spec))
    again = plan_of(tmp_path, RANDOM, TASKS)
    assert [group[0], group[-1]] in [again.take_together() for _ in range(2)]


def test_a_grid_trains_once_what_one_training_answers_and_leaves_no_combination_out(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GRID, TASKS)
    assert (plan.wanted, plan.total) == (1 + 2, (7 + 2 * 6) * len(TASKS)), "λ 0.02 is the study's own"
    assert len(carried_out(plan, workers=2)) == 3 * len(TASKS)
    assert plan.total == len(plan.records) == 19 * len(TASKS)
    axes = ("train.lambda", "train.epochs", "train.averaging")
    defaults = {"train.lambda": 0.02, "train.epochs": 15, "train.averaging": 0.0}
    combinations = {tuple((defaults | planned.values)[name] for name in axes) for planned in plan.configurations}
    assert len(combinations) == 3 * 6 + 1


def test_many_values_in_a_row_do_not_exhaust_a_grid(tmp_path: Path) -> None:
    many = GRID.replace("[10, 40, 20]", str(list(range(1, 81))))
    plan = plan_of(tmp_path, many, TASKS[:1])
    carried_out(plan)
    assert len(plan.configurations) == 3 * 160 + 1


def one_axis(axis: str) -> str:
    """The study with this axis instead of the epochs' and the decay's."""
    return RANDOM.replace(SPACE, f"\n    {axis}\n")


APART = {
    "racing": RANDOM + "  racing: {start: 2}\nseeds: [0, 1]\n",
    "stopping": RANDOM + "  stopping: {grace_epochs: 2}\nevaluate: {selection: true}\n",
    "loggers": RANDOM + "loggers: [tensorboard]\n",
    "a rate that knows the epochs": one_axis("train.epochs: {grid: [10, 40]}").replace("constant", "one_cycle"),
    "a range": one_axis("train.epochs: {int_uniform: [10, 40]}"),
    "conditions": one_axis("train.epochs: {grid: [10, 40]}").replace("0.1]}", "0.1], when: {train.epochs: [40]}}"),
    "another detector": """
detector: rotnet
data: {name: digits}
references: []
search:
  configurations: 5
  space:
    train.learning_rate: {log_uniform: [0.001, 0.1]}
    train.epochs: {grid: [10, 40]}
""",
}


@pytest.mark.parametrize("why", APART)
def test_otherwise_each_configuration_has_its_own_training(why: str, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, APART[why], TASKS)
    assert plan.along.axes == {}
    assert plan.wanted == 6
    assert plan.take_together() == [plan.configurations[0].trials[0]]
    assert plan.configurations[0].trials[0].along == ()


def test_only_the_settings_that_a_configuration_meets_are_read_along_its_training(tmp_path: Path) -> None:
    text = GRID.replace("    train.lambda: {grid: [0, 0.02, 0.5]}", "    train.schedule: {grid: [constant, one_cycle]}")
    plan = plan_of(tmp_path, text, TASKS[:1])
    groups = carried_out(plan)
    assert plan.wanted == 1 + 3
    assert sorted(len(group) for group in groups) == [2, 2, 2, 7]
    assert all(len({spec.settings.own.epochs_wanted for spec in group}) == 1 for group in groups if len(group) == 2)


def test_fusing_beside_it_is_refused_and_auto_is_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"resources.fuse cannot be 2 with the search axis train.epochs.*one training"):
        plan_of(tmp_path, RANDOM + "resources: {fuse: 2}\n", TASKS)
    plan = plan_of(tmp_path, RANDOM + "resources: {fuse: auto, gpu: 0.1}\n", TASKS)
    assert plan.fusing.together == 1
    assert len(plan.take_together()) == 7


def test_trials_of_one_training_that_fail_alike_are_one_failure(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, RANDOM.replace("configurations: 5", "configurations: 20"), TASKS)
    for trainings in range(1, 11):
        assert common_failure(plan) is None, f"{trainings} trainings"
        for spec in [*plan.take_together(), *plan.take_together()]:
            plan.done(spec.key, Record(spec, "failed", "too small", user_error="too small"))
            plan.next()
    assert str(common_failure(plan)).startswith("too small")


def test_a_changed_study_keeps_what_the_training_of_its_own_configuration_answers(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GRID.replace("grid: [0, 0.02, 0.5]", "grid: [0, 0.5]"), TASKS)
    own = next(planned for planned in plan.configurations[1:] if planned.training == 0)
    assert can_use(own.trials[0], plan.file, TASKS, plan.fingerprint)
    other = plan.file.configuration(own.values | {"train.epochs": 11})
    assert not can_use(replace(own.trials[0], settings=other), plan.file, TASKS, plan.fingerprint)


def suggested(searcher: PlanSearcher, name: str) -> list[TrialSpec]:
    found: Any = searcher.suggest(name)
    return specs_of(found)


def test_a_worker_that_dies_without_progress_costs_the_next_trial_and_no_other(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, RANDOM, TASKS)
    searcher = PlanSearcher(plan, plan.results, {})
    first, *rest = suggested(searcher, "a")
    searcher.on_trial_complete("a", error=True)
    assert [(record.spec, record.status) for record in plan.records.values()] == [(first, "failed")]
    assert suggested(searcher, "b") == rest, "one training goes on, in its order"
    plan.results.write_record(rest[0].key, finished(rest[0]).to_json())
    searcher.on_trial_result("b", {ENDED: rest[0].key, "epoch": 10})
    searcher.on_trial_complete("b", error=True)
    assert set(plan.records) == {first.key, rest[0].key}, "it got further, so it is tried again"
    assert suggested(searcher, "c") == rest[1:]
    for spec in rest[1:-1]:
        plan.results.write_record(spec.key, finished(spec).to_json())
        searcher.on_trial_result("c", {ENDED: spec.key, "epoch": 40})
    searcher.on_trial_complete("c", error=True)
    assert suggested(searcher, "d") == rest[-1:], "the last one is tried again too, if its worker got further"
    searcher.on_trial_complete("d", error=True)
    assert plan.records[rest[-1].key].error.startswith("its worker crashed repeatedly")


def test_the_time_left_counts_a_training_once(tmp_path: Path) -> None:
    plan, time_left = plan_of(tmp_path, RANDOM, TASKS[:1]), TimeLeft()
    left, now = TrialsLeft(plan, time_left), 0.0
    group = plan.take_together()
    work = planned_work(group[-1], plan.study.data)
    for spec in group:
        left.started(spec.key, spec, now)
    assert left.epochs == [(0, 40)]
    # A second for an epoch and three ways to be evaluated along it.
    second = work.train + 3 * work.follow
    for epoch in (1, 9):
        now += epoch - int(now)
        left.reported(group[-1].key, epoch, now)
    assert left.epochs == [(9, 40)]
    seconds = time_left.seconds(now)
    assert seconds is not None
    trainings = [(31, 7)] + 5 * [(40, 6)]
    # The study's own decay ends after 15 epochs; the others' trainings have two ways.
    most = sum(epochs * second + trials * work.rest for epochs, trials in trainings) / second
    least = sum(epochs * work.train + trials * work.rest for epochs, trials in trainings) / second
    assert least < seconds < most
    for spec in group[:-1]:
        plan.done(spec.key, finished(spec))
        left.ended(spec.key, plan.records[spec.key], now)
    assert left.epochs == [(40, 40)]
