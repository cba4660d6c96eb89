"""A study of several detectors: how its search is shared out, what may win, and what stays together."""

from __future__ import annotations

from pathlib import Path

import pytest

from puzzle_study.config import Reading, read
from puzzle_study.errors import UserError
from puzzle_study.study.plan import Plan
from puzzle_study.study.tables import summary_rows, training_axes, write_tables
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec
from tests.core.tiny import own
from tests.study.conftest import DIGITS, carry_out, finished, plan_of

HEAD = "data: {name: digits}\nreferences: [pca, untrained]\n"
STUDY = """
detectors:
  nearest_neighbour: {}
  untrained: {score: {aggregation: min}}
  puzzle_ae: {model: {base_channels: 4}}
search:
  configurations: 24
  seed: 1
  space:
    untrained.puzzle.grid: {choice: [2, 3]}
    puzzle_ae.train.adversary.epsilon: {uniform: [0.01, 0.2], when: {puzzle_ae.train.adversary.method: [fgsm]}}
    puzzle_ae.score.aggregation: {choice: [min, avg]}
"""


def record_of(best: str, spec: TrialSpec) -> Record:
    """A record by which one detector is better than the others."""
    worth = {"min": 0.71, "avg": 0.72, "max": 0.73}

    def values(reading: Reading) -> dict[str, float]:
        value = worth[reading.aggregation] + 0.2 * (spec.detector == best) + 0.01 * int(spec.task.normal_class)
        return {"selection": value, "auroc": value}

    return finished(spec, values)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["optuna", "random"])
@pytest.mark.parametrize("best", ["nearest_neighbour", "untrained", "puzzle_ae", "pca"])
def test_a_search_tries_every_detector_and_the_best_one_wins_but_no_reference(
    best: str, algorithm: str, tmp_path: Path
) -> None:
    text = HEAD + STUDY.replace("search:", f"search:\n  algorithm: {algorithm}")
    plan = plan_of(tmp_path, text)
    assert carry_out(plan, lambda spec: record_of(best, spec), workers=3, write=True) == 28
    detectors = [planned.settings.detector for planned in plan.configurations]
    assert detectors[:3] == ["nearest_neighbour", "untrained", "puzzle_ae"]
    assert [planned.default for planned in plan.configurations] == [True] * 3 + [False] * 24
    # The nearest neighbour has no axis, and the untrained network one more value: the others have not wasted theirs.
    assert detectors.count("nearest_neighbour") == 1
    assert detectors.count("untrained") == 2
    winner = plan.winner()
    assert winner is not None
    won = {"nearest_neighbour": "avg", "untrained": "min", "puzzle_ae": "avg", "pca": "avg"}
    assert winner[0].settings.detector == (best if best != "pca" else "nearest_neighbour"), "earlier ones win ties"
    assert winner[1].aggregation == won[best]
    rows = summary_rows(plan, training_axes(plan.study))
    assert [row["detector"] for row in rows if "default" in row["label"] and row["may_win"]] == [
        *("nearest_neighbour", "untrained", "puzzle_ae", "puzzle_ae")
    ]
    (reference,) = (row for row in rows if row["role"] == "reference")
    assert (reference["detector"], reference["rank"]) == ("pca", None)
    # What is finished stays so, and the same configurations are asked for again.
    again = plan_of(tmp_path, text)
    assert again.ended()
    assert [planned.values for planned in again.configurations] == [planned.values for planned in plan.configurations]
    write_tables(plan, plan.results)
    trials = plan.results.table(plan.results.trials_file).groupby("detector")
    assert trials["puzzle_ae.train.adversary.epsilon"].nunique().to_dict() == {
        "nearest_neighbour": 0,
        "pca": 0,
        "puzzle_ae": 24,
        "untrained": 0,
    }


