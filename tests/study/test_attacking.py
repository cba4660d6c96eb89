"""The attack stage: who is attacked, what a killed stage loses, and the tables that its records make."""

from __future__ import annotations

import os
import shutil
import sys
import types
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from puzzle_study import config, datasets
from puzzle_study.attacks import running
from puzzle_study.attacks.places.base import score_images
from puzzle_study.attacks.running import run_attacks
from puzzle_study.attacks.specs import attack_spec, attack_specs, fitting
from puzzle_study.config import Reading, read
from puzzle_study.datasets.subset import chosen_images
from puzzle_study.detectors import files, scoring
from puzzle_study.detectors.base import Traits
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.io import write_json
from puzzle_study.results import RECORD_FORMAT, Results
from puzzle_study.statistics import metrics
from puzzle_study.study import attack_units, attacking, engine, stage
from puzzle_study.study.attack_units import MethodUnit, TransferUnit, Unit
from puzzle_study.study.engine import make_plan
from puzzle_study.study.plan import Plan
from puzzle_study.study.storage import Place
from puzzle_study.trials.record import Record
from puzzle_study.trials.run import run as run_trial
from tests.study.conftest import kill, start_process, wait_until

CPU = torch.device("cpu")
ATTACKS = ("attack1", "attack2")
STUDY = """
name: robust
data: {name: digits, normal_classes: [3], max_train_images: 80, max_test_images: 60}
model: {base_channels: 2}
train: {epochs: 1, batch_size: 32, precision: float32}
evaluate: {every: 1, max_images: 20}
references: []
search:
  algorithm: grid
  space:
    train.adversary.epsilon: {grid: [0.02, 0.05]}
    score.aggregation: {choice: [min, avg, max]}
attacks: {configurations: [all, winner], methods: [fgsm, pgd, noise], epsilons: [0.05, 0.1], steps: 2, max_images: 20,
  step_size: 0.25, restarts: 1, convergence: 0, matrix: true, transfer: true}
"""


def plan_of(folder: Path, results: Path, **changes: Any) -> Plan:
    """The plan of the study, with changes in its section attacks."""
    path = folder / "robust.yaml"
    path.write_text(STUDY, encoding="utf-8")
    file = read.load(path)
    assert file.study.attacks is not None
    attacks = type(file.study.attacks).model_validate(file.study.attacks.model_dump() | changes)
    return make_plan(replace(file, study=file.study.model_copy(update={"attacks": attacks})), Results(results))


def complete(plan: Plan, worth: dict[int, dict[str, float]] | None = None) -> Plan:
    """Run a plan's trials, or pretend that each configuration, by number, is worth what is given."""
    while (spec := plan.take()) is not None:
        if worth is None:
            record = run_trial(spec, plan.results, device=CPU)
        else:
            number = next(one.number for one in plan.configurations if spec in one.trials)
            metrics = {name: {"selection": value, "auroc": value} for name, value in worth.get(number, {}).items()}
            record = Record(spec, "finished" if number in worth else "failed", metrics={"l2": metrics})
        plan.done(spec.key, record)
    assert plan.ended()
    return plan


def run(units: list[Unit], results: Results) -> int:
    """Run what has no record; returns how many that were."""
    waiting = [unit for unit in units if results.attack_record(unit.key) is None]
    for unit in waiting:
        unit.run(results, CPU)
    return len(waiting)


def rows_of(unit: Unit, results: Results) -> list[dict[str, Any]]:
    """Run a unit and return the rows of its record."""
    unit.run(results, CPU)
    record = results.attack_record(unit.key)
    assert record is not None
    found: list[dict[str, Any]] = record["rows"]
    return found


WORTH = {
    0: {"min": 0.5, "avg": 0.6, "max": 0.7},
    1: {"min": 0.9, "avg": 0.8, "max": 0.7},
    2: {"min": 0.1, "avg": 0.8, "max": 0.2},
}
DEFAULT_WINS = {0: {"min": 0.1, "avg": 0.2, "max": 0.9}, 1: {"min": 0.1, "avg": 0.9, "max": 0.9}}


