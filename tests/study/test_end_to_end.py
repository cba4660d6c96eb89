"""Real studies on a real Ray cluster, run as a user runs them."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.study.conftest import TINY, Tune, start, wait_until

pytestmark = pytest.mark.slow

FILES = (
    "study.yaml",
    "environment.json",
    "trials.csv",
    "epochs.parquet",
    "attacks.csv",
    "corruptions.csv",
    "summary.csv",
    "selection.csv",
    "gallery.npz",
    "report/index.html",
    "best/3/weights.safetensors",
    "best/3/detector.json",
    "best/3/MODEL_CARD.md",
)
TIMES = ["seconds", "train_seconds", "evaluation_seconds", "score_seconds", "images_per_second"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tune: Tune) -> Path:
    """The folder of a tiny study that ran to its end."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    done = tune(folder / "tiny.yaml", "--results", folder / "results")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "report: " in done.stdout
    # Two of three are done: a training among them has told how fast trainings are.
    assert re.search(r"^trials 2/3 · about .* left", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^attacks 1/\d+ · about .* left", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^corruptions 4/4$", done.stdout, re.MULTILINE), done.stdout
    return folder


def tables(results: Path) -> dict[str, pd.DataFrame]:
    """The tables of a study without what a clock measured."""
    corruptions = results / "corruptions.csv"
    return {
        "trials": pd.read_csv(results / "trials.csv").drop(columns=TIMES),
        "epochs": pd.read_parquet(results / "epochs.parquet"),
        "summary": pd.read_csv(results / "summary.csv"),
        "selection": pd.read_csv(results / "selection.csv"),
        "attacks": pd.read_csv(results / "attacks.csv").drop(columns="seconds"),
        **({"corruptions": pd.read_csv(corruptions)} if corruptions.exists() else {}),
    }


def assert_same_tables(one: Path, other: Path) -> None:
    for name, table in tables(one).items():
        pd.testing.assert_frame_equal(table, tables(other)[name], check_exact=True, obj=name)


def test_a_study_leaves_every_file_and_a_row_for_every_trial(finished: Path) -> None:
    results = finished / "results" / "tiny"
    assert [name for name in FILES if not (results / name).exists()] == []
    trials = pd.read_csv(results / "trials.csv")
    assert list(trials.status) == ["finished"] * 3
    assert list(trials.detector) == ["nearest_neighbour", "puzzle_ae", "puzzle_ae"]
    for trial in trials.trial:
        with np.load(results / "errors" / f"{trial}.npz", allow_pickle=False) as arrays:
            assert arrays["test"].shape[0] == len(arrays["labels"]) == 60
    epochs = pd.read_parquet(results / "epochs.parquet")
    assert sorted(set(epochs.epoch)) == [1, 2]
    attacks = pd.read_csv(results / "attacks.csv")
    assert set(attacks.attack) == {"attack1", "attack2"}
    assert set(attacks.method) == {"fgsm", "noise"}
    corruptions = pd.read_csv(results / "corruptions.csv")
    assert list(corruptions.corruption) == ["none", "shift"] * 2
    assert set(corruptions.detector) == {"puzzle_ae", "nearest_neighbour"}
    assert '<section id="corruptions">' in (results / "report" / "index.html").read_text(encoding="utf-8")
    environment = json.loads((results / "environment.json").read_text(encoding="utf-8"))
    assert environment["finished"] is not None
    assert environment["versions"]["torch"]
    assert environment["hardware"]["threads"] == environment["hardware"]["kernels"]["threads"] == 1
    page = (results / "report" / "index.html").read_text(encoding="utf-8")
    assert "training 0" in page
    assert "(0,)" not in page
    assert "last 2 evaluations" in page
    assert "last 20 evaluations" not in page


def test_a_finished_study_says_so_and_changes_nothing(finished: Path, tune: Tune) -> None:
    results = finished / "results" / "tiny"
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    again = tune(finished / "tiny.yaml", "--results", finished / "results")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "tiny is finished" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()} == before


def test_the_resolved_study_runs_again_with_the_same_numbers(finished: Path, tune: Tune, tmp_path: Path) -> None:
    done = tune(finished / "results" / "tiny" / "study.yaml", "--results", tmp_path, "--verbose")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished after" in done.stdout
    assert "Failed to fetch metrics" not in done.stdout + done.stderr
    assert_same_tables(finished / "results" / "tiny", tmp_path / "tiny")


def test_a_killed_driver_resumes_without_ray_state_and_ends_with_the_same_tables(
    tiny: Path, tune: Tune, finished: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results" / "tiny"
    process = start(tiny, "--results", tmp_path / "results")
    wait_until(lambda: len(list(results.glob("records/*.json"))) >= 2, process)
    process.kill()
    process.communicate()
    kept = {path.name: path.stat().st_mtime_ns for path in results.glob("records/*.json")}
    shutil.rmtree(results / "ray")
    refused = tune(tiny, "--results", tmp_path / "results")
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    resumed = tune(tiny, "--results", tmp_path / "results", "--resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    after = {path.name: path.stat().st_mtime_ns for path in results.glob("records/*.json")}
    assert {name: after[name] for name in kept} == kept
    assert_same_tables(finished / "results" / "tiny", results)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_study_says_how_to_go_on_and_keeps_its_checkpoints(
    number: int, code: int, tiny: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results" / "tiny"
    process = start(tiny, "--results", tmp_path / "results", "--set", "train.epochs=5000")
    wait_until(lambda: any(results.glob("checkpoints/*/epoch-*.pt")), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=90)
    assert process.returncode == code, out + err
    assert "continue with --resume" in out
    assert any(results.glob("checkpoints/*/epoch-*.pt"))
    assert not any(path.name.endswith(".part") for path in results.glob("records/*"))


def test_two_drivers_on_one_folder_are_refused(tiny: Path, tune: Tune, tmp_path: Path) -> None:
    process = start(tiny, "--results", tmp_path / "results", "--set", "train.epochs=5000")
    try:
        wait_until(lambda: (tmp_path / "results" / "tiny" / "study.yaml").exists(), process)
        second = tune(tiny, "--results", tmp_path / "results", "--set", "train.epochs=5000", "--resume", timeout=120)
        assert second.returncode == 2
        assert "in use by another run" in second.stderr
    finally:
        process.kill()
        process.communicate()


def test_resources_that_the_machine_does_not_have_are_refused_at_once(tiny: Path, tune: Tune, tmp_path: Path) -> None:
    refused = tune(tiny, "--results", tmp_path / "results", "--set", "resources.cpu=4096")
    assert refused.returncode == 2
    assert "resources.cpu asks for 4096 CPUs" in refused.stderr
