"""Several trials by one training: each leaves what its own training would, to the bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from puzzle_study.config import layers
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors.puzzle_ae.training import Trainer
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.results import Results
from puzzle_study.trials import run
from puzzle_study.trials.along import run_along
from puzzle_study.trials.record import Record, read_record
from puzzle_study.trials.run import Trial
from puzzle_study.trials.spec import TrialSpec

from . import tiny
from .test_trial_run import Interrupted, interrupt_after, numbers, same_errors
from .tiny import CPU

ALONG = ("train.averaging", "train.epochs")
# Epochs 1 and 3 are not due to be evaluated; at 4 two averages end.
ENDS = [(0.0, 1), (0.5, 3), (0.0, 4), (0.5, 4)]
VALUES: dict[str, Any] = tiny.SMALL | {"evaluate.every": 2}


def specs(ends: Sequence[tuple[float, int]] = ENDS, **changed: Any) -> list[TrialSpec]:
    found = [
        replace(tiny.trial({**VALUES, **changed, "train.averaging": decay, "train.epochs": epochs}), along=ALONG)
        for decay, epochs in ends
    ]
    assert len({spec.stem for spec in found}) == 1
    return found


def along(chosen: Sequence[TrialSpec], results: Results, on_epoch: Any = None) -> list[str]:
    """Run trials by one training; returns their keys in the order of their ends."""
    ended: list[str] = []

    def tell(trial: Trial) -> None:
        assert results.record(trial.spec.key) is not None
        ended.append(trial.spec.key)

    run_along([Trial(spec, results, device=CPU, on_epoch=on_epoch) for spec in chosen], tell)
    return ended


@pytest.fixture(scope="module")
def separate(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of the separate trainings."""
    results = Results(tmp_path_factory.mktemp("separate"))
    for spec in specs():
        run.run(spec, results, device=CPU)
    return results


def record_of(results: Results, spec: TrialSpec) -> Record:
    record = read_record(results, spec.key)
    assert record is not None
    return record


def assert_same(results: Results, separate: Results, spec: TrialSpec) -> None:
    one, other = record_of(results, spec), record_of(separate, spec)
    assert one.finished
    assert numbers(one) == numbers(other)
    assert same_errors(results.errors(spec.key), separate.errors(spec.key))
    weights = [(found.detector(spec.key) / "weights.safetensors").read_bytes() for found in (results, separate)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_trials_of_one_training_leave_what_separate_trainings_do(
    tmp_path: Path, separate: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = list[int]()
    step = Trainer.step

    def counted(self: Trainer, x_NCHW: Tensor) -> Tensor:
        steps.append(len(x_NCHW))
        return step(self, x_NCHW)

    monkeypatch.setattr(Trainer, "step", counted)
    results, chosen = Results(tmp_path), specs()
    ended = along(chosen[::-1], results)
    assert ended == [chosen[0].key, chosen[1].key, chosen[3].key, chosen[2].key], "the trained one is the last"
    for spec in chosen:
        assert_same(results, separate, spec)
    images = record_of(separate, chosen[2]).measured["images_seen"]
    assert sum(steps) == images, "the longest was trained, and nothing else"
    assert not results.checkpoints(chosen[0].stem).exists()
    seconds = [record_of(results, spec).seconds for spec in (chosen[0], chosen[2])]
    assert 0 < seconds[0] < seconds[1]
    logs = [results.log_file(spec.key).read_text(encoding="utf-8") for spec in chosen]
    assert [log.count("epoch 2,") for log in logs] == [0, 0, 1, 0]
    assert f"along with trial {chosen[2].key}" in logs[0]


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 2, 4])
def test_it_goes_on_from_its_checkpoint_to_the_same_bits(after: int, tmp_path: Path, separate: Results) -> None:
    results, chosen = Results(tmp_path), specs()
    with pytest.raises(Interrupted):
        along(chosen, results, interrupt_after(after))
    left = [spec for spec in chosen if results.record(spec.key) is None]
    assert len(left) == {1: 4, 2: 3, 4: 2}[after]
    trained = list[float]()
    along(left, results, lambda row: trained.append(row["epoch"]))
    assert trained == list(range(after + 1, 5)), "what the checkpoint has is not trained again"
    for spec in chosen:
        assert_same(results, separate, spec)


@pytest.mark.slow
def test_a_new_end_at_an_epoch_of_the_checkpoint_that_was_not_measured_is_trained_anew(
    tmp_path: Path, separate: Results
) -> None:
    results, chosen = Results(tmp_path), specs()
    added = chosen[1]  # ends at 3
    with pytest.raises(Interrupted):
        along([spec for spec in chosen if spec is not added], results, interrupt_after(3))
    along([spec for spec in chosen if results.record(spec.key) is None], results)
    for spec in chosen:
        assert_same(results, separate, spec)


