"""What a trial tells in its log: start, epochs, where it went on, and why it failed."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch

from puzzle_study.detectors.puzzle_ae.training import Trainer
from puzzle_study.results import Results
from puzzle_study.trials import run
from puzzle_study.trials.following import EpochCallback
from puzzle_study.trials.log import trial_log

from . import tiny
from .tiny import CPU

VALUES = {"train.epochs": 3, "train.batch_size": 8, "data.max_train_images": 24, "data.max_test_images": 20}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUZZLE_STUDY_CACHE", str(tmp_path / "cache"))


def stop_after(epoch: int) -> EpochCallback:
    def on_epoch(row: dict[str, float]) -> None:
        if row["epoch"] == epoch:
            raise OSError("the cable was pulled")

    return on_epoch


def test_a_trial_tells_its_settings_its_epochs_where_it_went_on_and_its_end(tmp_path: Path) -> None:
    spec, results = tiny.trial(VALUES), Results(tmp_path)
    with pytest.raises(OSError, match="cable"):
        run.run(spec, results, device=CPU, on_epoch=stop_after(2))
    first = results.log_file(spec.key).read_text(encoding="utf-8")
    assert f"trial {spec.key}: puzzle_ae, configuration {spec.configuration}, digits, normal class 3" in first
    assert "epoch 1, loss_rec " in first
    assert "Traceback" in first
    assert "OSError: the cable was pulled" in first
    run.run(spec, results, device=CPU)
    whole = results.log_file(spec.key).read_text(encoding="utf-8")
    assert whole.startswith(first)
    rest = whole.removeprefix(first)
    assert "going on after epoch 2" in rest
    assert "epoch 3, loss_rec " in rest
    assert "epoch 2, " not in rest
    assert f"trial {spec.key} finished after " in rest


def test_a_failed_trial_leaves_its_traceback_and_its_sentence_points_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer._step
    monkeypatch.setattr(Trainer, "_step", lambda self, x_NCHW: original(self, x_NCHW) * torch.tensor(math.nan))
    spec, results = tiny.trial(VALUES), Results(tmp_path)
    record = run.run(spec, results, device=CPU)
    assert record.error.endswith(f"(see logs/{spec.key}.log)")
    told = results.log_file(spec.key).read_text(encoding="utf-8")
    assert "the loss is not finite after epoch 1" in told
    assert "Traceback" in told


def test_logs_of_trials_do_not_mix_and_the_loggers_are_left_as_they_were(tmp_path: Path) -> None:
    package = logging.getLogger("puzzle_study")
    before = package.level, list(package.handlers)
    for name in ("one", "two"):
        with trial_log(tmp_path / f"{name}.log"):
            logging.getLogger("puzzle_study.trials").info("this is %s", name)
    assert "this is one" in (tmp_path / "one.log").read_text(encoding="utf-8")
    assert "this is one" not in (tmp_path / "two.log").read_text(encoding="utf-8")
    assert (package.level, package.handlers) == before


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    full = tmp_path / "full.log"
    full.symlink_to("/dev/full")
    with trial_log(full):
        logging.getLogger("puzzle_study.trials").info("lost")
    assert "lost" not in capfd.readouterr().err
