"""Folders of the user's own without test images, without anomalies or without normal test images, to the report."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from puzzle_study import attack, score, studyfile, trial, tune
from puzzle_study.errors import UserError
from puzzle_study.reporting import build_report
from puzzle_study.results import Results
from puzzle_study.study import attacking, engine
from puzzle_study.study.gallery import write_gallery
from puzzle_study.study.tables import write_tables
from tests.study.conftest import Tune

CPU = torch.device("cpu")
STUDY = """
name: mine
data: {{name: folder, root: {root}, size: 16}}
model: {{base_channels: 2}}
train: {{epochs: 1, batch_size: 8, precision: float32}}
evaluate: {{every: 1, selection: true, robust: {{epsilon: 0.1, max_images: 4}}}}
seeds: [0, 1]
references: [nearest_neighbour, pca]
search: {{algorithm: grid, space: {{train.lambda: {{grid: [0, 0.02]}}, score.aggregation: {{choice: [min, max]}}}}}}
attacks: {{methods: [fgsm, noise], epsilons: [0.1], target: both, matrix: true, transfer: true}}
"""
PARTS = {
    "no test images": [],
    "no anomalies in the test images": ["good"],
    "no normal test images": ["crack", "hole"],
}


def write_images(folder: Path, count: int, *, seed: int, gray: bool = False) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng([seed, number]).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(np.repeat(pixels[..., :1], 3, axis=-1) if gray else pixels).save(folder / f"{number}.png")


def write_study(folder: Path, kinds: list[str], *, gray: bool = False) -> Path:
    """Write images in the folder ``parts`` and the study file."""
    write_images(folder / "parts" / "train" / "good", 12, seed=0, gray=gray)
    for number, kind in enumerate(kinds):
        write_images(folder / "parts" / "test" / kind, 5, seed=1 + number)
    path = folder / "mine.yaml"
    path.write_text(STUDY.format(root=folder / "parts"), encoding="utf-8")
    return path


def finish(path: Path) -> tuple[Results, str]:
    """Do in this process what a study does with Ray; returns the results and the closing lines."""
    results, said = Results(path.parent / "mine"), StringIO()
    plan = engine.make_plan(studyfile.load(path), results)
    while (spec := plan.take()) is not None:
        plan.done(spec.key, trial.run(spec, results, device=CPU))
    write_tables(plan, results)
    for unit in attacking.attack_units(plan):
        unit.run(results, CPU)
    attacking.write_attack_tables(plan, results)
    winner = plan.winner()
    assert winner is not None
    engine._write_best(plan, results)
    write_gallery(winner[0].trials, winner[1], attacking.example_keys(plan), results, CPU)
    page = build_report(results)
    assert engine._close(plan, results, page, Console(file=said, width=400), 1.0) == 0
    return results, said.getvalue()


@pytest.fixture(params=PARTS)
def finished(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Results, str]:
    """What the test lacks, the results, and what was said at the end."""
    return request.param, *finish(write_study(tmp_path, PARTS[request.param]))


def test_what_is_lacking_stands_where_a_number_would(finished: tuple[str, Results, str]) -> None:
    lacks, results, said = finished
    assert lacks in said
    assert "AUROC" not in said
    assert "nan" not in said
    for path in (results.trials_file, results.summary_file, results.attacks_file):
        table = pd.read_csv(path)
        assert set(table["note"]) == {lacks}, path
        assert table[[name for name in table if name.startswith("auroc")]].isna().all(axis=None), path
    summary = pd.read_csv(results.summary_file)
    assert summary["selection_mean"].notna().all()
    assert (summary["label"].str.contains("winner", na=False)).sum() == 1
    assert pd.read_parquet(results.epochs_file)["selection_max"].notna().all()
    page = (results.report / "index.html").read_text(encoding="utf-8")
    assert f"cannot be measured: {lacks}" in page
    assert ">nan" not in page
    for name in ("ranking", "classes_winner"):
        text = (results.report / "tables" / f"{name}.md").read_text(encoding="utf-8")
        assert text.count(lacks) > 1, name


def test_false_alarms_and_found_anomalies_are_measured_at_the_calibrated_threshold(
    finished: tuple[str, Results, str],
) -> None:
    lacks, results, said = finished
    trials = pd.read_csv(results.trials_file)
    measured = {
        "no test images": [],
        "no anomalies in the test images": ["normal"],
        "no normal test images": ["anomalous"],
    }[lacks]
    for kind in ("normal", "anomalous"):
        assert trials[f"flagged_{kind}_max"].notna().all() == (kind in measured)
        assert (f"% of the {kind} test images are above the threshold for 5 % false alarms" in said) == (
            kind in measured
        )


def test_the_detector_is_in_best_scores_and_has_a_gallery(finished: tuple[str, Results, str], tmp_path: Path) -> None:
    lacks, results, _ = finished
    with np.load(results.gallery_file, allow_pickle=False) as gallery:
        kinds = {kind.partition("_")[2] for kind in gallery["kind"].tolist()}
    assert kinds == {
        "no test images": {"validation"},
        "no anomalies in the test images": {"normal"},
        "no normal test images": {"validation", "anomalous"},
    }[lacks]
    best = results.best / "parts-seed0"
    scored = CliRunner().invoke(score.main, [str(best), str(tmp_path / "parts" / "train")])
    assert scored.exit_code == 0, scored.output
    assert "warning" not in scored.stderr
    attacked = CliRunner().invoke(attack.main, [str(best), "--method", "fgsm", "--epsilon", "0.1"])
    assert attacked.exit_code == 0, attacked.output
    assert f"detector parts-seed0: {lacks}" in attacked.output
    assert "nan" not in attacked.output
