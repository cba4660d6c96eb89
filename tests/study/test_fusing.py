"""Which trials of a plan run together, and what a worker's end means for each of them. Ray is not started."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from puzzle_study.config import Resources
from puzzle_study.errors import UserError
from puzzle_study.study import fusing
from puzzle_study.study.plan import Plan
from puzzle_study.study.ray.searcher import ENDED, PlanSearcher, specs_of
from puzzle_study.trials.spec import TrialSpec
from tests.study.conftest import DIGITS, Values, finish, finished, plan_of

TASKS = DIGITS[:2]
STUDY = """
data: {name: digits}
model: {base_channels: 8}
references: []
train: {epochs: 40, batch_size: 32}
resources: {fuse: FUSE}
search:
  configurations: 9
  space:
    train.lambda: {log_uniform: [0.001, 0.1]}
    puzzle.grid: {choice: [2, 3]}
"""


ON_A_GPU = "auto, gpu: 0.1"


def study(fuse: int | str, more: str = "") -> str:
    return STUDY.replace("FUSE", str(fuse)) + more


def worth(spec: TrialSpec) -> Values:
    """A value that follows from the trial alone."""
    value = random.Random(spec.key).random()
    return {"selection": value, "auroc": value}


def carried_out(plan: Plan, *, workers: int, seed: int) -> list[list[str]]:
    """Run groups to their end, whose trials end in a random order beside those of other workers; returns the groups."""
    rng, running, groups = random.Random(seed), list[list[TrialSpec]](), list[list[str]]()
    while True:
        while len(running) < workers and (group := plan.take_together()):
            running.append(group)
            groups.append([spec.key for spec in group])
        if not running:
            break
        place = rng.randrange(len(running))
        spec = running[place].pop(rng.randrange(len(running[place])))
        plan.next()
        plan.done(spec.key, finished(spec, worth(spec)))
        running = [group for group in running if group]
    assert plan.ended()
    return groups


@pytest.mark.parametrize("fuse", [2, 4, 8])
def test_groups_and_configurations_depend_neither_on_workers_nor_on_who_ends_first(fuse: int, tmp_path: Path) -> None:
    chosen, found = [], []
    for workers, seed in ((1, 0), (2, 1), (3, 2), (8, 3)):
        plan = plan_of(tmp_path, study(fuse), TASKS)
        found.append({frozenset(group) for group in carried_out(plan, workers=workers, seed=seed)})
        chosen.append([planned.values for planned in plan.configurations])
    alone = plan_of(tmp_path, study(1), TASKS)
    assert {len(group) for group in carried_out(alone, workers=2, seed=0)} == {1}
    assert chosen == [[planned.values for planned in alone.configurations]] * 4
    assert found == found[:1] * 4
    sizes = [len(group) for group in found[0]]
    assert sum(sizes) == 20
    assert 1 < max(sizes) <= fuse


def test_a_group_has_one_shape_and_the_trials_of_one_task_side_by_side(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, study(4), TASKS)
    of_trial = {spec.key: spec for planned in plan.configurations for spec in planned.trials}
    for group in carried_out(plan, workers=2, seed=0):
        of_trial |= {spec.key: spec for planned in plan.configurations for spec in planned.trials}
        specs = [of_trial[key] for key in group]
        assert len({spec.settings.own.alike() for spec in specs}) == 1
        tasks = [TASKS.index(spec.task) for spec in specs]
        assert tasks == sorted(tasks)


def test_what_is_finished_is_not_run_again_and_the_rest_of_its_group_is(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, study(4), TASKS)
    group = plan.take_together()
    assert len(group) > 1
    for spec in group[:-1]:
        finish(plan, finished(spec))
    again = plan_of(tmp_path, study(4), TASKS)
    taken = [again.take_together() for _ in range(8)]
    keys = [spec.key for specs in taken for spec in specs]
    assert group[-1].key in keys
    assert not {spec.key for spec in group[:-1]} & set(keys)
    assert len(keys) == len(set(keys))


FOLLOWED = {
    "search.racing": "  racing: {start: 2}\nseeds: [0, 1]\n",
    "search.stopping": "  stopping: {grace_epochs: 2}\nevaluate: {selection: true}\n",
    "loggers": "loggers: [tensorboard]\n",
}


@pytest.mark.parametrize("what", FOLLOWED)
def test_what_follows_each_trial_by_itself_refuses_a_number_and_gives_one_for_auto(what: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"resources.fuse cannot be 2 with {what}"):
        plan_of(tmp_path, study(2, FOLLOWED[what]), TASKS)
    assert plan_of(tmp_path, study("auto", FOLLOWED[what]), TASKS).fusing.together == 1


@pytest.mark.parametrize(
    ("cores", "gpus", "most"),
    [(1, 1, 8), (2, 1, 4), (4, 1, 2), (8, 1, 1), (64, 4, 1), (64, 0, 8)],
)
def test_auto_keeps_the_machine_busy_and_is_one_on_a_cpu(
    cores: int, gpus: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, cores, gpus)
    assert plan_of(tmp_path, study(ON_A_GPU), TASKS).fusing.together == most
    assert plan_of(tmp_path, study("auto"), TASKS).fusing.together == 1


def machine(monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("cpu", "gpu", "most", "expected"),
    [
        (1, 0, None, 16),
        (2, 0, None, 8),
        (32, 0, None, 1),
        (1, 1, None, 2),
        (1, 0.25, None, 8),
        (4, 0.25, None, 4),
        # Two on each GPU; a fifth trial does not fit into what is left of both.
        (1, 0.4, None, 4),
        (1, 2, None, 1),
        (1, 0.25, 3, 3),
    ],
)
def test_as_many_run_at_once_as_cores_and_gpus_allow(
    cpu: float, gpu: float, most: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 16, 2)
    resources = Resources.model_validate({"cpu": cpu, "gpu": gpu})
    assert fusing.at_once(resources, most) == expected


def test_a_machine_that_is_too_small_runs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 1, 0)
    assert fusing.at_once(Resources.model_validate({"cpu": 4, "gpu": 1}), 2) == 1


def test_auto_leaves_wide_networks_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 1, 1)
    small, wide = study(ON_A_GPU), study(ON_A_GPU).replace("base_channels: 8", "base_channels: 256")
    assert len(plan_of(tmp_path, small, TASKS).take_together()) > 1
    assert len(plan_of(tmp_path, wide, TASKS).take_together()) == 1


def suggested(searcher: PlanSearcher, name: str) -> list[TrialSpec]:
    found: Any = searcher.suggest(name)
    return specs_of(found)


def test_a_trial_counts_when_it_has_ended_while_others_beside_it_go_on(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, study(4), TASKS)
    searcher = PlanSearcher(plan, plan.results, {})
    first, second, *rest = suggested(searcher, "a")
    plan.results.write_record(first.key, finished(first).to_json())
    searcher.on_trial_result("a", {ENDED: first.key, "epoch": 40})
    assert set(plan.records) == {first.key}
    plan.results.write_record(second.key, finished(second).to_json())
    searcher.on_trial_complete("a")
    assert set(plan.records) == {first.key, second.key}, "the rest runs again"
    assert {spec.key for spec in rest} <= {spec.key for spec in iter(plan.take, None)}


def test_after_a_worker_died_repeatedly_each_of_its_trials_is_tried_by_itself(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, study(2), TASKS)
    searcher = PlanSearcher(plan, plan.results, {})
    group = suggested(searcher, "a")
    assert len(group) == 2
    searcher.on_trial_complete("a", error=True)
    assert not plan.records
    again = [suggested(searcher, "b"), suggested(searcher, "c")]
    assert sorted(spec.key for specs in again for spec in specs) == sorted(spec.key for spec in group)
    searcher.on_trial_complete("b", error=True)
    (record,) = plan.records.values()
    assert record.error.startswith("its worker crashed repeatedly")
