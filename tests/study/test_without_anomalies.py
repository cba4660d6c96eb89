"""Folders of the user's own without test images, without anomalies or without normal test images, to the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from puzzle_study import attack, score, tune
from puzzle_study.results import Results
from tests.study.conftest import finish_here

STUDY = """
name: mine
data: {{name: folder, root: {root}, size: 16}}
model: {{base_channels: 1}}
train: {{epochs: 1, batch_size: 8, precision: float32, lambda: 0, adversary: {{method: none}}}}
evaluate: {{every: 1, selection: true, robust: {{epsilon: 0.1, max_images: 4}}}}
seeds: [0, 1]
references: [pca]
search: {{algorithm: grid, space: {{model.base_channels: {{grid: [2]}}, score.aggregation: {{choice: [min, max]}}}}}}
attacks: {{methods: [fgsm, noise], epsilons: [0.1], target: both, matrix: true, transfer: true}}
"""
PARTS = {
    "no test images": [],
    "no anomalies in the test images": ["good"],
    "no normal test images": ["crack", "hole"],
}
MEASURED = dict(zip(PARTS, ("", "normal", "anomalous"), strict=True))
SHOWN = dict(zip(PARTS, ({"validation"}, {"normal"}, {"validation", "anomalous"}), strict=True))


def write_study(folder: Path, kinds: list[str]) -> Path:
    """Write images in the folder ``parts``, gray but stored as RGB, and the study file."""
    for place, count in (("train/good", 12), *((f"test/{kind}", 5) for kind in kinds)):
        (folder / "parts" / place).mkdir(parents=True)
        for number in range(count):
            gray = np.random.default_rng([len(place), number]).integers(0, 256, (20, 24), dtype=np.uint8)
            Image.fromarray(gray).convert("RGB").save(folder / "parts" / place / f"{number}.png")
    path = folder / "mine.yaml"
    path.write_text(STUDY.format(root=folder / "parts"), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=PARTS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Results, str]:
    """What the test lacks, the results, and what was said."""
    folder = tmp_path_factory.mktemp("plain")
    return request.param, *finish_here(write_study(folder, PARTS[request.param]), folder)


def test_what_is_lacking_stands_where_a_number_would(finished: tuple[str, Results, str]) -> None:
    lacks, results, said = finished
    assert lacks in said
    assert "test AUROC" not in said
    assert "nan" not in said
    for path in (results.trials_file, results.summary_file, results.attacks_file):
        table = pd.read_csv(path)
        assert set(table["note"]) == {lacks}, path
        assert table[[name for name in table if str(name).startswith("auroc")]].isna().all(axis=None), path
    summary = pd.read_csv(results.summary_file)
    assert summary["selection_mean"].notna().all()
    assert (summary["label"].str.contains("winner", na=False)).sum() == 1
    assert pd.read_parquet(results.epochs_file)["selection_max"].notna().all()
    page = (results.report / "index.html").read_text(encoding="utf-8")
    assert f"cannot be measured: {lacks}" in page
    assert ">nan" not in page
    assert f"There is no test AUROC by class: {lacks}." in page
    assert "no labels" in page
    assert (results.report / "tables" / "ranking.md").read_text(encoding="utf-8").count(lacks) > 1


def test_false_alarms_and_found_anomalies_are_measured_at_the_calibrated_threshold(
    finished: tuple[str, Results, str],
) -> None:
    lacks, results, said = finished
    trials = pd.read_csv(results.trials_file)
    for kind in ("normal", "anomalous"):
        measured = kind == MEASURED[lacks]
        assert trials[f"flagged_{kind}_max"].notna().all() == measured
        assert (f"% of the {kind} test images are above the threshold for 5 % false alarms" in said) == measured


def test_the_detector_is_in_best_scores_and_has_a_gallery(finished: tuple[str, Results, str]) -> None:
    lacks, results, _ = finished
    with np.load(results.gallery_file, allow_pickle=False) as gallery:
        kinds = {kind.partition("_")[2] for kind in gallery["kind"].tolist()}
    assert kinds == SHOWN[lacks]
    best = results.best / "parts-seed0"
    scored = CliRunner().invoke(score.main, [str(best), str(results.root.parent / "parts" / "train")])
    assert scored.exit_code == 0, scored.output
    assert "warning" not in scored.stderr
    attacked = CliRunner().invoke(attack.main, [str(best), "--method", "fgsm", "--epsilon", "0.1"])
    assert attacked.exit_code == 0, attacked.output
    assert f"detector parts-seed0: {lacks}" in " ".join(attacked.output.split())
    assert "nan" not in attacked.output


@pytest.mark.parametrize("finished", ["no test images"], indirect=True)
def test_what_is_unusual_about_the_images_is_said_at_the_start_and_in_the_report(
    finished: tuple[str, Results, str],
) -> None:
    _, results, said = finished
    notes = json.loads(results.environment_file.read_text(encoding="utf-8"))["notes"]
    assert [f"note: {note}" for note in notes] == said.splitlines()[:2]
    assert notes[0].startswith("no test images (parts)")
    assert "set data.grayscale: true" in notes[1]
    page = (results.report / "index.html").read_text(encoding="utf-8")
    assert "notes on the images" in page
    assert "set data.grayscale: true" in page


@pytest.mark.parametrize("lacks", PARTS)
def test_a_selection_that_needs_labels_is_refused_before_anything_runs(lacks: str, tmp_path: Path) -> None:
    path = write_study(tmp_path, PARTS[lacks])
    for more in ([], ["--set", "search.objectives=[auroc]"], ["--dry-run"]):
        words = [path, "--results", tmp_path, "--set", "selection=oracle", *more]
        refused = CliRunner().invoke(tune.main, list(map(str, words)))
        assert refused.exit_code == 2
        assert f"parts has {lacks}" in refused.output
        assert "or use selection: pseudo_anomalies" in refused.output
    assert not (tmp_path / "mine").exists()


def test_a_dry_run_tells_what_is_unusual_about_the_images(tmp_path: Path) -> None:
    path = write_study(tmp_path, ["good", "crack"])
    said = CliRunner().invoke(tune.main, [str(path), "--dry-run"]).output
    assert "note: the training images are gray" in said
    assert "no test images" not in said
    said = CliRunner().invoke(tune.main, [str(path), "--dry-run", "--set", "data.grayscale=true"]).output
    assert "note:" not in said
