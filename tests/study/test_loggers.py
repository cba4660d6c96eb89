"""Ray's loggers: what is missing is said before anything is started; MLflow and W&B follow trials where they are."""

from __future__ import annotations

import importlib.util
import re
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from puzzle_study.config import read
from puzzle_study.errors import UserError
from puzzle_study.study.engine import run_study
from tests.study.conftest import Tune

STUDY = """
name: logged
data: {name: digits, normal_classes: [3], max_train_images: 60, max_test_images: 40}
model: {base_channels: 2}
train: {epochs: 1, batch_size: 32, precision: float32}
references: []
loggers: [mlflow, wandb]
"""
NEEDED = ("mlflow", "wandb")


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """A study file that asks for loggers."""
    path = tmp_path / "logged.yaml"
    path.write_text(STUDY, encoding="utf-8")
    return path


def refused(study: Path, results: Path) -> str:
    """The sentence with which a study is refused; nothing of it has begun."""
    with pytest.raises(UserError) as caught:
        run_study(read.load(study), results, resume=False, console=Console(file=StringIO()))
    assert not (results / "logged" / "study.yaml").exists()
    return str(caught.value)


def test_a_logger_whose_package_is_missing_is_refused_in_a_sentence(
    logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused(logged, tmp_path / "results") == (
        "loggers names mlflow, but the package mlflow is not installed; pip install mlflow, or remove it from loggers"
    )


def test_wandb_without_an_account_is_refused_in_a_sentence(
    logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a W&B that nobody has logged in to, a module without a key."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    logged.write_text(STUDY.replace("[mlflow, wandb]", "[wandb]"), encoding="utf-8")
    assert refused(logged, tmp_path / "results") == (
        "loggers names wandb, but W&B has no API key here; run `wandb login`, set WANDB_API_KEY or, "
        "to log to files alone, WANDB_MODE=offline"
    )


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason=f"needs {' and '.join(NEEDED)}"
)
def test_mlflow_and_wandb_follow_the_trials(
    logged: Path, tmp_path: Path, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = tune(logged, "--results", tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mlflow" not in done.stderr
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'logged' / 'ray' / 'mlflow.db'}")
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FINISHED"
    assert re.fullmatch(r"0 \(\w{8}\), \d+, seed 0", run.info.run_name)
    assert run.data.params["spec/settings/own/model/base_channels"] == "2"
    assert run.data.metrics["loss_rec"] > 0
    assert list((tmp_path / "logged" / "ray").glob("*/*/wandb/offline-run-*/run-*.wandb"))