@pytest.mark.parametrize(
    ("configurations", "top", "worth", "expected"),
    [
        (["winner"], None, WORTH, ["winner 1 min"]),
        (["winner", "default"], None, WORTH, ["winner 1 min", "default 0 max"]),
        (["default", "default"], None, WORTH, ["default 0 max"]),
        (["all"], None, WORTH, ["default 0 max", " 1 max", " 2 max"]),
        (["winner", "all"], None, WORTH, ["winner 1 min", "default 0 max", " 1 max", " 2 max"]),
        (["default"], 2, WORTH, ["default 0 max", "winner 1 min", " 2 avg"]),
        # The default is the last of the three, under the reading that it is attacked under anyway.
        (["default"], 9, WORTH, ["default 0 max", "winner 1 min", " 2 avg"]),
        (["winner", "default", "all"], 1, DEFAULT_WINS, ["winner;default 0 max", " 1 max"]),
        (["winner", "default"], 3, {2: WORTH[2]}, ["winner 2 avg"]),
        (["all"], 3, {}, []),
    ],
)
def test_who_is_attacked_and_under_which_reading(
    tmp_path: Path, configurations: list[str], top: int | None, worth: dict[int, dict[str, float]], expected: list[str]
) -> None:
    plan = complete(plan_of(tmp_path, tmp_path / "results", configurations=configurations, top=top), worth)
    numbers = {planned.configuration: planned.number for planned in plan.configurations}
    found = [f"{one.label} {numbers[one.configuration]} {one.reading.aggregation}" for one in attacking.victims(plan)]
    assert found == expected
    keys = [unit.key for unit in attacking.attack_units(plan)]
    assert len(keys) == len(set(keys))


def test_a_unit_is_one_method_and_random_signs_are_drawn_once(tmp_path: Path) -> None:
    worth = {0: WORTH[0]}
    for methods, restarts, expected in (
        (("pgd", "noise"), 1, ["attack1 pgd", "attack1 noise", "attack2 pgd"]),
        # The control is one draw; with restarts the study's own noise is another.
        (("pgd", "noise"), 2, ["attack1 pgd", "attack1 noise", "attack2 pgd", "attack1 noise"]),
        (("pgd",), 1, ["attack1 pgd", "attack2 pgd", "attack1 noise"]),
    ):
        changes = {"configurations": ["default"], "matrix": False, "methods": methods, "restarts": restarts}
        units = attacking.attack_units(complete(plan_of(tmp_path, tmp_path / "results", **changes), worth))
        assert all(isinstance(unit, MethodUnit) for unit in units)
        found = [unit for unit in units if isinstance(unit, MethodUnit)]
        assert [f"{unit.specs[0].attack} {unit.specs[0].method}" for unit in found] == expected
        assert all([spec.epsilon for spec in unit.specs] == [0.05, 0.1] for unit in found)


def test_a_detector_without_gradients_meets_only_what_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DETECTORS["pca"], "traits", Traits(differentiable=False))
    path = tmp_path / "mixed.yaml"
    path.write_text(
        "detectors: {puzzle_ae: {}, pca: {}}\ndata: {name: digits, normal_classes: [3]}\nreferences: []\n"
        "attacks: {configurations: [default], methods: [fgsm, square, noise], restarts: 1, transfer: true}\n",
        encoding="utf-8",
    )
    plan = make_plan(read.load(path), Results(tmp_path / "results"))
    while (spec := plan.take()) is not None:
        own = spec.settings.own.reading
        plan.done(spec.key, Record(spec, "finished", metrics={own.error: {own.aggregation: {"selection": 0.5}}}))
    units = [unit for unit in attacking.attack_units(plan) if unit.trial.detector == "pca"]
    assert [unit.specs[0].method for unit in units if isinstance(unit, TransferUnit)] == ["square"]
    found = [unit.specs[0] for unit in units if isinstance(unit, MethodUnit)]
    assert [(spec.attack, spec.method) for spec in found] == [("attack1", "square"), ("attack1", "noise")]


