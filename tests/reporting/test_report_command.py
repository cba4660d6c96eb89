"""The command: thin, quick to answer, one sentence for what a user can mend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from puzzle_study.report import main
from puzzle_study.results import Results
from tests.reporting.conftest import Small


@pytest.mark.slow
def test_report_is_written(small: Small) -> None:
    results = small()
    answer = CliRunner().invoke(main, [str(results.root)])
    assert answer.exit_code == 0, answer.output
    assert answer.output == f"report: {results.report / 'index.html'}\n"


@pytest.mark.slow
def test_output_can_be_elsewhere(tmp_path: Path, study: Results, small: Small) -> None:
    other = small()
    answer = CliRunner().invoke(main, [str(other.root), str(study.root), "--output", str(tmp_path / "both")])
    assert answer.exit_code == 0, answer.output
    assert (tmp_path / "both" / "index.html").exists()
    assert not other.report.exists()


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("nothing", "nothing is not a results folder; give one such as results/digits"),
        ("a" * 300, f"{'a' * 300} cannot be read (File name too long); shorten it"),
    ],
    ids=["none", "too long"],
)
def test_bad_folder_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(main, [folder])
    assert (answer.exit_code, answer.stderr) == (2, f"error: {sentence}\n")


def test_folder_where_nobody_may_look_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    answer = CliRunner().invoke(main, ["locked/digits"])
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: locked/digits cannot be read by this user; give read permission")


def test_study_without_trials_is_one_sentence(tmp_path: Path) -> None:
    answer = CliRunner().invoke(main, [str(tmp_path)])
    assert answer.exit_code == 2
    assert "trials.csv is not there; run the study first: python -m puzzle_study.tune STUDY.yaml" in answer.stderr


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys, puzzle_study.report, puzzle_study.reporting;"
        "print([name for name in ('torch', 'seaborn', 'pandas', 'matplotlib', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
