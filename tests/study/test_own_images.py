"""A study of a user's own images, run as a user runs it: in a folder of his own, with paths that start there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pandas as pd
import pytest
from click.testing import CliRunner

from puzzle_study import attack, data, tune
from puzzle_study.results import Results
from tests.datasets.conftest import Layouts
from tests.study.conftest import run_tune

pytestmark = pytest.mark.slow

STUDY = """
data: {name: folder, root: ../images/parts, size: 16, validation_count: 2}
model: {base_channels: 2}
train: {epochs: 1, batch_size: 4, precision: float32}
references: [nearest_neighbour, pca]
attacks: {configurations: [default], attacks: [attack1], methods: [noise], epsilons: [0.1]}
seeds: [0, 1, 2, 3]
"""


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to ``here``, where ``mine.yaml`` is, and name the cache by a relative path, too."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine.yaml").write_text(STUDY, encoding="utf-8")
    Layouts(tmp_path / "images").category(tmp_path / "images" / "parts")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PUZZLE_STUDY_CACHE", "cache")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("puzzle_study.study.forecast.MEASURED_SECONDS", 0.01)


def run(command: click.Command, *arguments: str | Path) -> str:
    """Run a command that starts no Ray in this process, and return what it says."""
    done = CliRunner().invoke(command, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.usefixtures("_here")
def test_relative_paths_start_where_the_command_runs_and_one_failure_of_all_trials_ends_the_study(
    tmp_path: Path,
) -> None:
    here, images = tmp_path / "here", tmp_path / "images" / "parts"
    results = Results(here / "results" / "mine")
    photographs = {path: path.read_bytes() for path in sorted((images / "train" / "good").iterdir())}
    for path in photographs:
        path.write_bytes(next(iter(photographs.values())))
    run(data.main, "check", "folder", "--root", "../images/parts")

    refused = run_tune("mine.yaml")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert re.fullmatch(r"error: .*too few different training images.*\(the first 3 trials.*\)\n", refused.stderr)
    assert "too few" not in refused.stdout
    assert "--resume" not in refused.stdout + refused.stderr
    assert len(list(results.records())) < 6, "the study went on to its end"

    for path, photograph in photographs.items():
        path.write_bytes(photograph)
    run(tune.main, "mine.yaml", "--dry-run")
    code = "import puzzle_study; print(puzzle_study.run('mine.yaml', settings={'seeds': [0, 1, 2, 3]}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("report: results/mine/report/index.html\nStudyResults('results/mine')\n")
    assert list(pd.read_csv(results.trials_file).status) == ["finished"] * 6
    assert sorted(path.name for path in here.iterdir()) == ["cache", "mine.yaml", "results"]

    moved = tmp_path / "elsewhere" / "parts"
    moved.parent.mkdir()
    images.rename(moved)
    for root in (moved, "../elsewhere/parts"):
        again = run(tune.main, "mine", "--set", f"data.root={root}")
        assert again == "mine is finished: results/mine/report/index.html\n"
    attack_by = ("--method", "noise", "--epsilon", "0.1", "--output", "noise.csv")
    run(attack.main, "results/mine/best", "--data-root", "../elsewhere/parts", *attack_by)
    assert (here / "noise.csv").exists()
