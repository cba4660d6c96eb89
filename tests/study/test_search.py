"""Searching: algorithms, objectives, the race, and how well it all searches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puzzle_study.config import Reading, read
from puzzle_study.datasets import TaskSpec
from puzzle_study.errors import UserError
from puzzle_study.io import write_text
from puzzle_study.reporting import build_report
from puzzle_study.study.plan import Plan
from puzzle_study.study.racing import compare
from puzzle_study.study.tables import summary_rows, training_axes, write_tables
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec
from puzzle_study.trials.worth import pareto_front, trial_value
from tests.core import tiny
from tests.core.tiny import own
from tests.study.conftest import DIGITS, carry_out, finished, plan_of

READING = Reading("l2", "max")


def searching(folder: Path, *, search: str, more: str = "", tasks: Sequence[TaskSpec] = DIGITS[:5]) -> Plan:
    text = (
        f"data: {{name: digits}}\nreferences: []\n{more}search:\n  space:\n"
        "    train.lambda: {log_uniform: [0.001, 1]}\n    train.adversary.epsilon: {uniform: [0.01, 0.2]}\n"
    )
    return plan_of(folder, text + "".join(f"  {line}\n" for line in search.split("\n")), tasks)


def record_of(spec: TrialSpec, *, noise: float = 0.01) -> Record:
    """Clean AUROC is best at a small ε and robust AUROC at a large one; both are best at λ = 0.03."""
    train = own(spec.settings).train
    # Not of the key, which every new setting changes.
    rng = random.Random(f"{train.lambda_} {train.adversary.epsilon} {spec.task} {spec.seed}")
    base = 0.95 - 0.02 * abs(np.log10(train.lambda_ / 0.03)) - 0.01 * int(spec.task.normal_class)
    values = {
        "selection": base - 0.3 * train.adversary.epsilon + rng.gauss(0, noise),
        "robust_selection": base - 0.5 * (0.2 - train.adversary.epsilon) + rng.gauss(0, noise),
        "auroc": base,
        "auroc_low": base - 0.02,
        "auroc_high": base + 0.02,
        "inverted": False,
        "average_precision": base,
    } | dict.fromkeys(("fpr_at_tpr95", "fpr_at_tpr99", "fpr_at_tpr995"), 1 - base)
    return finished(spec, values, val_error=train.lambda_)


def run_out(plan: Plan, *, workers: int = 1, seed: int = 0, noise: float = 0.01) -> int:
    """Run a plan; returns how many trials were run."""
    count = carry_out(plan, lambda spec: record_of(spec, noise=noise), workers=workers, seed=seed)
    assert plan.total == count == plan.finished()
    return count


@pytest.mark.parametrize("algorithm", ["optuna", "cmaes"])
def test_a_model_finds_better_values_than_its_random_start(tmp_path: Path, algorithm: str) -> None:
    plan = searching(tmp_path, search=f"algorithm: {algorithm}\nconfigurations: 40\nstartup: 8")
    run_out(plan, noise=0.0)
    worth = [planned.worth for planned in plan.configurations]
    values = [found[READING][0] for found in worth if found is not None]
    assert np.mean(values[-15:]) > np.mean(values[1:9]) + 0.005


@pytest.mark.parametrize("algorithm", ["optuna", "nsga2", "random"])
def test_two_objectives_give_a_front_of_both_ends(tmp_path: Path, algorithm: str) -> None:
    plan = searching(
        tmp_path,
        more="evaluate: {robust: {epsilon: 0.1}}\n",
        search=f"algorithm: {algorithm}\nconfigurations: 30\nobjectives: [selection, robust_selection]",
    )
    run_out(plan, noise=0.0)
    rows = summary_rows(plan, training_axes(plan.study))
    front = [row for row in rows if row.get("pareto")]
    epsilons = sorted(row["train.adversary.epsilon"] for row in front)
    assert len(front) >= 3
    assert epsilons[0] < 0.08
    assert epsilons[-1] > 0.12
    best = max(rows, key=lambda row: row.get("selection_mean", 0.0) if row["may_win"] else 0.0)
    assert best["rank"] == 1
    assert best["pareto"]
    assert "winner" in best["label"]
    assert {"objective_robust_selection"} <= set(best)


def test_the_mean_of_an_incomplete_row_is_the_one_that_its_interval_is_of(tmp_path: Path) -> None:
    plan = searching(tmp_path, more="seeds: [0, 1, 2]\n", search="configurations: 1", tasks=DIGITS[:2])
    auroc = {("0", 0): 0.90, ("0", 1): 0.92, ("0", 2): 0.94, ("1", 0): 0.60}
    for spec in iter(plan.take, None):
        if (value := auroc.get((spec.task.normal_class, spec.seed))) is not None:
            plan.done(spec.key, finished(spec, {"selection": 0.5, "auroc": value}))
    row = next(row for row in summary_rows(plan, []) if row["aggregation"] == "max")
    assert (row["trials"], row["complete"]) == (4, False)
    assert row["auroc_mean"] == pytest.approx((0.92 + 0.60) / 2)
    assert row["auroc_low"] < row["auroc_mean"] < row["auroc_high"]


@pytest.mark.slow
def test_a_report_shows_the_front_and_what_was_given_up(tmp_path: Path) -> None:
    more = "evaluate: {robust: {epsilon: 0.1}}\n"
    plan = searching(tmp_path, more=more, search="configurations: 6\nobjectives: [robust_selection, selection]")
    run_out(plan)
    results = plan.results
    write_text(results.study_file, read.dump(plan.study))
    write_tables(plan, results)
    page = build_report(results).read_text(encoding="utf-8")
    assert "rows are on the Pareto front of robust_selection, selection" in page
    assert "best in the first objective of the search, robust_selection" in page
    front = pd.read_csv(results.report / "tables" / "pareto.csv")
    assert front["rank"].iloc[0] == 1
    assert (results.report / "figures" / "pareto.png").exists()


def test_an_objective_that_is_a_cost_is_made_small(tmp_path: Path) -> None:
    plan = searching(tmp_path, search="algorithm: random\nconfigurations: 6\nobjectives: [val_error]")
    run_out(plan)
    winner = plan.winner()
    assert winner is not None
    lambdas = [own(planned.settings).train.lambda_ for planned in plan.configurations]
    assert own(winner[0].settings).train.lambda_ == min(lambdas)


POINT = st.tuples(st.integers(0, 5), st.integers(0, 5))


@given(points=st.lists(POINT.map(lambda point: (float(point[0]), float(point[1]))), min_size=1, max_size=20))
def test_the_front_holds_what_no_point_dominates(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points, ["selection", "val_error"])
    for point, on_front in zip(points, front, strict=True):
        dominated = any(other[0] >= point[0] and other[1] <= point[1] and other != point for other in points)
        assert on_front is not dominated


def test_a_race_saves_trials_and_does_not_depend_on_what_finishes_first(tmp_path: Path) -> None:
    search = "algorithm: random\nconfigurations: 20\nracing: {p: 0.1, start: 4}"
    more = "seeds: [0, 1]\n"
    counts, asked = [], []
    for workers in (1, 5):
        plan = searching(tmp_path, search=search, more=more)
        counts.append(run_out(plan, workers=workers, seed=workers))
        asked.append([(planned.values, planned.given_up) for planned in plan.configurations])
    assert asked[0] == asked[1]
    assert counts[0] == counts[1] < 0.7 * 21 * 10
    write_tables(plan, plan.results)
    table = plan.results.table(plan.results.trials_file)
    stopped = table[table["status"] == "stopped"]
    assert len(table) == 210
    assert len(stopped) == 210 - counts[0]
    assert stopped["error"].str.contains("paired signed-rank p").all()
    winner = plan.winner()
    assert winner is not None
    assert not winner[0].given_up


@pytest.mark.parametrize("seed", range(4))
def test_a_race_finds_what_is_as_good_but_for_the_noise(tmp_path: Path, seed: int) -> None:
    noise = 0.01
    winners = []
    for racing in ("", "\nracing: {}"):
        plan = searching(
            tmp_path, search=f"algorithm: random\nconfigurations: 20\nseed: {seed}{racing}", more="seeds: [0, 1]\n"
        )
        run_out(plan, noise=noise)
        winners.append(plan.winner())
    truth = [
        fmean(trial_value(record_of(spec, noise=0), READING, "selection") for spec in winner[0].trials)
        for winner in winners
        if winner is not None
    ]
    assert truth[1] > truth[0] - noise


def test_a_race_that_can_never_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="after 4 trials, but this study gives it 2"):
        searching(tmp_path, search="racing: {}", tasks=DIGITS[:2])


def test_a_configuration_that_is_better_on_average_never_loses() -> None:
    def records(values: list[float]) -> list[Record]:
        return [finished(tiny.trial(), {"selection": value}) for value in values]

    rival = records([0.9] * 6)

    def lost(values: list[float]) -> bool:
        return compare(records(values), rival, [READING], rival_reading=READING, objective="selection", p=0.1).lost

    assert lost([0.8, 0.81, 0.79, 0.8, 0.82, 0.8])
    assert not lost([0.89, 0.89, 0.89, 0.89, 0.89, 1.0])
    assert not lost([0.9] * 6)


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("algorithm: cmaes\nobjectives: [selection, seconds]", "cmaes follows one objective"),
        ("objectives: [auroc]", "uses test labels; set selection: oracle"),
        ("objectives: [robust_auroc]", "or use robust_selection"),
        ("objectives: [robust_selection]", "need evaluate.robust"),
        ("objectives: [selection, selection]", "names a column twice"),
        ("objectives: [selection, seconds]\nracing: {}", "need a single objective"),
        ("stopping: {rule: median}", "needs evaluate.selection: true"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_a_sentence(tmp_path: Path, search: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        searching(tmp_path, search=search)
