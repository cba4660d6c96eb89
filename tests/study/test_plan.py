"""The plan: what is trained next is a function of what is finished, whatever finishes first."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from puzzle_study.config import Reading
from puzzle_study.datasets import TaskSpec
from puzzle_study.study.best import names as best_names
from puzzle_study.study.plan import Plan
from puzzle_study.study.space import inert_axes, make_asker
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec
from tests.core.tiny import own
from tests.study.conftest import DIGITS, carry_out, finish, finished, plan_of, stopped

STUDY = """
data: {{name: digits}}
references: [pca]
search:
  algorithm: {algorithm}
  configurations: {configurations}
  lookahead: 3
  space:
    train.lambda: {{{axis}: {values}}}
    puzzle.grid: {{choice: [2, 3]}}
    train.adversary.alpha: {{choice: [0.01, 0.05], when: {{train.adversary.method: [fgsm]}}}}
    score.aggregation: {{choice: [min, avg, max]}}
"""
TASKS = [DIGITS[3], DIGITS[8]]


def make_plan(
    folder: Path,
    *,
    algorithm: str = "optuna",
    configurations: int | str = 8,
    axis: str = "log_uniform",
    values: str = "[0.001, 1.0]",
    journal: Path | None = None,
) -> Plan:
    text = STUDY.format(algorithm=algorithm, configurations=configurations, axis=axis, values=values)
    return plan_of(folder, text, TASKS, journal=journal)


def record_of(spec: TrialSpec) -> Record:
    """A record whose worth peaks at λ = 0.03 and is best for `avg`."""
    distance = abs(own(spec.settings).train.lambda_ - 0.03) if spec.detector == "puzzle_ae" else 0.0
    worth = {"min": 0.7, "avg": 0.9, "max": 0.8}

    def values(reading: Reading) -> dict[str, float]:
        return dict.fromkeys(("selection", "auroc"), worth[reading.aggregation] - distance / 10)

    return finished(spec, values)


def run_out(plan: Plan, *, workers: int = 1, seed: int = 0, write: bool = False) -> list[str]:
    """Run a plan; returns the configurations' values in order."""
    carry_out(plan, record_of, workers=workers, seed=seed, write=write)
    return [repr(planned.values) for planned in plan.configurations]


@pytest.mark.parametrize("algorithm", ["optuna", "nsga2", "cmaes", "random"])
def test_the_order_in_which_trials_finish_does_not_change_what_is_asked(tmp_path: Path, algorithm: str) -> None:
    asked = [
        run_out(make_plan(tmp_path, algorithm=algorithm), workers=workers, seed=seed)
        for workers, seed in ((1, 0), (2, 1), (4, 2), (16, 3))
    ]
    assert len(asked[0]) == 9
    assert all(other == asked[0] for other in asked)


def test_a_plan_built_again_from_records_asks_for_the_same_and_runs_nothing(tmp_path: Path) -> None:
    asked = run_out(make_plan(tmp_path), workers=2, seed=0, write=True)
    again = make_plan(tmp_path)
    assert again.take() is None
    assert again.ended()
    assert [repr(planned.values) for planned in again.configurations] == asked


@pytest.mark.parametrize("algorithm", ["optuna", "nsga2", "cmaes"])
def test_an_interrupted_plan_goes_on_with_the_same_configurations_and_tells_optuna_dashboard_the_same(
    tmp_path: Path, algorithm: str
) -> None:
    whole = make_plan(tmp_path, algorithm=algorithm, journal=tmp_path / "whole")
    asked = run_out(whole)
    winner = whole.winner()
    assert winner is not None
    assert max(value for _, value, _ in told(tmp_path / "whole")) == pytest.approx(winner[2][0])
    default, *searched = [planned.name for planned in whole.configurations]
    shown = {name for name, *_ in named(tmp_path / "whole")}
    # The default is told only if it is in the space.
    assert shown - {default} == set(searched), "the dashboard calls them as the report does"
    part = make_plan(tmp_path, algorithm=algorithm, journal=tmp_path / "part")
    for _ in range(9):
        spec = part.take()
        assert spec is not None
        finish(part, record_of(spec))
    rest = make_plan(tmp_path, algorithm=algorithm)
    assert rest.next() is not None
    rest.keep_search(tmp_path / "part")
    assert "RUNNING" in {state for _, _, state in told(tmp_path / "part")}
    assert run_out(rest, workers=3, seed=5) == asked
    assert told(tmp_path / "part") == told(tmp_path / "whole")