@pytest.mark.slow
def test_a_trial_that_the_checkpoint_has_passed_is_trained_anew_after_the_others(
    tmp_path: Path, separate: Results
) -> None:
    results, chosen = Results(tmp_path), specs()
    with pytest.raises(Interrupted):
        along(chosen, results, interrupt_after(2))
    results.remove_record(chosen[0].key)
    trained = list[float]()
    assert along(chosen, results, lambda row: trained.append(row["epoch"]))[-1] == chosen[0].key
    assert trained == [3, 4, 1]
    for spec in chosen:
        assert_same(results, separate, spec)
    assert not results.checkpoints(chosen[0].stem).exists()


@pytest.mark.slow
def test_a_training_that_diverges_fails_the_trials_that_need_more_epochs(
    tmp_path: Path, separate: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Trainer.ended

    def diverging(self: Trainer, losses: Tensor) -> Any:
        return ended(self, losses * (math.nan if self.epochs_done == 2 else 1.0))

    monkeypatch.setattr(Trainer, "ended", diverging)
    results, chosen = Results(tmp_path), specs()
    along(chosen, results)
    assert_same(results, separate, chosen[0])
    for spec in chosen[1:]:
        record = record_of(results, spec)
        assert record.status == "failed"
        assert "not finite after epoch 3" in record.error
        assert f"logs/{spec.key}.log" in record.error
        assert record.seconds > 0
    assert not results.checkpoints(chosen[0].stem).exists()


@pytest.mark.slow
def test_a_trial_that_fails_at_its_end_harms_no_other(
    tmp_path: Path, separate: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Trial.finish

    def failing(self: Trial) -> None:
        if self.spec == specs()[1]:
            raise MemoryError
        finish(self)

    monkeypatch.setattr(Trial, "finish", failing)
    results, chosen = Results(tmp_path), specs()
    along(chosen, results)
    assert [record_of(results, spec).status for spec in chosen] == ["finished", "failed", "finished", "finished"]
    assert_same(results, separate, chosen[3])


@pytest.mark.slow
def test_trainings_that_converge_before_their_last_epoch_end_together(tmp_path: Path) -> None:
    # A rate this small leaves the loss to chance, so that it soon finds no new minimum.
    chosen = specs([(0.0, 1), (0.0, 30), (0.0, 40)], **{"train.convergence_epochs": 1, "train.learning_rate": 1e-12})
    alone = Results(tmp_path / "alone")
    for spec in chosen:
        run.run(spec, alone, device=CPU)
    assert record_of(alone, chosen[2]).measured["epochs"] < 30
    results = Results(tmp_path / "along")
    along(chosen, results)
    for spec in chosen:
        assert_same(results, alone, spec)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ae_l2", "dsvdd", "lsa"])
def test_any_detector_is_read_along_its_training(kind: str, tmp_path: Path) -> None:
    Settings = DETECTORS[kind].Settings
    chosen = [
        TrialSpec(
            tiny.settings(VALUES).model_copy(
                update={
                    "detector": kind,
                    "own": Settings.model_validate(layers.merge(Settings.SMALL, {"train": {"epochs": epochs}})),
                }
            ),
            TaskSpec("digits", "3"),
            0,
            "0" * 16,
            along=("train.epochs",),
        )
        for epochs in (1, 3)
    ]
    alone, results = Results(tmp_path / "alone"), Results(tmp_path / "along")
    for spec in chosen:
        run.run(spec, alone, device=CPU)
    assert along(chosen, results) == [spec.key for spec in chosen]
    for spec in chosen:
        assert_same(results, alone, spec)


OTHER_VALUES: dict[str, dict[str, Any]] = {
    "rate": {"train.learning_rate": 0.5},
    "schedule": {"train.schedule": "plateau", "train.plateau_factor": 0.5},
    "discriminator": {"train.lambda": 0.5},
}


@pytest.mark.parametrize("what", OTHER_VALUES)
def test_trials_that_differ_in_anything_else_have_other_stems(what: str) -> None:
    one, other = (replace(tiny.trial({**VALUES, **more}), along=ALONG) for more in ({}, OTHER_VALUES[what]))
    assert one.stem != other.stem
    assert one.way != other.way
    assert replace(one, seed=1).stem != one.stem != one.key


def test_what_determines_nothing_is_sent_to_a_worker_and_changes_no_name() -> None:
    spec = specs()[0]
    there = TrialSpec.from_json(spec.to_json())
    assert (there, there.along, there.stem, there.way) == (spec, ALONG, spec.stem, spec.way)
    alone = replace(spec, along=())
    assert (alone.key, alone.stem, alone.way) == (spec.key, spec.key, spec.key)
    assert "along" not in alone.to_json()


CLAIMS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"train.schedule": "plateau"}, ALONG),
    ({"train.schedule": "constant"}, ALONG),
    ({"train.schedule": "one_cycle"}, ("train.averaging",)),
    ({"train.epochs": 0}, ()),
]


@pytest.mark.parametrize(("values", "claimed"), CLAIMS, ids=str)
def test_epochs_are_met_along_a_training_unless_the_rate_knows_how_many_follow(
    values: dict[str, Any], claimed: tuple[str, ...]
) -> None:
    assert tiny.settings(values).own.along() == claimed
