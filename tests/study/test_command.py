"""The command line: bad input is one sentence with exit code 2, and nothing is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from puzzle_study.config import read
from puzzle_study.tune import main


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train:\n  epoch: 3\n", "`train.epoch` is not a setting; did you mean train.epochs? (bad.yaml, line 3)"),
        ("train: !!python/object/apply:os.system ['touch owned']\n", "a study file is plain data (bad.yaml, line 2)"),
        ("train: {epochs: 1\n", "bad.yaml is not valid YAML: "),
    ],
)
def test_a_bad_study_file_is_named_with_its_line_and_nothing_is_written(
    text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("data: {name: digits}\n" + text, encoding="utf-8")
    result = CliRunner().invoke(main, ["bad.yaml"])
    assert result.exit_code == 2
    assert sentence in result.output
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.yaml"], "study file none.yaml does not exist; did you mean one.yaml?"),
        (["one.yaml", "--set", "data.normal_classes=[12]"], "12"),
        (["one.yaml", "--quick"], "one.yaml has no `quick:` section"),
        (["one.yaml", "--set", "train.epochs"], "--set needs name=value"),
        (["one.yaml", "--quiet", "--verbose"], "--quiet and --verbose contradict each other"),
        (["one.yaml", "--set", "data.name=mnist", "--set", "data.root=nowhere"], "nowhere"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text("data: {name: digits}\n", encoding="utf-8")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert sentence in result.output
    assert result.output.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["one.yaml"]


SEARCHED = """
data: {name: digits, normal_classes: [3, 8]}
model: {base_channels: 2}
seeds: [0, 1]
search:
  configurations: 4
  space: {train.lambda: {uniform: [0.0, 0.1]}}
attacks: {methods: [fgsm]}
"""


@pytest.fixture
def short_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure one step of each kind."""
    monkeypatch.setattr("puzzle_study.study.forecast.MEASURED_SECONDS", 0.01)


@pytest.mark.usefixtures("short_measurement")
def test_a_dry_run_says_what_would_be_trained_and_about_what_it_costs_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text(SEARCHED, encoding="utf-8")
    result = CliRunner().invoke(main, ["one.yaml", "--dry-run"])
    assert result.exit_code == 0, result.output
    for said in (
        "20 trainings: 5 configurations × 2 tasks × 2 seeds; and 8 references",
        "99 to 104 for training, 17 to 18 for validation, 58 to 61 normal and 538 to 541 anomalous for the test",
        "results would go to results/one",
    ):
        assert said in result.output
    assert re.search(
        r"^time: about \d[\d.,]* (s|min|h|days) on this machine, \d+ trials? at once, "
        r"a training about .*\d (s|min|h)\b.*; attacks not counted$",
        result.output,
        re.M,
    )
    disk = re.search(r"^disk: about ([\d.]+) MB, and [\d.]+ MB for checkpoints while it runs$", result.output, re.M)
    assert disk
    assert 2 < float(disk[1]) < 10
    assert "lambda: 0.02" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["one.yaml"]


@pytest.mark.usefixtures("short_measurement")
def test_a_dry_run_says_how_many_configurations_are_met_along_the_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    axes = "train.epochs: {grid: [10, 40]}, train.averaging: {choice: [0, 0.9]}, "
    Path("one.yaml").write_text(SEARCHED.replace("space: {", "space: {" + axes), encoding="utf-8")
    result = CliRunner().invoke(main, ["one.yaml", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "20 trainings: 5 configurations × 2 tasks × 2 seeds; and 8 references" in result.output
    assert "15 more configurations along these trainings, with other values of train.epochs and" in result.output


@pytest.mark.usefixtures("short_measurement")
def test_a_verbose_dry_run_prints_the_resolved_study_as_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text(SEARCHED, encoding="utf-8")
    result = CliRunner().invoke(main, ["one.yaml", "--dry-run", "--verbose"])
    assert result.exit_code == 0, result.output
    Path("again.yaml").write_text(result.output, encoding="utf-8")
    assert read.load(Path("again.yaml")).study == read.load(Path("one.yaml")).study
    assert "# 20 trainings: " in result.output


def test_a_dry_run_without_images_says_what_it_can_and_ends_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text("data: {name: cifar10, root: nowhere}\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["one.yaml", "--dry-run"])
    assert result.exit_code == 2
    assert "10 trainings: 1 configuration × 10 tasks × 1 seed; and 40 references" in result.output
    assert f"error: data.root {tmp_path / 'nowhere'}: no such folder" in result.output
    assert "time: " not in result.output


def test_help_answers_at_once_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from puzzle_study.__main__ import main\n"
        "import puzzle_study.tune\n"
        "heavy = {'torch', 'ray', 'optuna', 'pandas', 'seaborn', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("short_measurement")
def test_quick_applies_the_files_own_section_and_its_mistakes_are_named_by_their_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "data: {name: digits}\ntrain: {epochs: 50}\nquick:\n  train: {epochs: 2}\n"
    Path("one.yaml").write_text(text, encoding="utf-8")
    assert " 50 epochs" in CliRunner().invoke(main, ["one.yaml", "--dry-run"]).output
    assert " 2 epochs" in CliRunner().invoke(main, ["one.yaml", "--dry-run", "--quick"]).output
    Path("one.yaml").write_text(text.replace("epochs: 2", "epochs: -2"), encoding="utf-8")
    result = CliRunner().invoke(main, ["one.yaml", "--quick"])
    assert "greater than or equal to 0, got -2 (one.yaml, line 4)" in result.output
