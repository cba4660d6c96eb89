"""The examples of docs/python.md and of docstrings, and what ``puzzle_study.load`` and ``run`` refuse."""

from __future__ import annotations

import doctest
from pathlib import Path
from types import ModuleType

import optuna
import pytest

import puzzle_study
from puzzle_study import registry
from puzzle_study.corruptions import base as corruptions
from puzzle_study.errors import UserError
from puzzle_study.inference import estimator as estimators
from puzzle_study.statistics import metrics

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"


def test_the_examples_of_the_page_print_what_it_says(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(searched)
    verbosity = optuna.logging.get_verbosity()
    text = "\n".join(line for line in PAGE.read_text(encoding="utf-8").splitlines() if not line.startswith("```"))
    examples = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(examples.examples) > 25
    said: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed = doctest.DocTestRunner(optionflags=flags, verbose=False).run(examples, out=said.append).failed
    optuna.logging.set_verbosity(verbosity)
    assert not failed, "".join(said)


@pytest.mark.parametrize("module", [corruptions, estimators, metrics, registry], ids=lambda module: module.__name__)
def test_the_examples_in_docstrings_print_what_they_say(module: ModuleType) -> None:
    done = doctest.testmod(module)
    assert done.attempted
    assert not done.failed


def test_a_trial_that_is_not_there_and_a_folder_without_a_study_are_one_sentence(
    searched: Path, tmp_path: Path
) -> None:
    study = puzzle_study.load(searched / "results" / "digits", device="cpu")
    key = study.trials["trial"].iloc[0]
    assert set(study.errors(key)) > {"test", "validation", "labels"}
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    with pytest.raises(UserError, match=f"no trial '{wrong}'; did you mean {key}"):
        study.errors(wrong)
    with pytest.raises(UserError, match="holds 2 detectors; choose one"):
        study.detector()
    assert study.detector(key).detector_.name == "nearest_neighbour"
    assert study.attacks.empty
    assert len(study.epochs) == 4
    with pytest.raises(UserError, match=r"has no study \(study.yaml is missing\); give results/NAME"):
        puzzle_study.StudyResults(tmp_path)


@pytest.mark.parametrize(
    ("study", "settings", "sentence"),
    [
        ({"data": {"name": "digits"}}, {}, "`name` is missing"),
        ({"name": "x", "data": {"name": "digits"}, "train": {"epoch": 1}}, {}, "did you mean train.epochs"),
        ({"name": "x", "data": {"name": "digits"}}, {"train": {"epochs": -1}}, "greater than or equal to 0, got -1"),
        ({"name": "x", "data": {"name": "digits"}, "train": {1, 2}}, {}, "texts, finite numbers, lists and dicts only"),
        ({"name": "x", "data": {"name": "digits"}}, {"seeds": {1}}, "seeds has a value that"),
        ("digit", {}, "did you mean digits"),
    ],
)
def test_a_study_that_cannot_run_is_one_sentence_and_writes_nothing(
    study: object, settings: dict[str, object], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        puzzle_study.run(study, settings=settings)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_study_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puzzle_study.study.engine.run_study", lambda *given, **named: 130)
    with pytest.raises(KeyboardInterrupt):
        puzzle_study.run("digits", results=tmp_path)
