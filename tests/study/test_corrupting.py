"""The stage of corruptions: who is measured, what a killed stage loses, and the table that its records make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from puzzle_study.config import read
from puzzle_study.corruptions.corrupt import corrupt
from puzzle_study.corruptions.registry import CORRUPTIONS
from puzzle_study.criteria.bank import make_pseudo_anomalies
from puzzle_study.datasets import load_task
from puzzle_study.datasets.subset import chosen_of_each_side
from puzzle_study.detectors.files import load_detector
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import Calibration
from puzzle_study.results import Results
from puzzle_study.statistics import metrics
from puzzle_study.study import corrupting
from puzzle_study.study.engine import make_plan
from puzzle_study.study.plan import Plan
from puzzle_study.trials.run import run as run_trial

CPU = torch.device("cpu")
STUDY = """
name: changed
data: {name: digits, normal_classes: [3], max_train_images: 80, max_test_images: 60}
detectors:
  pca: {}
  nearest_neighbour: {}
references: [one_class_svm]
evaluate: {corrupted: {kinds: [shift, darker], max_images: 20}}
corruptions: {configurations: [default, references], kinds: [shift, dim_lamp], severities: [2, 5], max_images: 40}
"""


def plan_of(folder: Path, text: str = STUDY) -> Plan:
    path = folder / "changed.yaml"
    path.write_text(text, encoding="utf-8")
    return make_plan(read.load(path), Results(folder / "results"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A plan whose trials and units have run."""
    plan = plan_of(tmp_path_factory.mktemp("changed"))
    while (spec := plan.take()) is not None:
        plan.done(spec.key, run_trial(spec, plan.results, device=CPU))
    assert plan.ended()
    for unit in corrupting.left(plan, plan.results):
        unit.run(plan.results, CPU)
    corrupting.write_corruption_table(plan, plan.results)
    return plan


def table(plan: Plan) -> pd.DataFrame:
    return plan.results.table(plan.results.corruptions_file)


def test_every_detector_meets_clean_images_and_every_corruption_at_every_severity(done: Plan) -> None:
    rows = table(done)
    expected = {("none", 0), *((kind, severity) for kind in ("shift", "dim_lamp") for severity in (2, 5))}
    for detector, label in (
        ("pca", "winner;default"),
        ("nearest_neighbour", "default"),
        ("one_class_svm", "reference"),
    ):
        own = rows[rows["detector"] == detector]
        assert set(zip(own["corruption"], own["severity"], strict=True)) == expected
        assert len(own) == len(expected)
        assert set(own["label"]) <= {label, "winner;default", "default"}
    clean = rows[rows["corruption"] == "none"]
    assert clean["value"].isna().all()
    shifted = rows[(rows["corruption"] == "shift") & (rows["severity"] == 5)]
    assert set(shifted["value"]) == {16 * 0.15}
    assert set(shifted["unit"]) == {"pixels"}


def test_a_row_is_what_the_detector_says_of_the_corrupted_images(done: Plan) -> None:
    (trial,) = (spec for spec in done.references if spec.detector == "one_class_svm")
    images, labels = chosen_of_each_side(load_task(trial.settings.data, trial.task), 40)
    detector = load_detector(done.results.detector(trial.key), device=CPU)
    threshold = Calibration.of(detector).threshold(0.05)
    rows = table(done)
    for kind, severity in (("none", 0), ("shift", 2), ("dim_lamp", 5)):
        changed = images if kind == "none" else corrupt(images, kind, severity, seed=0)
        scores = detector(changed / 255).double().numpy()
        (row,) = (
            row
            for row in rows[rows["trial"] == trial.key].to_dict("records")
            if (row["corruption"], row["severity"]) == (kind, severity)
        )
        assert row["auroc"] == pytest.approx(metrics.auroc(scores, labels), abs=1e-3)
        for name, side in (("normal", ~labels.numpy()), ("anomalous", labels.numpy())):
            share = float((scores[side] > threshold).mean())
            assert row[f"flagged_{name}"] == pytest.approx(share, abs=0.03)
            assert row[f"flagged_{name}_low"] <= row[f"flagged_{name}"] <= row[f"flagged_{name}_high"]
            assert row[f"n_{name}"] == side.sum()


