"""A study of a user's own images, run as a user runs it: in a folder of his own, with paths that start there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from puzzle_study.results import Results
from tests.datasets.conftest import Layouts
from tests.study.conftest import tune_environment

pytestmark = pytest.mark.slow

STUDY = """
data: {name: folder, root: ../images/parts, size: 16, validation_count: 2}
model: {base_channels: 2}
train: {epochs: 1, batch_size: 4, precision: float32}
references: [nearest_neighbour, pca]
attacks: {configurations: [default], attacks: [attack1], methods: [noise], epsilons: [0.1]}
seeds: [0, 1, 2, 3]
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command, or Python, in ``here``, where ``mine.yaml`` is, with the cache named by a relative path, too."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine.yaml").write_text(STUDY, encoding="utf-8")
    Layouts(tmp_path / "images").category(tmp_path / "images" / "parts")

    def command(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        program = ["-c"] if name == "python" else ["-m", f"puzzle_study.{name}"]
        return subprocess.run(
            [sys.executable, *program, *map(str, arguments)],
            cwd=here,
            env=tune_environment() | {"PUZZLE_STUDY_CACHE": "cache"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return command


def test_relative_paths_start_where_the_command_runs_and_one_failure_of_all_trials_ends_the_study(
    run: Run, tmp_path: Path
) -> None:
    here, images = tmp_path / "here", tmp_path / "images" / "parts"
    results = Results(here / "results" / "mine")
    photographs = {path: path.read_bytes() for path in sorted((images / "train" / "good").iterdir())}
    for path in photographs:
        path.write_bytes(next(iter(photographs.values())))
    assert run("data", "check", "folder", "--root", "../images/parts").returncode == 0

    refused = run("tune", "mine.yaml")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert re.fullmatch(r"error: .*too few different training images.*\(the first 3 trials.*\)\n", refused.stderr)
    assert "too few" not in refused.stdout
    assert "--resume" not in refused.stdout + refused.stderr
    assert len(list(results.records())) < 6, "the study went on to its end"

    for path, photograph in photographs.items():
        path.write_bytes(photograph)
    assert run("tune", "mine.yaml", "--dry-run").returncode == 0
    done = run("python", "import puzzle_study; print(puzzle_study.run('mine.yaml', settings={'seeds': [0, 1, 2, 3]}))")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("report: results/mine/report/index.html\nStudyResults('results/mine')\n")
    assert list(pd.read_csv(results.trials_file).status) == ["finished"] * 6
    assert sorted(path.name for path in here.iterdir()) == ["cache", "mine.yaml", "results"]

    moved = tmp_path / "elsewhere" / "parts"
    moved.parent.mkdir()
    images.rename(moved)
    for root in (moved, "../elsewhere/parts"):
        again = run("tune", "mine", "--set", f"data.root={root}")
        assert again.stdout == "mine is finished: results/mine/report/index.html\n", again.stderr
    attacked = run(
        *("attack", "results/mine/best", "--method", "noise", "--epsilon", "0.1", "--data-root", "../elsewhere/parts"),
        *("--output", "noise.csv"),
    )
    assert attacked.returncode == 0, attacked.stderr
    assert (here / "noise.csv").exists()
