"""A study of a user's own images that cannot work, run in a folder of his own with paths that start there.

``test_readme.py`` runs one that works.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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
max_concurrent: 1
attacks: {configurations: [default], attacks: [attack1], methods: [noise], epsilons: [0.1]}
seeds: [0, 1, 2, 3]
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command in ``here``, where ``mine.yaml`` is, with the cache named by a relative path, too."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine.yaml").write_text(STUDY, encoding="utf-8")
    Layouts(tmp_path / "images").category(tmp_path / "images" / "parts")

    def command(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"puzzle_study.{name}", *map(str, arguments)],
            cwd=here,
            env=tune_environment() | {"PUZZLE_STUDY_CACHE": "cache"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return command


def test_one_failure_of_all_trials_ends_the_study(run: Run, tmp_path: Path) -> None:
    here, images = tmp_path / "here", tmp_path / "images" / "parts"
    results = Results(here / "results" / "mine")
    first, *others = sorted((images / "train" / "good").iterdir())
    for path in others:
        path.write_bytes(first.read_bytes())
    assert run("data", "check", "folder", "--root", "../images/parts").returncode == 0

    refused = run("tune", "mine.yaml")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert re.fullmatch(r"error: .*too few different training images.*\(the first 3 trials.*\)\n", refused.stderr)
    assert "too few" not in refused.stdout
    assert "--resume" not in refused.stdout + refused.stderr
    assert len(list(results.records())) < 6, "the study went on to its end"