@pytest.mark.parametrize("name", ["matrix", "transfer", "smallest"])
def test_noise_alone_makes_no_matrix_and_no_transfer(tmp_path: Path, name: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"data: {{name: digits}}\nattacks: {{methods: [noise], {name}: true}}\n", encoding="utf-8")
    with pytest.raises(UserError, match="transfer and smallest need a method besides noise"):
        read.load(path)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A study of three configurations, trained for real and attacked within this process."""
    folder = tmp_path_factory.mktemp("attacked")
    plan = complete(plan_of(folder, folder / "results"))
    units = attacking.attack_units(plan)
    assert run(units, plan.results) == len(units)
    attacking.write_attack_tables(plan, plan.results)
    return plan


@pytest.fixture
def copied(attacked: Plan, tmp_path: Path) -> Results:
    """A copy of its results that a test may change."""
    return Results(Path(shutil.copytree(attacked.results.root, tmp_path / "results")))


@pytest.fixture
def detectors(attacked: Plan, tmp_path: Path) -> Results:
    """Its trained detectors alone."""
    return Results(Path(shutil.copytree(attacked.results.root / "detectors", tmp_path / "results/detectors")).parent)


def table(plan: Plan, name: str = "attacks_file") -> pd.DataFrame:
    frame = plan.results.table(getattr(plan.results, name))
    return frame.drop(columns="seconds") if "seconds" in frame else frame


def test_every_configuration_is_attacked_by_every_method(attacked: Plan) -> None:
    attacks = table(attacked)
    assert set(attacks["configuration"]) == {planned.configuration for planned in attacked.configurations}
    winner = attacked.winner()
    assert winner is not None
    for _, rows in attacks.groupby(["configuration", "aggregation"]):
        found = list(zip(rows["attack"], rows["method"], rows["epsilon"], strict=True))
        assert found == [
            (attack, method, epsilon)
            for attack in ATTACKS
            for method in ("fgsm", "pgd", "noise")
            for epsilon in (0.05, 0.1)
        ]
    own = attacks["label"].str.contains("winner")
    assert set(attacks.loc[own, "configuration"]) == {winner[0].configuration}
    assert set(attacks.loc[own, "aggregation"]) == {winner[1].aggregation}
    assert set(attacks.loc[~own, "aggregation"]) <= {attacked.study.settings().own.reading.aggregation}
    assert (attacks["max_perturbation"] <= attacks["epsilon"] + 1e-6).all()


def test_all_configurations_are_attacked_on_the_same_images_and_compared_with_them_clean(attacked: Plan) -> None:
    spec = attacked.configurations[0].trials[0]
    task = datasets.load_task(spec.settings.data, spec.task)
    images, labels = chosen_images(task, 20)
    index = datasets.stratified(task.test_classes, 20, seed=0)
    assert torch.equal(images, task.test[index])
    # Every class is there, in about the proportion of the whole.
    assert len(images) == 20
    assert {task.test_classes[i] for i in index} == set(task.test_classes)
    assert abs(float(labels.float().mean() - task.labels.float().mean())) < 0.1
    attacks = table(attacked)
    assert set(attacks["images"]) == {int((~labels).sum())}
    for (key, aggregation), rows in attacks.groupby(["trial", "aggregation"]):
        arrays = attacked.results.errors(str(key))
        scores = scoring.scores(
            torch.from_numpy(arrays["test"][index]),
            torch.from_numpy(arrays["validation"]),
            Reading("l2", str(aggregation)),
        )
        clean = metrics.auroc(scores.numpy(), labels.numpy())
        np.testing.assert_allclose(rows["auroc_clean"], clean, rtol=0, atol=1e-9)
    kept = []
    for unit in attacking.attack_units(attacked):
        if isinstance(unit, MethodUnit):
            with np.load(attacked.results.attack_file(unit.key).with_suffix(".npz")) as archive:
                kept.append(archive["attacked_original"])
    assert len(kept) > 10
    normal = images[~labels][: attack_units.EXAMPLES].numpy()
    assert all(np.array_equal(originals, normal) for originals in kept)


def test_units_of_one_detector_score_its_clean_images_once(
    attacked: Plan, copied: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []

    def count(detector: Any, images: torch.Tensor, **options: Any) -> torch.Tensor:
        scored.append(len(images))
        return score_images(detector, images, **options)

    monkeypatch.setattr(running, "score_images", count)
    monkeypatch.setattr(attack_units, "LAST_CLEAN", {})
    units = [unit for unit in attacking.attack_units(attacked) if isinstance(unit, MethodUnit)]
    trials = sorted({unit.trial.key for unit in units})
    assert len(trials) > 1
    for key in (*trials, trials[0]):
        scored.clear()
        for unit in (unit for unit in units if unit.trial.key == key):
            kept = attacked.results.attack_record(unit.key)
            assert kept is not None
            for row, before in zip(rows_of(unit, copied), kept["rows"], strict=True):
                assert row | {"seconds": 0} == before | {"seconds": 0}
        readings = {unit.reading for unit in units if unit.trial.key == key}
        assert scored == [20] * len(readings)


def test_flags_of_a_table_are_those_of_one_run_with_every_method(attacked: Plan) -> None:
    attacks = attacked.study.attacks
    assert attacks is not None
    spec = attacked.configurations[0].trials[0]
    task = datasets.load_task(spec.settings.data, spec.task)
    images, labels = chosen_images(task, attacks.max_images)
    detector = files.load_detector(attacked.results.detector(spec.key), device=CPU)
    validation = detector.scores(detector.validation_NK)
    whole = run_attacks(detector, images, labels, validation, attack_specs(attacks))
    rows = table(attacked)
    rows = rows[(rows["trial"] == spec.key) & (rows["aggregation"] == detector.reading.aggregation)]
    assert list(rows["flags"]) == [";".join(result.flags) for result in whole]
    assert list(rows["strength"]) == pytest.approx([result.strength for result in whole], rel=1e-12)
    assert rows["flags"].str.contains("not_monotone|weaker_than_noise").any(), "no flag that takes a comparison"


def test_flags_compare_records(tmp_path: Path) -> None:
    changes = {"configurations": ["default"], "matrix": False, "transfer": False, "attacks": ATTACKS}
    plan = complete(plan_of(tmp_path, tmp_path / "results", **changes), {0: WORTH[0]})
    strengths = {"attack1 fgsm": (3.0, 2.0), "attack1 pgd": (2.5, 3.0), "attack1 noise": (1.0, 1.5)}
    for unit in attacking.attack_units(plan):
        assert isinstance(unit, MethodUnit)
        rows = [
            {
                "attack": spec.attack,
                "method": spec.method,
                "epsilon": spec.epsilon,
                "strength": strengths.get(f"{spec.attack} {spec.method}", (0.9, 0.9))[number],
                "flags": "undone_by_rounding" if spec.method == "noise" else "",
            }
            for number, spec in enumerate(unit.specs)
        ]
        write_json(plan.results.attack_file(unit.key), {"format": RECORD_FORMAT, "rows": rows})
    found = {
        (row["attack"], row["method"], row["epsilon"]): row["flags"]
        for row in attacking.attack_rows(plan, plan.results)
    }
    assert found == {
        ("attack1", "fgsm", 0.05): "",
        ("attack1", "fgsm", 0.1): "not_monotone_epsilon",
        ("attack1", "pgd", 0.05): "not_monotone_steps",
        ("attack1", "pgd", 0.1): "",
        **{(name, "noise", epsilon): "undone_by_rounding" for name in ATTACKS for epsilon in (0.05, 0.1)},
        **{("attack2", name, epsilon): "weaker_than_noise" for name in ("fgsm", "pgd") for epsilon in (0.05, 0.1)},
    }


def test_a_killed_stage_loses_one_method(attacked: Plan, copied: Results) -> None:
    results = copied
    again = Plan(attacked.file, attacked.tasks, attacked.fingerprint, results)
    again.records = dict(attacked.records)
    assert again.ended()
    units = attacking.attack_units(again)
    assert run(units, results) == 0
    before = {path: path.stat().st_mtime_ns for path in (results.root / "attacks").glob("*.json")}
    lost: list[Unit] = [
        next(unit for unit in units if isinstance(unit, MethodUnit) and unit.specs[0].method == "pgd"),
        next(unit for unit in units if isinstance(unit, attack_units.MatrixUnit)),
        next(unit for unit in units if isinstance(unit, TransferUnit)),
    ]
    results.attack_file(lost[0].key).unlink()
    results.attack_file(lost[1].key).write_text('{"format": 1, "rows": [', encoding="utf-8")
    results.attack_file(lost[2].key).unlink()
    results = Results(results.root)
    attacking.write_attack_tables(again, results)
    assert len(table(again)) == len(table(attacked)) - 2
    assert run(units, results) == 3
    attacking.write_attack_tables(again, results)
    for name in ("attacks_file", "matrix_file", "transfer_file"):
        pd.testing.assert_frame_equal(table(again, name), table(attacked, name), check_exact=True, obj=name)
    touched = {path for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert touched == {results.attack_file(unit.key) for unit in lost}


def test_the_matrix_is_adaptive_on_its_diagonal(attacked: Plan) -> None:
    matrix, attacks = table(attacked, "matrix_file"), table(attacked)
    assert len(matrix) == 9 * len(attacked.configurations)
    assert (matrix[["attack", "method", "epsilon"]] == ["attack1", "fgsm", 0.1]).all(axis=None)
    assert set(matrix["label"].str.split(";").explode()) == {"winner", "default", ""}
    same = attacks[(attacks["attack"] == "attack1") & (attacks["method"] == "fgsm") & (attacks["epsilon"] == 0.1)]
    diagonal = matrix[matrix["attacked_aggregation"] == matrix["scoring_aggregation"]]
    both = same.merge(
        diagonal, left_on=["trial", "aggregation"], right_on=["trial", "scoring_aggregation"], suffixes=("", "_matrix")
    )
    assert len(both) == len(same)
    for name in ("auroc", "auroc_low", "auroc_high", "auroc_clean", "fpr_at_tpr99", "images"):
        np.testing.assert_allclose(both[name], both[f"{name}_matrix"], rtol=0, atol=1e-6)


def test_transfer_pairs_each_attacked_configuration_with_each_other(attacked: Plan) -> None:
    transfer, attacks = table(attacked, "transfer_file"), table(attacked)
    victims = attacking.victims(attacked)
    pairs = [
        (one.configuration, one.reading.aggregation, other.configuration, other.reading.aggregation)
        for one in victims
        for other in victims
        if one is other or one.configuration != other.configuration
    ]
    names = ["source_configuration", "source_aggregation", "configuration", "aggregation"]
    assert sorted(transfer[names].itertuples(index=False, name=None)) == sorted(pairs)
    assert transfer["normal_class"].eq("3").all()
    # A detector against itself is the attack of attacks.csv, and clean numbers are the target's.
    own = transfer[transfer["source_trial"] == transfer["trial"]]
    same = attacks[(attacks["attack"] == "attack1") & (attacks["method"] == "fgsm") & (attacks["epsilon"] == 0.1)]
    both = own.merge(same, on=["trial", "aggregation"], suffixes=("", "_own"))
    assert len(both) == len(own)
    np.testing.assert_allclose(both["auroc"], both["auroc_own"], rtol=0, atol=1e-6)
    clean = transfer.groupby(["trial", "aggregation"])["auroc_clean"].nunique()
    assert (clean == 1).all()


def test_a_study_asks_for_what_its_numbers_are_worth(attacked: Plan, copied: Results, tmp_path: Path) -> None:
    changes = {"configurations": ["default"], "matrix": False, "transfer": False, "methods": ("pgd",), "keep": "all"}
    more = {"epsilons": (0.1,), "max_images": 6, "balanced": True, "convergence": 1, "smallest": True, "target": "both"}
    plan = plan_of(tmp_path, copied.root, **changes, **more, certify={"sigma": 0.1, "samples": 50, "alpha": 0.1})
    assert plan.ended()
    units = attacking.attack_units(plan)
    kinds = [unit.kind for unit in units]
    assert kinds == ["method"] * 3 + ["convergence", "smallest", "certified"]
    run(units, copied)
    attacking.write_attack_tables(plan, copied)
    (pgd,) = table(plan).query("attack == 'attack1'").to_dict("records")
    assert pgd["subset_images"] == 2
    assert pgd["subset_auroc_strongest"] <= pgd["subset_auroc"]
    assert all(0 <= pgd[name] <= 1 for name in ("flagged_normal", "flagged_anomalous", "flagged_normal_clean"))
    smallest = copied.table(copied.smallest_file)
    assert sorted(smallest["anomalous"]) == [False] * 3 + [True] * 3
    above = smallest["score"] > smallest["threshold"]
    # What is on the wrong side already needs no ε.
    assert ((smallest["epsilon_image"] == 0) == (above != smallest["anomalous"])).all()
    certified = copied.table(copied.certified_file)
    assert list(certified["auroc"]) == sorted(certified["auroc"], reverse=True)
    with np.load(copied.attacked_images_file(units[0].key)) as archive:
        kept = dict(archive)
    detector = files.load_detector(copied.detector(units[0].trial.key), device=CPU).read_by(units[0].reading)
    assert kept["perturbed"].dtype == np.float32
    again = detector.scores(detector.error_matrix(torch.from_numpy(kept["perturbed"][0])))
    np.testing.assert_allclose(again, kept["scores"][0][kept["attacked"]], rtol=1e-5)
    for name in ("smallest_file", "certified_file"):
        assert getattr(copied, name).exists()
    fewer = plan_of(tmp_path, copied.root, **changes)
    assert fewer.ended()
    attacking.write_attack_tables(fewer, copied)
    assert not copied.smallest_file.exists()


def test_references_are_attacked_like_everything_else(tmp_path: Path) -> None:
    path = tmp_path / "robust.yaml"
    text = STUDY.replace("references: []", "references: [pca, nearest_neighbour]").replace("all, winner", "default")
    path.write_text(text.replace("[default]", "[default, references]"), encoding="utf-8")
    plan = make_plan(read.load(path), Results(tmp_path / "results"))
    while (spec := plan.take()) is not None:
        own = spec.settings.own.reading
        failed = spec.detector == "nearest_neighbour"
        metrics = {own.error: {name: {"selection": 0.5} for name in ("min", "avg", "max")}}
        plan.done(spec.key, Record(spec, "failed" if failed else "finished", metrics=metrics))
    found = attacking.victims(plan)
    assert [(victim.label, victim.trials[0].detector) for victim in found] == [
        ("default", "puzzle_ae"),
        ("reference", "pca"),
    ]
    units = [unit for unit in attacking.attack_units(plan) if unit.trial.detector == "pca"]
    assert {unit.kind for unit in units} == {"method", "transfer"}
    # A reference has one seed: it stands beside each of the others'.
    (transfer,) = (unit for unit in units if isinstance(unit, TransferUnit))
    assert [trial.detector for trial, _ in transfer.targets] == ["puzzle_ae", "pca"]


def test_a_detector_that_no_method_fits_is_attacked_by_random_search() -> None:
    blind = Traits(differentiable=False)
    attacks = config.Attacks.model_validate({"methods": ["apgd", "noise"], "epsilons": [0.1], "queries": 5})
    found = [(spec.attack, spec.method, spec.steps) for spec in fitting(attacks, blind)]
    assert found == [("attack1", "square", 5), ("attack1", "noise", 1)]
    noise = config.Attacks.model_validate({"methods": ["noise"], "epsilons": [0.1]})
    assert {spec.method for spec in fitting(noise, blind)} == {"noise"}


@pytest.mark.parametrize(("most", "expected"), [(None, 9), (8, 4), (3, 1), (40, 9)])
def test_balanced_images_are_as_many_of_each_side(attacked: Plan, most: int | None, expected: int) -> None:
    spec = attacked.configurations[0].trials[0]
    task = datasets.load_task(spec.settings.data, spec.task)
    few = replace(task, test=task.test[:30], labels=torch.arange(30) >= 9, test_classes=task.test_classes[:30])
    images, labels = chosen_images(few, most, balanced=True)
    assert len(images) == len(labels) == 2 * expected
    assert int(labels.sum()) == expected
    one_side = replace(few, labels=torch.zeros(30, dtype=torch.bool))
    assert len(chosen_images(one_side, most, balanced=True)[0]) == min(most or 30, 30)


def test_one_configuration_transfers_to_nobody(attacked: Plan, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, attacked.results.root, configurations=["default"])
    assert plan.ended()
    assert not any(isinstance(unit, TransferUnit) for unit in attacking.attack_units(plan))


def test_detectors_of_other_images_are_left_out_of_transfer(attacked: Plan, detectors: Results) -> None:
    source = attacked.configurations[0].trials[0]
    data = source.settings.data.model_copy(update={"max_test_images": 40})
    other = replace(source, settings=source.settings.model_copy(update={"data": data}))
    reading = Reading("l2", "avg")
    targets = ((source, reading), (other, reading))
    unit = TransferUnit(source, reading, (attack_spec("attack1", "fgsm", epsilon=0.1),), None, targets)
    rows = rows_of(unit, detectors)
    assert rows[0]["auroc"] is not None
    assert rows[1] == {}


def test_tables_that_are_no_longer_asked_for_go_and_nothing_is_attacked_again(
    attacked: Plan, copied: Results, tmp_path: Path
) -> None:
    results = copied
    fewer = plan_of(tmp_path, results.root, matrix=False, transfer=False, methods=("fgsm",))
    assert fewer.ended()
    assert run(attacking.attack_units(fewer), results) == 0
    attacking.write_attack_tables(fewer, results)
    # The noise is not shown, and still what an attack is held to.
    whole = table(attacked)
    pd.testing.assert_frame_equal(table(fewer), whole[whole["method"] == "fgsm"].reset_index(drop=True))
    assert not results.matrix_file.exists()
    assert not results.transfer_file.exists()


def test_images_of_one_kind_have_no_auroc(attacked: Plan, detectors: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    def normal_only(task: datasets.Task, max_images: int | None, **_: bool) -> tuple[torch.Tensor, torch.Tensor]:
        return task.test[~task.labels][:3], torch.zeros(3, dtype=torch.bool)

    monkeypatch.setattr(attack_units, "chosen_images", normal_only)
    spec = attack_spec("attack1", "fgsm", epsilon=0.1)
    unit = MethodUnit(attacked.configurations[0].trials[0], Reading("l2", "avg"), (spec,), None)
    (row,) = rows_of(unit, detectors)
    assert row["auroc"] is None
    assert row["images"] == 3


def test_a_study_that_goes_on_builds_one_plan_and_reads_each_attack_record_once(
    attacked: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(attacked.results.root, tmp_path / "robust")
    plans, read_text, reads = list[Plan](), Path.read_text, Counter[str]()

    def plan_built(*arguments: Any) -> Plan:
        plans.append(Plan(*arguments))
        return plans[-1]

    def text_read(self: Path, *arguments: Any, **named: Any) -> str:
        reads[self.name] += self.parent.name == "attacks"
        return read_text(self, *arguments, **named)

    monkeypatch.setattr(engine, "Plan", plan_built)
    monkeypatch.setattr(Path, "read_text", text_read)
    assert engine.run_study(attacked.file, tmp_path, resume=False, console=Console(file=StringIO())) == 0
    assert len(plans) == 1
    assert {name: count for name, count in reads.items() if count} == {
        f"{unit.key}.json": 1 for unit in attacking.attack_units(attacked)
    }


def test_a_unit_that_holds_no_gpu_is_run_on_the_cpu_of_a_machine_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(stage, "claim_cpus", lambda cpus: None)
    devices: list[torch.device] = []
    monkeypatch.setattr(stage, "check_images", lambda images, fingerprint: None)
    trial = types.SimpleNamespace(fingerprint="")
    unit: Any = types.SimpleNamespace(trial=trial, run=lambda results, device: devices.append(device))
    images = config.Data(name="digits")
    stage.Worker(Place.of(Results(tmp_path), None), config.Resources(gpu=0.0), images).run(unit)
    assert devices == [CPU]


STAGE = """
import sys
from pathlib import Path