def test_a_study_without_a_search_keeps_no_older_journal(tmp_path: Path) -> None:
    run_out(make_plan(tmp_path, configurations=1, journal=tmp_path / "journal"))
    plan_of(tmp_path, "data: {name: digits}\n", journal=tmp_path / "journal")
    assert not (tmp_path / "journal").exists()


def test_every_trial_is_handed_out_once_and_pairs_every_configuration_with_every_task(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    keys = []
    while (spec := plan.take()) is not None:
        keys.append(spec.key)
        plan.done(spec.key, record_of(spec))
    assert len(keys) == len(set(keys)) == plan.total
    for planned in plan.configurations:
        assert [spec.task for spec in planned.trials] == TASKS


def test_a_grid_tries_every_combination_once_and_aggregation_multiplies_no_trial(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, algorithm="grid", configurations="null", axis="grid", values="[0.02, 0.1]")
    asked = run_out(plan, workers=2, seed=0)
    # 2 × 2 × 2 combinations; α = 2 of the default is not among them.
    assert len(asked) == 1 + 8
    assert plan.wanted == 9


def test_numbers_of_permutations_add_no_trial_and_are_told_to_optuna(tmp_path: Path) -> None:
    """The best number wins, and each training tells Optuna its worth under every one of them."""
    axis = "    score.permutations: {choice: [4, 8, all]}\n"
    plan = plan_of(
        tmp_path,
        STUDY.format(algorithm="optuna", configurations=3, axis="uniform", values="[0, 1]") + axis,
        TASKS,
        journal=tmp_path / "journal",
    )
    worth = {4: 0.5, 8: 0.9, None: 0.7}
    carry_out(plan, lambda spec: finished(spec, lambda reading: {"selection": worth[reading.views], "auroc": 0.5}))
    assert len(plan.configurations) == 4
    winner = plan.winner()
    assert winner is not None
    assert (winner[1].views, winner[2]) == (8, (0.9,))
    told_of = [
        (params["score.permutations"], value)
        for params, value, state in told(tmp_path / "journal")
        if state == "COMPLETE"
    ]
    assert {(count, value) for count, value in told_of} == {(4, 0.5), (8, 0.9), ("all", 0.7)}
    assert len(told_of) == 3 * 9


def test_a_range_of_permutations_is_read_by_each_number(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, "data: {name: digits}\nsearch: {space: {score.permutations: {int_uniform: [2, 4]}}}\n", TASKS
    )
    found = plan.readings(plan.configurations[0])
    assert [reading.aggregation for reading in found] == ["max of 2", "max of 3", "max of 4"]
    assert plan.configurations[0].trials[0].numbers_of_views == (2, 3, 4)


def test_configurations_that_train_the_same_are_trained_once(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        "data: {name: digits}\nreferences: []\nsearch:\n  algorithm: grid\n  space:\n"
        "    train.adversary.alpha: {grid: [0.5, 1.0, 2.0]}\n    train.lambda: {grid: [0.02, 0.1]}\n",
        TASKS,
    )
    # FGSM with α ≥ 2ε is ε·sign whatever α is: two values of λ are left, one of them the default's.
    assert plan.wanted == 2
    assert len(run_out(plan)) == 2


def test_a_space_that_is_exhausted_ends_the_search(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, algorithm="optuna", configurations=500, axis="choice", values="[0.02, 0.1]")
    asked = run_out(plan, workers=2, seed=0)
    assert len(asked) == 1 + 8


def test_the_winner_is_the_best_mean_over_tasks_under_the_best_reading(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    run_out(plan)
    winner = plan.winner()
    assert winner is not None
    planned, reading, _ = winner
    assert reading == Reading("l2", "avg")
    assert abs(own(planned.settings).train.lambda_ - 0.03) == min(
        abs(own(other.settings).train.lambda_ - 0.03) for other in plan.configurations
    )


def test_a_failed_trial_makes_its_configuration_incomplete_and_never_the_winner(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    while (spec := plan.take()) is not None:
        failed = spec.settings == plan.configurations[0].settings and spec.task.normal_class == "8"
        plan.done(spec.key, Record(spec, "failed", "diverged") if failed else record_of(spec))
    assert plan.configurations[0].worth is None
    winner = plan.winner()
    assert winner is not None
    assert winner[0].number != 0


def test_classes_whose_names_are_alike_get_folders_of_their_own_below_best(tmp_path: Path) -> None:
    classes = ["part 1", "part_1", "part/1", "part_1-2", "Ünit.3"]
    tasks = [TaskSpec("folder", name) for name in classes]
    plan = plan_of(tmp_path, "data: {name: folder}\nreferences: []\nseeds: [0, 1]\n", tasks)
    names = best_names(plan, plan.configurations[0].trials)
    assert names[::2] == ["part_1-3-seed0", "part_1-seed0", "part_1-4-seed0", "part_1-2-seed0", "Ünit.3-seed0"]
    assert len(set(names)) == 10


def test_a_trial_that_is_running_is_not_handed_out_again(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "data: {name: digits}\nreferences: []\n", [TASKS[0], TASKS[0]])
    assert plan.take() is not None
    assert plan.take() is None


CHAIN = {
    "puzzle.grid": "{choice: [2, 3]}",
    "train.adversary.method": "{choice: [fgsm, pgd], when: {puzzle.grid: [2]}}",
    "train.adversary.steps": "{choice: [2, 9], when: {train.adversary.method: [pgd]}}",
}


@pytest.mark.parametrize("algorithm", ["grid", "random"])
@pytest.mark.parametrize("order", list(itertools.permutations(CHAIN)), ids=str)
def test_conditions_hold_in_whatever_order_the_axes_are_written(
    order: tuple[str, ...], algorithm: str, tmp_path: Path
) -> None:
    space = "".join(f"    {name}: {CHAIN[name]}\n" for name in order)
    file = plan_of(tmp_path, f"data: {{name: digits}}\nsearch:\n  algorithm: {algorithm}\n  space:\n{space}").file
    assert file.study.search is not None
    asker = make_asker(file, file.study.search)
    asked = [suggestion.values for _ in range(40) if (suggestion := asker.ask()) is not None]
    assert {tuple(sorted(values.items())) for values in asked} == {
        (("puzzle.grid", 3),),
        (("puzzle.grid", 2), ("train.adversary.method", "fgsm")),
        (("puzzle.grid", 2), ("train.adversary.method", "pgd"), ("train.adversary.steps", 2)),
        (("puzzle.grid", 2), ("train.adversary.method", "pgd"), ("train.adversary.steps", 9)),
    }


def inert_in(tmp_path: Path, *axes: str) -> dict[str, str]:
    space = "".join(f"    {axis}\n" for axis in axes)
    return inert_axes(plan_of(tmp_path, f"data: {{name: digits}}\nsearch:\n  space:\n{space}").file)


def test_an_axis_that_cannot_matter_is_named_with_its_reason(tmp_path: Path) -> None:
    found = inert_in(tmp_path, "train.adversary.alpha: {uniform: [0.5, 2.0]}", "train.lambda: {uniform: [0.0, 1.0]}")
    assert found == {"train.adversary.alpha": "FGSM with α ≥ 2ε is ε·sign of the gradient whatever α is"}


def test_no_axis_is_called_inert_that_matters_somewhere_however_many_there_are(tmp_path: Path) -> None:
    others = [f"{name}: {{uniform: [0.1, 0.2]}}" for name in ("averaging", "plateau_factor", "weight_decay", "lambda")]
    others += [f"{name}: {{choice: [8, 9]}}" for name in ("epochs", "batch_size", "plateau_patience")]
    found = inert_in(
        tmp_path,
        "train.adversary.method: {choice: [none, fgsm]}",
        "train.adversary.epsilon: {uniform: [0.01, 0.2]}",
        "train.adversary.alpha: {log_uniform: [0.001, 0.3]}",
        "model.base_channels: {choice: [4, 8]}",
        *(f"train.{other}" for other in others),
    )
    assert found == {}


def test_an_axis_that_is_searched_only_where_it_cannot_matter_is_named(tmp_path: Path) -> None:
    found = inert_in(
        tmp_path,
        "train.adversary.method: {choice: [none, fgsm]}",
        "train.adversary.epsilon: {uniform: [0.01, 0.2], when: {train.adversary.method: [none]}}",
        "train.adversary.steps: {choice: [2, 9]}",
    )
    assert found == {
        "train.adversary.epsilon": "train.adversary.method is none",
        "train.adversary.steps": "train.adversary.method is none",
    }


STOPPING = """
data: {name: digits}
references: []
seeds: [0, 1]
evaluate: {selection: true}
search:
  configurations: 14
  startup: 3
  stopping: {grace_epochs: 2}
  space:
    train.lambda: {log_uniform: [0.001, 1.0]}
    train.adversary.epsilon: {uniform: [0.01, 0.2]}
"""


def named(journal: Path) -> set[tuple[Any, ...]]:
    """What optuna-dashboard calls the configurations."""
    study = optuna.load_study(study_name="study", storage=JournalStorage(JournalFileBackend(str(journal))))
    return {tuple(trial.user_attrs.values()) for trial in study.trials}


def told(journal: Path) -> list[tuple[Any, ...]]:
    """What Optuna was asked for and told."""
    study = optuna.load_study(study_name="study", storage=JournalStorage(JournalFileBackend(str(journal))))
    return [(trial.params, trial.value, trial.state.name) for trial in study.trials]


@pytest.mark.parametrize("seed", range(4))
def test_a_complete_study_with_stopped_trials_is_complete_again_and_tells_the_same(tmp_path: Path, seed: int) -> None:
    plan = plan_of(tmp_path, STOPPING, TASKS, journal=tmp_path / "first.journal")

    def trial(spec: TrialSpec) -> Record:
        # Not of the key, which every new setting changes.
        rng = random.Random(f"{own(spec.settings).train.lambda_} {spec.task} {spec.seed}")
        return stopped(spec, plan) if plan.stoppable(spec.key) and rng.random() < 0.3 else record_of(spec)

    carry_out(plan, trial, workers=3, seed=seed, write=True)
    again = plan_of(tmp_path, STOPPING, TASKS, journal=tmp_path / "second.journal")
    assert again.take() is None
    assert again.ended()
    assert again.records == plan.records
    assert again.total == plan.total == len(plan.records)
    assert told(tmp_path / "second.journal") == told(tmp_path / "first.journal")


def taken(plan: Plan, count: int) -> list[TrialSpec]:
    found = [plan.take() for _ in range(count)]
    return [spec for spec in found if spec is not None]


def test_what_a_given_up_configuration_is_told_does_not_depend_on_the_trials_after_the_stopped_one(
    tmp_path: Path,
) -> None:
    values = []
    for name, later in (("one", 0), ("more", 2)):
        folder = tmp_path / name
        folder.mkdir()
        one_by_one = STOPPING.replace("startup: 3", "lookahead: 1")
        plan = plan_of(folder, one_by_one, TASKS, journal=folder / "journal")
        for spec in taken(plan, 4):
            finish(plan, record_of(spec))
        trials = [*plan.configurations[0].trials, *taken(plan, 4)]
        finish(plan, stopped(trials[5], plan))
        for spec in trials[6 : 6 + later]:
            finish(plan, record_of(spec))
        assert plan.next() is None
        assert told(folder / "journal")[-1][2] == "RUNNING", "the trial before it has not ended"
        finish(plan, record_of(trials[4]))
        assert plan.next() is not None
        values.append([value for _, value, state in told(folder / "journal") if state == "COMPLETE"])
    assert values[0] == values[1]


def test_a_trial_before_the_stopped_one_is_run_again_where_it_was_interrupted_and_a_later_one_is_not(
    tmp_path: Path,
) -> None:
    plan = plan_of(tmp_path, STOPPING, TASKS)
    trials = taken(plan, 8)
    finish(plan, stopped(trials[5], plan))
    for spec in (trials[6], trials[4]):
        plan.abandon(spec.key)
    assert [spec.key for spec in taken(plan, 1)] == [trials[4].key]
    again = plan_of(tmp_path, STOPPING, TASKS)
    keys = [spec.key for spec in taken(again, 8)]
    assert trials[4].key in keys
    assert not {spec.key for spec in trials[5:]} & set(keys)


@pytest.mark.parametrize("now", ["stopping: {grace_epochs: 3}", ""])
def test_a_trial_that_another_rule_stopped_is_run_again(tmp_path: Path, now: str) -> None:
    text = STOPPING.replace("seeds: [0, 1]", "seeds: [0]").replace("configurations: 14", "configurations: 1")
    plan = plan_of(tmp_path, text, TASKS)
    key = ""
    while (spec := plan.take()) is not None:
        stop = plan.stoppable(spec.key) and not key
        key = spec.key if stop else key
        finish(plan, stopped(spec, plan) if stop else record_of(spec))
    assert plan_of(tmp_path, text, TASKS).ended()
    again = plan_of(tmp_path, text.replace("stopping: {grace_epochs: 2}", now or "lookahead: 4"), TASKS)
    assert key in [spec.key for spec in taken(again, 8)]


def test_the_default_is_run_to_its_end_though_it_was_stopped_as_another_configuration(tmp_path: Path) -> None:
    text = STOPPING.split("search:", maxsplit=1)[0] + "search: {algorithm: grid, stopping: {}, space: AXES}\n"
    text = text.replace("AXES", "{train.lambda: {grid: [0.02, 0.5]}}")
    plan = plan_of(tmp_path, text, TASKS)
    while (spec := plan.take()) is not None:
        finish(plan, stopped(spec, plan) if plan.stoppable(spec.key) else record_of(spec))
    again = plan_of(tmp_path, text + "train: {lambda: 0.5}\n", TASKS)
    default = again.configurations[0]
    assert [spec.key for spec in taken(again, 4)] == [spec.key for spec in default.trials]
    assert not default.given_up


def test_the_number_of_trials_is_that_of_those_with_a_record_and_those_left(tmp_path: Path) -> None:
    """Three run at once; of each configuration that may be stopped, the trial that ends first is."""
    plan, running, ended = plan_of(tmp_path, STOPPING, TASKS), list[TrialSpec](), set[str]()
    while True:
        while len(running) < 3 and (spec := plan.take()) is not None:
            running.append(spec)
        known, unknown = plan.left()
        assert plan.total == plan.finished() + len(known) + unknown
        if not running:
            break
        spec = running.pop()
        stop = plan.stoppable(spec.key) and spec.configuration not in ended
        ended.add(spec.configuration)
        finish(plan, stopped(spec, plan) if stop else record_of(spec))
    assert plan.total == plan.finished() < sum(len(planned.trials) for planned in plan.configurations)
