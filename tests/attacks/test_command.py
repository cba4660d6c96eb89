"""``python -m puzzle_study.attack`` on saved detectors."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from puzzle_study import datasets
from puzzle_study.attack import main
from puzzle_study.attacks.finished import find_detectors
from puzzle_study.detectors.base import Run
from puzzle_study.detectors.files import DESCRIPTION, save
from puzzle_study.errors import UserError
from puzzle_study.trials import run
from puzzle_study.trials.spec import TrialSpec
from tests.core import tiny

from . import planted

FAST = ("--convergence", "0", "--attack", "attack1", "--method", "fgsm", "--method", "noise", "--max-images", "20")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of a finished study, with two detectors of digits."""
    root = tmp_path_factory.mktemp("results") / "digits"
    settings = tiny.settings()
    for digit in ("3", "8"):
        spec = datasets.TaskSpec("digits", digit)
        detector = planted.puzzle_detector(count=2)
        detector.calibrate(datasets.load_task(settings.data, spec).validation[:20])
        folder = root / "best" / digit
        folder.mkdir(parents=True)
        trial = TrialSpec(settings, spec, 4, datasets.fingerprint(settings.data))
        save(detector, folder, trial.to_json())
    return root


def call(*arguments: str | Path, code: int = 0) -> str:
    """Run the command, which must end with this exit code, and return what it prints."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_a_study_is_attacked(study: Path) -> None:
    output = call(study, *FAST, "--epsilon", "0.1", "--epsilon", "8/255")
    frame = pd.read_csv(study / "best" / "attacks.csv", keep_default_na=False, dtype={"detector": str})
    assert not (study / "attacks.csv").exists()
    assert list(zip(frame["detector"], frame["method"], frame["epsilon"].round(4), strict=True)) == [
        (detector, method, epsilon)
        for detector in ("3", "8")
        for method in ("fgsm", "noise")
        for epsilon in (0.1, 0.0314)
    ]
    assert (frame["seed"] == 4).all()
    assert (frame["images"] < 20).all()
    assert frame["auroc"].between(0, 1).all()
    assert (frame["max_perturbation"] <= frame["epsilon"] + 1e-6).all()
    assert "detector 3: clean AUROC" in output
    assert "table: " in output


def test_a_detector_without_views_is_attacked_by_what_fits_it(tmp_path: Path) -> None:
    trial = tiny.trial(kind="nearest_neighbour")
    trial = replace(trial, fingerprint=datasets.fingerprint(trial.settings.data))
    task = datasets.load_task(trial.settings.data, trial.task)
    detector = run.build(trial, task, tiny.CPU)
    detector.fit(task.train[:20], Run())
    detector.calibrate(task.validation[:20])
    save(detector, tmp_path, trial.to_json())
    call(tmp_path, "--method", "fgsm", "--max-images", "20", "--epsilon", "0.1")
    assert pd.read_csv(tmp_path / "attacks.csv")["attack"].tolist() == ["attack1"]
    refused = call(tmp_path, "--attack", "attack2", "--method", "fgsm", code=2)
    assert "attack2 perturbs views and nearest neighbour has none" in refused


def test_folders_in_brackets_are_said_as_they_are(study: Path, tmp_path: Path) -> None:
    detectors = tmp_path / "runs[/b]"
    shutil.copytree(study / "best" / "3", detectors / "a[new]")
    shutil.copytree(study / "best" / "3", detectors / "b[bold]")
    output = call(detectors, *FAST, "--epsilon", "0.1")
    assert "detector a[new]: clean AUROC" in output
    assert "detector b[bold]: clean AUROC" in output
    assert f"table: {detectors / 'attacks.csv'}\n" in output


def test_one_detector_and_another_table(study: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    call(study / "best" / "8", *FAST, "--epsilon", "0.1", "--target", "both", "--output", table)
    frame = pd.read_csv(table)
    assert len(frame) == 2
    assert (frame["images"] == 20).all()
    assert (frame["target"] == "both").all()


def test_a_detector_is_held_to_stronger_runs_and_to_its_threshold(study: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    arguments = ["--attack", "attack1", "--method", "pgd", "--epsilon", "0.1", "--steps", "2", "--step-size", "0.1"]
    arguments += ["--max-images", "6", "--restarts", "1", "--balanced", "--target", "both"]
    output = call(study / "best" / "8", *arguments, "--convergence", "1", "--smallest", "--output", table)
    (row,) = pd.read_csv(table).to_dict("records")
    assert row["images"] == 6
    assert row["step_size"] == 0.1
    assert "not_converged" in row["flags"]
    assert "not_converged: a stronger run" in output
    assert row["subset_strength"] < row["subset_strength_strongest"]
    for name in ("flagged_normal", "flagged_anomalous"):
        assert 0 <= row[name] <= 1
        assert f"{100 * row[f'{name}_clean']:.0f} → {100 * row[name]:.0f}" in output
    smallest = pd.read_csv(tmp_path / "smallest_epsilon.csv")
    assert smallest["anomalous"].tolist().count(True) == 3
    assert (smallest["epsilon_image"] <= 0.1).any()
    assert "half of 3 normal images are flagged at" in output


@pytest.mark.parametrize("where", ["", "best"])
def test_detectors_are_found(study: Path, where: str) -> None:
    home, found = find_detectors(study / where)
    assert home == study / "best"
    assert [folder.name for folder in found] == ["3", "8"]


def test_no_detector_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no detector; give results/NAME of a finished study"):
        find_detectors(tmp_path)
    assert "holds no detector" in call(tmp_path, code=2)


@pytest.mark.parametrize("place", ["attacks.csv", "/proc"])
def test_a_table_that_cannot_be_written_is_said_before_the_attacks(study: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "attacks.csv").write_text("a file, no folder\n", encoding="utf-8")
    output = call(study, "--output", tmp_path / place / "mine.csv", code=2)
    assert "mine.csv cannot be written (" in output
    assert "choose another place with --output" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epsilon", "3"), "3 is not between 0 and 1"),
        (("--epsilon", "nan"), "nan is not between 0 and 1"),
        (("--epsilon", "1e400"), "1e400 is not between 0 and 1"),
        (("--epsilon", "1e999999"), "1e999999 is not between 0 and 1"),
        (("--epsilon", "large"), "'large' is not a number such as 0.1 or 8/255"),
        (("--epsilon", "1/0"), "'1/0' is not a number"),
        (("--method", "deepfool"), "'deepfool' is not one of"),
        (("--steps", "0"), "0 is not in the range"),
        (("--step-size", "0"), "0.0 is not in the range 0<x<=2"),
        (("--method", "noise", "--smallest"), "smallest need a method besides noise"),
        (("--seed", "4294967296"), "4294967296 is not in the range 0<=x<=4294967295"),
    ],
)
def test_bad_options_are_sentences(study: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in call(study, *arguments, code=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "0" * 16}, "was trained on other images than those that are in data.root now"),
        ({"image": {"channels": 1, "height": 32, "width": 32}}, "names another shape than that of its images"),
    ],
)
def test_images_that_a_detector_was_not_trained_on_are_refused(
    study: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = tmp_path / "3"
    shutil.copytree(study / "best" / "3", folder)
    description = folder / DESCRIPTION
    content = json.loads(description.read_text(encoding="utf-8"))
    description.write_text(json.dumps(content | changes), encoding="utf-8")
    assert message in call(folder, *FAST, code=2)
    assert not (folder / "attacks.csv").exists()


def test_a_damaged_description_is_a_sentence(study: Path, tmp_path: Path) -> None:
    save(planted.puzzle_detector(count=2), tmp_path, {})
    assert "does not say which images it was trained for" in call(tmp_path, *FAST, code=2)
