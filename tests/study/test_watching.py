"""A study whose Ray goes away says so at once, where Ray itself would end it later and without a word."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from puzzle_study.results import Results
from tests.study.conftest import end, finish_here, start, start_process, wait_until

pytestmark = pytest.mark.slow

STUDY = """
name: watched
data: {name: digits, normal_classes: [3], max_train_images: 60, max_test_images: 40}
model: {base_channels: 2}
train: {epochs: 100, batch_size: 16, precision: float32}
evaluate: {every: 100, max_images: 20}
references: []
"""
WAITING = """
import time
from rich.console import Console
from puzzle_study import config
from puzzle_study.study.ray.cluster import local_ray
from puzzle_study.study.watching import watched_ray
with local_ray(config.Resources()), watched_ray(Console()):
    print("watched", flush=True)
    time.sleep(60)
"""


def kill_and_read(name: str, driver: subprocess.Popen[str]) -> str:
    """Kill a process that a driver's Ray started, and return what the driver, which must end at once, says of it."""
    of_ray = psutil.Process(driver.pid).children(recursive=True)
    next(process for process in of_ray if process.name() == name).kill()
    killed = time.monotonic()
    out, err = driver.communicate(timeout=60)
    assert time.monotonic() - killed < 10
    assert driver.returncode == 2, out + err
    end(of_ray)  # without a raylet, a worker goes on with its trial for seconds
    return err


def test_a_study_whose_raylet_is_killed_says_so_at_once_and_goes_on_with_resume(tmp_path: Path) -> None:
    study, results = tmp_path / "watched.yaml", Results(tmp_path / "results" / "watched")
    study.write_text(STUDY, encoding="utf-8")
    driver = start(study, "--results", tmp_path / "results")
    wait_until(lambda: any(results.root.glob("checkpoints/*/epoch-0000[1-9]?.pt")), driver)
    said = kill_and_read("raylet", driver)
    assert said.startswith("error: Ray on this machine stopped: its raylet ended (see /"), said
    assert said.endswith("continue with --resume\n")
    assert said.count("\n") == 1, said
    finish_here(study, tmp_path / "results")
    (key,) = pd.read_csv(results.trials_file).trial
    assert "going on after epoch" in results.log_file(key).read_text(encoding="utf-8")


@pytest.mark.parametrize(("process", "name"), [("gcs_server", "gcs_server"), ("ray::RuntimeEnvAgent", "agent")])
def test_the_other_processes_that_ray_cannot_do_without_are_watched_too(process: str, name: str) -> None:
    driver = start_process([sys.executable, "-c", WAITING], os.environ)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "watched\n"
    assert f"error: Ray on this machine stopped: its {name} ended" in kill_and_read(process, driver)