def test_without_a_search_each_detector_is_trained_as_it_is_and_a_grid_tries_the_axes_of_each(tmp_path: Path) -> None:
    detectors, _, search = STUDY.partition("search:")
    plan = plan_of(tmp_path, HEAD + detectors + "seeds: [0, 1]\n", DIGITS[3:5])
    each = [(spec.task.normal_class, spec.seed) for spec in plan.configurations[0].trials]
    assert each == [("3", 0), ("3", 1), ("4", 0), ("4", 1)]
    plan = plan_of(tmp_path, HEAD + detectors)
    assert (plan.wanted, carry_out(plan, finished)) == (3, 3 + 1)
    assert [planned.values["detector"] for planned in plan.configurations] == [
        *("nearest_neighbour", "untrained", "puzzle_ae")
    ]
    grid = search.replace("configurations: 24", "algorithm: grid").replace("uniform:", "grid:")
    plan = plan_of(tmp_path, HEAD + detectors + "search:" + grid)
    # ε = 0.01 and 0.2 of Puzzle-AE, a grid of 3 for the untrained network.
    assert (plan.wanted, carry_out(plan, finished)) == (6, 6 + 1)


def test_a_race_is_run_against_another_detector(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, HEAD + STUDY.replace("search:", "search:\n  racing: {}"), DIGITS)
    carry_out(plan, lambda spec: record_of("nearest_neighbour", spec), workers=3)
    assert all("worse than 0 (" in planned.given_up for planned in plan.configurations[7:])


def test_an_untrained_reference_has_the_network_of_the_study_wherever_that_stands(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, HEAD + "detectors: {nearest_neighbour: {}, puzzle_ae: {model: {base_channels: 4}}}\n")
    (untrained,) = (spec for spec in plan.references if spec.detector == "untrained")
    assert own(untrained.settings).model.base_channels == 4


@pytest.mark.parametrize("detectors", ["  nearest_neighbour: {}\n  puzzle_ae: {}\n", "  puzzle_ae: {}\n"])
def test_a_resolved_study_runs_again_as_it_is(detectors: str, tmp_path: Path) -> None:
    space = "puzzle_ae.train.lambda: {uniform: [0, 1]}, puzzle_ae.score.aggregation: {choice: [min, max]}"
    plan = plan_of(tmp_path, f"{HEAD}detectors:\n{detectors}search: {{space: {{{space}}}}}\n")
    again = plan_of(tmp_path, read.dump(plan.study))
    assert again.study == plan.study

    def readings(plan: Plan) -> list[list[Reading]]:
        return [plan.readings(planned) for planned in plan.configurations]

    assert readings(again) == readings(plan)
    assert readings(plan)[-1] == [Reading("l2", "min"), Reading("l2", "max")]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("puzzle_ae.train.lambda: {choice: [0.1, -1]}", "axis `puzzle_ae.train.lambda` .* greater than or equal to 0"),
        ("puzzle_ae.train.lambda: {choice: [0.1], when: {puzzle_ae.puzzle.grid: [5]}}", "puzzle_ae.puzzle.grid"),
        ("detector: {choice: [puzzle_a, pca]}, data.size: {choice: [16]}", "`detector` .*'puzzle_a'.*puzzle_ae"),
        ("puzzle_ae.train.lambda: {choice: [0.1], when: {detector: [nearest]}}", "only with puzzle_ae"),
        ("puzzle_ae.train.lambda: {choice: [0.1], when: {detector: [nearest_neighbour]}}", "only with puzzle_ae"),
        ("train.lambda: {choice: [0.1]}", "not a setting .*puzzle_ae.train.lambda"),
    ],
)
def test_what_cannot_be_searched_of_a_later_detector_is_refused_when_the_file_is_read(
    space: str, said: str, tmp_path: Path
) -> None:
    text = f"{HEAD}detectors: {{nearest_neighbour: {{}}, puzzle_ae: {{}}}}\nsearch: {{space: {{{space}}}}}\n"
    with pytest.raises(UserError, match=f"{said}.*line 4"):
        plan_of(tmp_path, text)
