"""A detector that another package registers takes part in everything, and no file of the project is touched for it.

It runs beside the project's own, in a study that is killed and gone on with, and that Puzzle-AE does not win.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from puzzle_study import attack, score
from puzzle_study.datasets import load_task
from puzzle_study.detectors.files import load_detector
from puzzle_study.results import Results
from puzzle_study.trials.record import records
from tests.study.conftest import kill, start, wait_until

ROOT = Path(__file__).parents[2]
EPOCHS, HELD = 60, 30
# A training that is to be killed waits for that, or it might have ended before.
HOLD = f"""if epoch == {HELD} and "HOLD" in __import__("os").environ:
                __import__("threading").Event().wait()
            run.epoch("""
STUDY = f"""
name: other
detectors:
  puzzle_ae: {{model: {{base_channels: 2}}, train: {{epochs: 1, batch_size: 32}}}}
  nearest_neighbour: {{}}
  pca: {{}}
  mean_image: {{epochs: {EPOCHS}}}
data: {{name: digits, normal_classes: [0], max_test_images: 60}}
search: {{configurations: 1, space: {{mean_image.power: {{uniform: [1.0, 3.0]}}}}}}
evaluate: {{every: 1, max_images: 20}}
kinds: [cut_paste, foreign_piece, local_noise]
references: []
max_concurrent: 1
attacks: {{methods: [fgsm, noise], epsilons: [0.1], max_images: 20, matrix: true, transfer: true}}
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where a package is installed that registers the detector, as pip would leave it."""
    site = tmp_path_factory.mktemp("site")
    (site / "elsewhere").mkdir()
    (site / "elsewhere" / "__init__.py").write_text("")
    source = Path(__file__).with_name("mean_image.py").read_text(encoding="utf-8")
    (site / "elsewhere" / "mean_image.py").write_text(source.replace("run.epoch(", HOLD), encoding="utf-8")
    info = site / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[puzzle_study.detectors]\nmean_image = elsewhere.mean_image:MeanImage\nbroken = elsewhere.missing:Nothing\n"
    )
    return {"PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}


def call(environment: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the package to its end."""
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def results(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The study, killed in the middle of the other package's training and gone on with."""
    folder = tmp_path_factory.mktemp("study")
    study, found = folder / "other.yaml", Results(folder / "other")
    study.write_text(STUDY, encoding="utf-8")
    killed = start(study, "--results", folder, **environment, HOLD="1")
    last = f"INFO epoch {HELD - 1},"
    wait_until(lambda: any(last in path.read_text() for path in found.root.glob("logs/*.log")), killed)
    wait_until(lambda: any(found.root.glob("checkpoints/*/epoch-*.pt")), killed)
    kill(killed)
    kept = {path: path.stat().st_mtime_ns for path in found.root.glob("records/*.json")}
    assert len(kept) == 3, "those before it in the study file"
    done = call(environment, "puzzle_study.tune", study, "--results", folder, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"winner: PCA, 2 \(\w+\), default", done.stdout)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    return found


@pytest.mark.slow
def test_a_detector_of_another_package_goes_from_yaml_to_report_through_a_kill(
    results: Results, environment: dict[str, str], tmp_path: Path
) -> None:
    trials = results.table(results.trials_file)
    assert list(trials["status"]) == ["finished"] * 5
    own = trials[trials["detector"] == "mean_image"]
    assert own["mean_image.power"].nunique() == 2
    assert sum("going on after epoch" in results.log_file(key).read_text() for key in own["trial"]) == 1
    epochs = pd.read_parquet(results.epochs_file)
    for key in own["trial"]:
        followed = epochs[epochs["trial"] == key]
        assert list(followed["epoch"]) == list(range(1, EPOCHS + 1))
        assert followed["loss"].is_monotonic_decreasing, "what was learnt before the kill is not lost"
        assert followed["auroc_avg"].notna().all()
    attacks = results.table(results.attacks_file)
    attacked = attacks[attacks["trial"].isin(own["trial"])]
    assert list(zip(attacked["attack"], attacked["method"], attacked["label"], strict=True)) == [
        ("attack1", "fgsm", "default"),
        ("attack1", "noise", "default"),
    ]

    noise = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    folder, table = results.detector(own["trial"].iloc[0]), tmp_path / "scores.csv"
    words = (tmp_path / "noise.png", "--overlay", tmp_path / "maps", "--output", table)
    scored = call(environment, "puzzle_study.score", folder, *words)
    assert scored.returncode == 0, scored.stderr
    assert list(pd.read_csv(table)["flagged"]) == [True]
    assert list((tmp_path / "maps").glob("*.png"))


@pytest.mark.slow
def test_a_study_that_another_detector_wins_leaves_what_puzzle_aes_would(results: Results) -> None:
    summary = results.table(results.summary_file)
    (winner,) = summary.loc[summary["label"].str.contains("winner"), "detector"]
    assert winner == "pca"
    assert summary.loc[summary["label"].str.contains("default"), "configuration"].nunique() == 4
    description = json.loads((results.best / "0" / "detector.json").read_text(encoding="utf-8"))
    assert description["detector"] == "pca"
    page = (results.report / "index.html").read_text(encoding="utf-8")
    assert "The winner (PCA, configuration" in page
    for title in ("nearest neighbour", "Puzzle-AE", "mean image"):
        assert f">{title}<" in page, "each is named in the ranking"
    with np.load(results.gallery_file, allow_pickle=False) as gallery:
        assert {"best_normal", "worst_normal", "best_anomalous", "worst_anomalous"} <= set(gallery["kind"].tolist())
        assert len(gallery["attacked"]) > 0
    trials = results.table(results.trials_file)
    by_name = dict(zip(trials["trial"], trials["detector"], strict=True))
    attacks, matrix = results.table(results.attacks_file), results.table(results.matrix_file)
    assert {(by_name[trial], attack) for trial, attack in zip(attacks["trial"], attacks["attack"], strict=True)} == {
        *((name, "attack1") for name in by_name.values()),
        ("puzzle_ae", "attack2"),
    }
    assert {by_name[trial] for trial in matrix["trial"]} == {"puzzle_ae"}, "one view has nothing to aggregate"
    transfer = results.table(results.transfer_file)
    assert len(transfer) == 4 * 4
    assert transfer["auroc"].notna().all()


@pytest.mark.slow
def test_the_winner_is_scored_attacked_and_exported_whichever_detector_it_is(results: Results, tmp_path: Path) -> None:
    best, spec = results.best / "0", records(results)[0].spec
    task = load_task(spec.settings.data, spec.task)
    for number in range(4):
        Image.fromarray(task.test[number, 0].numpy()).save(tmp_path / f"{number}.png")
    run = CliRunner().invoke
    scored = run(score.main, [str(best), *(str(tmp_path / f"{number}.png") for number in range(4))])
    assert scored.exit_code == 0, scored.output
    detector = load_detector(best, device=torch.device("cpu"))
    expected = detector.scores(detector.error_matrix(task.test[:4]))
    lines = [line.split(",") for line in scored.stdout.splitlines()]
    found = [float(line[lines[0].index("score")]) for line in lines[1:]]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    refused = run(score.main, [str(best), str(tmp_path / "0.png"), "--overlay", str(tmp_path / "maps")])
    assert refused.exit_code == 2
    assert "PCA has no anomaly maps" in refused.output
    words = ["--epsilon", "0.1", "--max-images", "20", "--steps", "2", "--output", str(tmp_path / "attacks.csv")]
    attacked = run(attack.main, [str(best), *words])
    assert attacked.exit_code == 0, attacked.output
    assert set(pd.read_csv(tmp_path / "attacks.csv")["attack"]) == {"attack1"}
    onnxruntime = pytest.importorskip("onnxruntime")
    exported = run(score.main, ["--export", str(tmp_path / "best.onnx"), str(best)])
    assert exported.exit_code == 0, exported.output
    (answer,) = onnxruntime.InferenceSession(tmp_path / "best.onnx").run(
        None, {"image": (task.test[:4].float() / 255).numpy()}
    )
    np.testing.assert_allclose(answer, expected, rtol=1e-4)


@pytest.mark.slow
def test_it_is_listed_with_the_others_and_one_that_cannot_be_imported_is_named(environment: dict[str, str]) -> None:
    listed = call(environment, "puzzle_study.detectors", "--json")
    assert listed.returncode == 0
    assert "mean_image" in {entry["name"] for entry in json.loads(listed.stdout)}
    assert "broken of another package cannot be imported" in listed.stderr


def test_a_detector_whose_package_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone.yaml").write_text("data: {name: digits}\ndetector: mean_image\n")
    gone = call({}, "puzzle_study.tune", tmp_path / "gone.yaml", "--dry-run")
    assert gone.returncode == 2
    assert "there is no detector 'mean_image'" in gone.stderr
