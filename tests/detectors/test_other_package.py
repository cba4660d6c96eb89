"""A detector that another package registers takes part in everything, and no file of the project is touched for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.study.conftest import wait_until

PACKAGE = Path(__file__).with_name("mean_image.py")
STUDY = """
name: other
detectors:
  mean_image: {epochs: 3}
  pca: {}
data: {name: digits, normal_classes: [3, 8]}
search:
  configurations: 3
  space:
    mean_image.power: {uniform: [1.0, 3.0]}
evaluate: {every: 1}
references: [nearest_neighbour]
attacks: {methods: [fgsm, noise], epsilons: [0.1], max_images: 20, configurations: [all, winner]}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed package that registers the detector, as pip would leave it."""
    site = tmp_path_factory.mktemp("site")
    (site / "elsewhere").mkdir()
    (site / "elsewhere" / "__init__.py").write_text("")
    shutil.copy(PACKAGE, site / "elsewhere" / "mean_image.py")
    info = site / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[puzzle_study.detectors]\nmean_image = elsewhere.mean_image:MeanImage\nbroken = elsewhere.missing:Nothing\n"
    )
    return site


def call(site: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(site), str(root)))}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_detector_of_another_package_goes_from_yaml_to_report(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(STUDY)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(installed), str(root)))}
    # Killed after its first record, then gone on with.
    first = subprocess.Popen(
        [sys.executable, "-m", "puzzle_study.tune", "other.yaml"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    records = tmp_path / "results" / "other" / "records"
    wait_until(lambda: any(records.glob("*.json")), first)
    os.killpg(first.pid, 9)
    first.wait()
    done = call(installed, "puzzle_study.tune", "other.yaml", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "results" / "other"
    trials = pd.read_csv(results / "trials.csv")
    assert set(trials["detector"]) == {"mean_image", "pca", "nearest_neighbour"}
    assert set(trials["status"]) == {"finished"}
    assert trials.loc[trials["detector"] == "mean_image", "mean_image.power"].nunique() >= 2
    attacks = pd.read_csv(results / "attacks.csv")
    assert set(attacks["attack"]) == {"attack1"}
    assert {"winner", "default"} <= set(";".join(attacks["label"].dropna()).split(";"))
    assert "mean image" in (results / "report" / "index.html").read_text()
    epochs = pd.read_parquet(results / "epochs.parquet")
    assert {"loss", "auroc_avg"} <= set(epochs.columns)
    # Scored, with maps, by its own name.
    own = trials.loc[trials["detector"] == "mean_image", "trial"].iloc[0]
    folder = results / "detectors" / str(own)
    assert json.loads((folder / "detector.json").read_text())["detector"] == "mean_image"
    report = results / "report"
    scored = call(
        installed,
        "puzzle_study.score",
        str(folder),
        str(report / "figures"),
        *("--overlay", str(tmp_path / "maps"), "--output", str(tmp_path / "scores.csv")),
        cwd=tmp_path,
    )
    assert scored.returncode == 0, scored.stderr
    assert len(pd.read_csv(tmp_path / "scores.csv")) > 0
    assert list((tmp_path / "maps").glob("*.png"))


def test_it_is_listed_with_the_others(installed: Path, tmp_path: Path) -> None:
    listed = call(installed, "puzzle_study.detectors", "--json", cwd=tmp_path)
    assert listed.returncode == 0
    assert "mean_image" in {entry["name"] for entry in json.loads(listed.stdout)}
    assert "broken of another package cannot be imported" in listed.stderr


def test_a_detector_whose_package_is_gone_is_named(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "gone.yaml").write_text("data: {name: digits}\ndetector: mean_image\n")
    root = Path(__file__).parents[2]
    gone = call(root, "puzzle_study.tune", "gone.yaml", "--dry-run", cwd=tmp_path)
    assert gone.returncode == 2
    assert "there is no detector 'mean_image'" in gone.stderr
