"""Real studies on a real Ray cluster, run as a user runs them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from click.testing import CliRunner

from puzzle_study.tune import main as tune_main
from tests.study.conftest import TINY, Tune, kill, start, wait_until
from tests.study.test_cluster import assert_closed_to_others

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


def assert_same_tables(one: Path, other: Path, *, bits: bool = True) -> None:
    """Compare to the bit, or to what rounding changes: the order of one normal and one anomalous image in 900 pairs."""
    tolerance = {"check_exact": True} if bits else {"rtol": 1e-3, "atol": 2e-3}
    for name, table in tables(one).items():
        pd.testing.assert_frame_equal(table, tables(other)[name], obj=name, **tolerance)


def epochs_kept(results: Path) -> set[int]:
    """The epochs from which the two fused trainings go on."""
    trained = {path.stem for path in results.glob("records/*.json") if json.loads(path.read_text())["history"]}
    newest = {path.parent.name: int(path.stem[-1]) for path in sorted(results.glob("checkpoints/*/epoch-*.pt"))}
    numbers = [2] * len(trained) + [number for key, number in newest.items() if key not in trained]
    return {*numbers, *([0] if len(numbers) < 2 else [])}


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
    assert environment["hardware"]["fused"] == 2
    logs = [path.read_text(encoding="utf-8") for path in results.glob("logs/*.log")]
    assert sum("fitted together" in log for log in logs) == 2
    page = (results / "report" / "index.html").read_text(encoding="utf-8")
    assert "training 0" in page
    assert "(0,)" not in page
    assert "last 2 evaluations" in page
    assert "last 20 evaluations" not in page


def test_a_finished_study_says_so_and_changes_nothing(finished: Path) -> None:
    results = finished / "results" / "tiny"
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    again = CliRunner().invoke(tune_main, [str(finished / "tiny.yaml"), "--results", str(finished / "results")])
    assert again.exit_code == 0, again.output
    assert "tiny is finished" in again.output
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()} == before


def test_a_killed_driver_of_the_resolved_study_resumes_without_ray_state_and_ends_with_the_same_tables(
    tune: Tune, finished: Path, tmp_path: Path
) -> None:
    arguments = (str(finished / "results" / "tiny" / "study.yaml"), "--results", str(tmp_path))
    results = tmp_path / "tiny"
    process = start(*arguments)
    wait_until(lambda: any(results.glob("records/*.json")), process)
    kill(process)
    # Beside a training that is an epoch further, the last steps are not fused as they were: their last bits differ.
    aligned = len(epochs_kept(results)) == 1
    kept = {path.name: path.stat().st_mtime_ns for path in results.glob("records/*.json")}
    shutil.rmtree(results / "ray")
    refused = CliRunner().invoke(tune_main, arguments)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    resumed = tune(*arguments, "--resume", "--verbose")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "finished after" in resumed.stdout
    assert "Failed to fetch metrics" not in resumed.stdout + resumed.stderr
    after = {path.name: path.stat().st_mtime_ns for path in results.glob("records/*.json")}
    assert {name: after[name] for name in kept} == kept
    assert_same_tables(finished / "results" / "tiny", results, bits=aligned)


def assert_interrupted(process: subprocess.Popen[str], number: int, code: int, results: Path) -> None:
    """Send a running study a signal, and look at how it ends."""
    process.send_signal(number)
    out, err = process.communicate(timeout=90)
    assert process.returncode == code, out + err
    assert "continue with --resume" in out
    assert any(results.glob("checkpoints/*/epoch-*.pt"))
    assert not any(path.name.endswith(".part") for path in results.glob("records/*"))


def test_a_running_study_keeps_others_out_and_an_interrupted_one_says_how_to_go_on_and_keeps_its_checkpoints(
    tiny: Path, tmp_path: Path
) -> None:
    """By Ctrl-C, and when it goes on, by SIGTERM; until then nothing of it is open to others."""
    results = tmp_path / "results" / "tiny"
    arguments = [str(tiny), "--results", str(tmp_path / "results"), "--set", "train.epochs=5000"]
    process = start(*arguments)
    try:
        wait_until(lambda: any(results.glob("checkpoints/*/epoch-*.pt")), process)
        folder = assert_closed_to_others(psutil.Process(process.pid))
        second = CliRunner().invoke(tune_main, [*arguments, "--resume"])
        assert second.exit_code == 2
        assert "in use by another run" in second.stderr
        assert_interrupted(process, signal.SIGINT, 130, results)
        assert not folder.exists()
        process = start(*arguments, "--resume")
        wait_until(lambda: any("going on after" in path.read_text() for path in results.glob("logs/*.log")), process)
        assert_interrupted(process, signal.SIGTERM, 143, results)
    finally:
        process.kill()
        process.communicate()
