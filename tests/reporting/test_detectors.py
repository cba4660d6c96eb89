"""The section that holds detectors beside each other."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from puzzle_study.config import read
from puzzle_study.reporting.blocks import Figure, Section, Table
from puzzle_study.reporting.reading import load
from puzzle_study.reporting.sections import cost, detectors, robustness
from puzzle_study.results import Results
from puzzle_study.study import attacking, engine
from puzzle_study.trials import run as trials

from .synthetic import write_study

STUDY = """
name: rivals
data: {name: digits, normal_classes: [3, 8], max_train_images: 40, max_test_images: 40}
detectors:
  pca: {}
  nearest_neighbour: {}
references: [one_class_svm]
attacks: {configurations: [all], methods: [fgsm, noise], epsilons: [0.03, 0.2], max_images: 10}
"""


@pytest.fixture(scope="module")
def rivals(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A finished study of two detectors and a reference, which trained within this process."""
    folder = tmp_path_factory.mktemp("rivals")
    (folder / "rivals.yaml").write_text(STUDY, encoding="utf-8")
    file, results = read.load(folder / "rivals.yaml"), Results(folder / "rivals")
    plan = engine.make_plan(file, results)
    cpu = torch.device("cpu")
    while (spec := plan.take()) is not None:
        plan.done(spec.key, trials.run(spec, results, device=cpu))
    for unit in attacking.attack_units(plan):
        unit.run(results, cpu)
    assert engine.run_study(file, folder, resume=False, console=Console(file=StringIO())) == 0
    return results


@pytest.fixture(scope="module")
def built(rivals: Results) -> Section:
    return detectors.build(load(rivals))


def test_every_detector_has_a_row_with_its_auroc_and_what_an_attack_leaves(rivals: Results, built: Section) -> None:
    table = next(block for block in built.blocks if isinstance(block, Table) and block.name == "detectors")
    shown = {row[0].text: dict(zip([column.key for column in table.columns], row, strict=True)) for row in table.rows}
    assert set(shown) == {"PCA", "nearest neighbour", "one-class SVM"}
    summary = pd.read_csv(rivals.summary_file).set_index("detector")
    attacks = pd.read_csv(rivals.attacks_file)
    for name, title in (("pca", "PCA"), ("nearest_neighbour", "nearest neighbour")):
        assert shown[title]["auroc"].value == pytest.approx(summary.loc[name, "auroc_mean"])
        assert float(str(shown[title]["milliseconds"].value)) > 0
        own = attacks[(attacks["configuration"] == summary.loc[name, "configuration"]) & (attacks["method"] == "fgsm")]
        left = own[(own["attack"] == "attack1") & (own["epsilon"] == 0.03)]["auroc"].mean()
        assert shown[title]["attacked"].value == pytest.approx(left)
    assert shown["one-class SVM"]["attacked"].value is None


def test_auroc_is_drawn_against_time_and_against_what_an_attack_leaves(built: Section) -> None:
    figures = {block.name: block for block in built.blocks if isinstance(block, Figure)}
    assert set(figures) == {"detectors_speed", "detectors_robustness"}
    assert "3 detectors" in figures["detectors_speed"].alt
    assert "2 detectors" in figures["detectors_robustness"].alt


def test_the_classes_stand_below_each_other(built: Section) -> None:
    table = next(block for block in built.blocks if isinstance(block, Table) and block.name == "detector_classes")
    assert [row[0].text for row in table.rows] == ["3", "8"]
    assert all(isinstance(cell.value, float) for row in table.rows for cell in row[1:])


def test_an_attacked_configuration_is_called_after_its_detector(rivals: Results) -> None:
    labels = {cell.label for cell in robustness.cells(load(rivals))}
    assert {label.partition(",")[0] for label in labels} == {"PCA", "nearest neighbour"}


def test_the_cost_of_each_detector_is_told_apart(rivals: Results) -> None:
    table = next(block for block in cost.build(load(rivals)).blocks if isinstance(block, Table))
    assert {"all of PCA", "all of nearest neighbour"} <= {row[0].text for row in table.rows}


def test_a_study_of_one_detector_has_no_such_section(tmp_path: Path) -> None:
    assert detectors.build(load(write_study(tmp_path))).blocks == ()
