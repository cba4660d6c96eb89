"""How a study ends: what is made of its records, and when it counts as finished. No Ray: nothing is left to train."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from puzzle_study import reporting
from puzzle_study.config import read
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study import engine
from puzzle_study.study.engine import make_plan, run_study
from puzzle_study.study.storage import Place
from puzzle_study.trials import run as trials

STUDY = """
name: closing
data: {name: digits, normal_classes: [3], max_train_images: 40, max_test_images: 40}
detectors:
  puzzle_ae:
    model: {base_channels: 2}
    train: {epochs: 1, batch_size: 16, precision: float32}
  nearest_neighbour: {}
evaluate: {max_images: 20}
references: []
"""


def load(folder: Path, *changes: str) -> read.StudyFile:
    path = folder / "closing.yaml"
    path.write_text(STUDY, encoding="utf-8")
    return read.load(path, assignments=changes)


def run(folder: Path, *changes: str, resume: bool) -> str:
    """Run the study, all of whose trials have a record; returns what it said."""
    said = StringIO()
    assert run_study(load(folder, *changes), folder, resume=resume, console=Console(file=said, width=200)) == 0
    return said.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the records of a study and what its trials left."""
    folder = tmp_path_factory.mktemp("trained")
    plan = make_plan(load(folder), Results(folder / "closing"))
    while (spec := plan.take()) is not None:
        plan.done(spec.key, trials.run(spec, plan.results, device=torch.device("cpu")))
    return folder


@pytest.fixture(scope="module")
def closed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study at its end."""
    folder = tmp_path_factory.mktemp("closed") / "results"
    shutil.copytree(trained, folder)
    run(folder, resume=False)
    return folder


@pytest.fixture
def folder(closed: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(closed, tmp_path / "results"))


MADE = (
    "trials.csv",
    "epochs.parquet",
    "summary.csv",
    "selection.csv",
    "attacks.csv",
    "gallery.npz",
    "best/3/weights.safetensors",
    "best/3/MODEL_CARD.md",
    "best",
    "report",
)


def test_what_is_made_of_records_and_was_deleted_is_written_again(folder: Path, tmp_path: Path) -> None:
    assert "closing is finished" in run(folder, resume=False)
    for name in MADE:
        path, away = folder / "closing" / name, tmp_path / "away"
        path.rename(away)
        with pytest.raises(UserError, match="continue with --resume"):
            run(folder, resume=False)
        away.rename(path)
    assert "closing is finished" in run(folder, resume=False)
    paths = [folder / "closing" / name for name in MADE]
    before = {path: path.read_bytes() for path in paths if path.suffix == ".csv"}
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "report: " in run(folder, resume=True)
    assert [path for path in paths if not path.exists()] == []
    assert {path: path.read_bytes() for path in before} == before
    assert "closing is finished" in run(folder, resume=False)


@pytest.mark.parametrize("name", ["runs[new]", "runs[/b]"])
def test_a_folder_in_brackets_is_said_as_it_is(name: str, closed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(closed, tmp_path / name))
    page = folder / "closing" / "report" / "index.html"
    assert run(folder, resume=False) == f"closing is finished: {page}\n"
    page.unlink()
    assert run(folder, resume=True).endswith(f"report: {page}\n")


def test_another_study_file_is_refused_and_named_before_it_overwrites_anything(folder: Path) -> None:
    before = (folder / "closing" / "study.yaml").read_bytes()
    with pytest.raises(UserError, match=r"evaluate\.max_images was 20, is 10"):
        run(folder, "evaluate.max_images=10", resume=False)
    assert (folder / "closing" / "study.yaml").read_bytes() == before


def test_a_study_that_is_killed_while_its_report_is_drawn_is_not_finished(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **named: object) -> Path:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(reporting, "build_report", killed)
        with pytest.raises(SystemExit):
            run(folder, "selection=oracle", resume=True)
    with pytest.raises(UserError, match="continue with --resume"):
        run(folder, "selection=oracle", resume=False)
    assert "report: " in run(folder, "selection=oracle", resume=True)
    assert "oracle" in (folder / "closing" / "report" / "index.html").read_text(encoding="utf-8")


def test_a_detector_that_is_fitted_at_once_can_win(closed: Path) -> None:
    results = Results(closed / "closing")
    summary = results.table(results.summary_file)
    assert summary.loc[summary["label"].str.contains("winner"), "detector"].tolist() == ["nearest_neighbour"]
    described = json.loads((results.best / "3" / "detector.json").read_text(encoding="utf-8"))
    assert described["detector"] == "nearest_neighbour"


def test_the_report_says_when_the_study_ended(closed: Path) -> None:
    results = Results(closed / "closing")
    ended = json.loads(results.environment_file.read_text(encoding="utf-8"))["finished"]
    assert f"finished {ended[:16].replace('T', ' ')}" in (results.report / "index.html").read_text(encoding="utf-8")


def test_a_winner_whose_detector_is_gone_is_one_sentence(folder: Path) -> None:
    for name in ("detectors", "report"):
        shutil.rmtree(folder / "closing" / name)
    with pytest.raises(
        UserError, match=r"detectors/\w+ is missing or damaged; restore it, or delete records/\w+\.json and train"
    ):
        run(folder, resume=True)


def test_an_interrupted_study_in_a_store_keeps_its_time(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    folder, results = tmp_path / "results", Results(tmp_path / "results" / "closing")
    shutil.copytree(trained, folder)
    (tmp_path / "closing.yaml").write_text(f"{STUDY}storage: file://{tmp_path}/store\n", encoding="utf-8")
    file = read.load(tmp_path / "closing.yaml")
    monkeypatch.setattr(engine, "write_tables", interrupt)
    assert run_study(file, folder, resume=False, console=Console(file=StringIO())) == 130
    before = results.environment()
    assert before["wall_seconds"] > 0
    Place.of(results, file.study.storage).fetch()
    assert results.environment() == before