def test_the_objectives_of_a_search_hold_corrupted_images_against_corrupted_pseudo_anomalies(done: Plan) -> None:
    (record,) = (record for record in done.records.values() if record.spec.detector == "one_class_svm")
    spec = record.spec
    task = load_task(spec.settings.data, spec.task)
    pseudo = make_pseudo_anomalies(task.validation, seed=spec.settings.data.split_seed).images
    pseudo = pseudo[np.linspace(0, len(pseudo) - 1, 20).round()]
    assert len(task.validation) < 20 == len(pseudo)
    detector = load_detector(done.results.detector(spec.key), device=CPU)
    threshold = Calibration.of(detector).threshold(0.05)
    aurocs, shares = [], []
    for kind in ("shift", "darker"):
        normal, spoiled = (detector(corrupt(images, kind, 2) / 255).numpy() for images in (task.validation, pseudo))
        labels = np.repeat([False, True], [len(normal), len(spoiled)])
        aurocs.append(metrics.auroc(np.concatenate([normal, spoiled]), labels))
        shares.append((normal > threshold).mean())
    reading = spec.settings.own.reading
    assert record.value(reading, "corrupted_selection") == pytest.approx(np.mean(aurocs), abs=0.01)
    assert record.value(reading, "corrupted_fpr") == pytest.approx(np.mean(shares), abs=0.05)
    assert np.mean(shares) > 0.05


def test_what_is_recorded_is_not_run_again_and_an_added_corruption_runs_alone(done: Plan) -> None:
    assert corrupting.left(done, Results(done.results.root)) == []
    (done.results.root / "more").mkdir(exist_ok=True)
    path = done.results.root / "more" / "changed.yaml"
    path.write_text(STUDY.replace("[shift, dim_lamp]", "[shift, dim_lamp, jpeg]"), encoding="utf-8")
    again = make_plan(read.load(path), Results(done.results.root))
    assert again.ended()
    left = corrupting.left(again, again.results)
    assert {unit.corruption for unit in left} == {"jpeg"}
    assert len(left) == 3
    lost = corrupting.corruption_units(done)[0]
    done.results.corruption_file(lost.key).write_text("{", encoding="utf-8")
    assert corrupting.left(done, Results(done.results.root)) == [lost]
    lost.run(done.results, CPU)


def test_all_corruptions_that_fit_are_measured_if_none_is_named(done: Plan, tmp_path: Path) -> None:
    path = tmp_path / "changed.yaml"
    path.write_text(STUDY.replace("kinds: [shift, dim_lamp], ", ""), encoding="utf-8")
    plan = make_plan(read.load(path), Results(done.results.root))
    assert plan.ended()
    kinds = {unit.corruption for unit in corrupting.corruption_units(plan)}
    assert kinds == {"none", *CORRUPTIONS} - {"colour_cast"}


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("severities: [2, 5]", "severities: [2, 6]", r"corruptions\.severities.*less than or equal to 5, got 6"),
        ("severities: [2, 5]", "severities: [2, 2]", r"corruptions\.severities.*twice"),
        ("kinds: [shift, dim_lamp]", "kinds: [shfit]", r"corruptions\.kinds.*did you mean.*shift"),
        ("kinds: [shift, dim_lamp]", "kinds: []", r"corruptions\.kinds.*at least 1"),
        (
            "kinds: [shift, dim_lamp]",
            "kinds: [colour_cast]",
            r"colour_cast needs images with 3 channels, and these have 1.*`corruptions\.kinds`.*line 9",
        ),
        ("kinds: [shift, darker]", "kinds: [colour_cast]", r"colour_cast.*`evaluate\.corrupted\.kinds`.*line 8"),
        ("max_images: 40", "max_images: 1", r"corruptions\.max_images.*2"),
        ("configurations: [default, references]", "configurations: [best]", r"corruptions\.configurations.*'winner'"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_before_anything_runs(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    assert before in STUDY
    path = tmp_path / "changed.yaml"
    path.write_text(STUDY.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(UserError, match=sentence) as refused:
        read.load(path)
    assert "\n" not in str(refused.value)


def test_a_share_of_a_side_that_is_missing_is_left_out() -> None:
    row: dict[str, Any] = corrupting.judged(np.array([0.0, 2.0, 3.0]), np.array([True, True, True]), 1.0)
    assert row["auroc"] is row["flagged_normal"] is row["flagged_normal_low"] is None
    assert row["flagged_anomalous"] == 2 / 3
    assert row["note"] == "no normal test images"
    broken = corrupting.judged(np.array([0.0, np.nan]), np.array([False, True]), 1.0)
    assert broken["auroc"] is broken["flagged_normal"] is broken["flagged_anomalous"] is None
    assert broken["note"] == "scores are not finite"
    assert corrupting.judged(np.empty(0), np.empty(0, dtype=bool), 1.0)["note"] == "no test images"