from rich.console import Console

from puzzle_study.config import read
from puzzle_study.results import Results
from puzzle_study.study import attacking
from puzzle_study.study.ray.cluster import local_ray
from puzzle_study.study.engine import make_plan
from puzzle_study.study.progress import StageProgress
from puzzle_study.study.storage import Place

plan = make_plan(read.load(Path(sys.argv[1])), Results(Path(sys.argv[2])))
assert plan.ended()
units = attacking.attack_units(plan)
with local_ray(plan.study.resources):
    progress = StageProgress("attacks", len(units), console=Console())
    attacking.run_attack_stage(units, plan.study, plan.results, Place.of(plan.results, None), progress)
"""


@pytest.mark.slow
def test_a_killed_stage_on_ray_goes_on_where_it_stopped(attacked: Plan, tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    shutil.copytree(attacked.results.root, results.root, ignore=shutil.ignore_patterns("attacks*"))
    again = plan_of(tmp_path, results.root)
    assert again.ended()
    command = [sys.executable, "-c", STAGE, str(tmp_path / "robust.yaml"), str(results.root)]
    process = start_process(command, os.environ)
    wait_until(lambda: any(results.root.glob("attacks/*.json")), process)
    kill(process)
    kept = {path: path.stat().st_mtime_ns for path in results.root.glob("attacks/*.json")}
    units = attacking.attack_units(again)
    assert 0 < len(kept) < len(units)
    assert 0 < run(units, results) <= len(units) - len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    attacking.write_attack_tables(again, results)
    for name in ("attacks_file", "matrix_file", "transfer_file"):
        pd.testing.assert_frame_equal(table(again, name), table(attacked, name), obj=name)
