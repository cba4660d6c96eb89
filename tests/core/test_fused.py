"""Trainings fused into one network: each has a single one's numbers, checkpoint, record and end."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from puzzle_study import config
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors import checkpoint
from puzzle_study.detectors.base import Run, TrainingDiverged
from puzzle_study.detectors.puzzle_ae import fused
from puzzle_study.detectors.puzzle_ae.training import Trainer
from puzzle_study.results import Results
from puzzle_study.trials.record import Record, read_record
from puzzle_study.trials.run import Trial, run
from puzzle_study.trials.spec import TrialSpec
from puzzle_study.trials.together import run_together

from . import tiny
from .tiny import CPU

# The last batches of an epoch have four, four and three images.
COUNTS = (12, 12, 11)
MEMBERS: Sequence[dict[str, Any]] = (
    {"train.lambda": 0.02, "train.adversary.epsilon": 0.1},
    {"train.lambda": 0.3, "train.adversary.epsilon": 0.05, "train.learning_rate": 3e-3, "train.schedule": "one_cycle"},
    {"train.lambda": 0.1, "train.adversary.alpha": 0.07, "train.weight_decay": 0.01, "puzzle.hide": "none"},
)
CASES: dict[str, dict[str, Any]] = {
    "paper": {},
    "averaging, element by element": {"train.averaging": 0.5, "train.feature_loss": "elementwise"},
    "pgd, authors' code": {
        "train.adversary.method": "pgd",
        "train.adversary.steps": 2,
        "train.adversary.noise": "twice",
        "train.adversary.target": "noisy",
        "puzzle.per_batch": True,
    },
    "neither adversary nor discriminator": {"train.adversary.method": "none", "train.lambda": 0.0},
    "nine pieces": {"puzzle.grid": 3, "puzzle.count": 5},
}


# A sign that flips at a gradient near 0 makes rounding visible in the second epoch.
SMOOTH: dict[str, Any] = {"train.adversary.method": "none"}


class Kept(Run):
    """Keeps rows and states, and begins with a state."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.rows: list[dict[str, float]] = []
        self.states: list[dict[str, Any]] = []
        self.state = state

    def resumed(self) -> dict[str, Any] | None:
        return self.state

    def epoch(self, row: dict[str, float], state: Callable[[], dict[str, Any]], *, last: bool) -> None:
        self.rows.append(row)
        self.states.append(copy.deepcopy(state()))


def members(changed: dict[str, Any], epochs: int) -> list[config.Settings]:
    return [tiny.settings({**member, **changed, "train.epochs": epochs}) for member in MEMBERS]


def images() -> list[Tensor]:
    return [tiny.images(count, seed=number) for number, count in enumerate(COUNTS)]


def together(settings: Sequence[config.Settings], runs: Sequence[Run]) -> tuple[list[Trainer], list[Exception | None]]:
    trainers = [tiny.trainer(one, seed=seed) for seed, one in enumerate(settings)]
    return trainers, fused.train_together(trainers, images(), runs, lambda _: None)


def written(folder: Path, state: dict[str, Any]) -> Path:
    """The checkpoint of a state."""
    with checkpoint.Keeper(folder) as keeper:
        keeper.keep(1, state, last=True)
    (path,) = checkpoint.checkpoints(folder)
    return path


def assert_close(one: Any, other: Any) -> None:
    """Nested states are alike: tensors to 1e-5, all else equal."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_close(one[name], other[name])
    elif isinstance(one, (Tensor, float)):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    else:
        assert one == other


@pytest.mark.parametrize("case", CASES)
def test_each_of_several_fused_trainings_has_the_numbers_of_a_single_one_after_an_epoch(case: str) -> None:
    runs = [Kept() for _ in MEMBERS]
    trainers, errors = together(members(CASES[case], 1), runs)
    assert errors == [None] * len(MEMBERS)
    for seed, (settings, data, trainer, kept) in enumerate(
        zip(members(CASES[case], 1), images(), trainers, runs, strict=True)
    ):
        single, losses = tiny.train(settings, data, seed=seed)
        row = kept.rows[0]
        assert [row["loss_rec"], row["loss_adv"], row["loss_d"]] == pytest.approx(
            [losses[0].loss_rec, losses[0].loss_adv, losses[0].loss_d], rel=1e-5, abs=1e-7
        )
        assert row["lr"] == losses[0].lr
        assert_close(trainer.state(), single.state())
        assert torch.equal(trainer.generator.get_state(), single.generator.get_state()), "it drew as alone"
        assert not tiny.same_state(trainer.network.state_dict(), tiny.trainer(settings, seed=seed).network.state_dict())


def test_a_checkpoint_of_a_fused_training_is_a_single_ones_and_the_reverse(tmp_path: Path) -> None:
    settings = members(SMOOTH, 2)
    runs = [Kept() for _ in MEMBERS]
    whole, _ = together(settings, runs)
    files = [written(tmp_path / str(number), kept.states[0]) for number, kept in enumerate(runs)]
    single = tiny.trainer(settings[0], seed=99)
    alone = written(tmp_path / "single", tiny.trainer(settings[0]).state())
    assert files[0].stat().st_size < 4 * alone.stat().st_size, "it holds no other member"
    single.restore(checkpoint.read(files[0]))
    single.epoch(images()[0])
    assert_close(single.state(), whole[0].state())
    # The last member's checkpoint is lost: it begins anew, beside others that are an epoch further.
    states = [checkpoint.read(file) for file in files[:2]]
    single_again = tiny.trainer(settings[1], seed=1)
    single_again.epoch(images()[1])
    resumed = [Kept(states[0]), Kept(single_again.state()), Kept()]
    again, errors = together(settings, resumed)
    assert errors == [None] * len(MEMBERS)
    assert [len(kept.rows) for kept in resumed] == [1, 1, 2]
    for one, other in zip(again, whole, strict=True):
        assert_close(one.state(), other.state())


@pytest.mark.parametrize("diverging", range(len(MEMBERS)))
def test_a_member_that_diverges_ends_alone_and_harms_no_other(diverging: int) -> None:
    settings = members(SMOOTH, 2)
    plain, runs = [Kept() for _ in MEMBERS], [Kept() for _ in MEMBERS]
    together(settings, plain)
    trainers = [tiny.trainer(one, seed=seed) for seed, one in enumerate(settings)]
    with torch.no_grad():
        for weight in trainers[diverging].network.parameters():
            weight.fill_(math.nan)
    errors = fused.train_together(trainers, images(), runs, lambda _: None)
    for number, (error, kept, expected) in enumerate(zip(errors, runs, plain, strict=True)):
        if number == diverging:
            assert isinstance(error, TrainingDiverged)
            assert not kept.rows
        else:
            assert error is None
            assert_close(kept.states[-1], expected.states[-1])


VALUES: dict[str, Any] = SMOOTH | tiny.SMALL | {"train.epochs": 2}


def specs() -> list[TrialSpec]:
    """Two configurations and another class, of equal shape."""
    first, other = (tiny.settings({**VALUES, "train.lambda": value}) for value in (0.02, 0.1))
    found = [
        TrialSpec(settings, TaskSpec("digits", name), 0, "0" * 16)
        for settings, name in ((first, "3"), (other, "3"), (first, "8"))
    ]
    assert len({spec.settings.own.alike() for spec in found}) == 1
    return found


def run_all(folder: Path, chosen: Sequence[TrialSpec]) -> tuple[Results, list[Record]]:
    results = Results(folder)
    trials = [Trial(spec, results, device=CPU) for spec in chosen]
    return results, [trial.ended for trial in run_together(trials)]


@pytest.fixture(scope="module")
def separate(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("separate")
    return [run(spec, Results(folder), device=CPU) for spec in specs()]


def assert_same_numbers(one: Record, other: Record) -> None:
    assert one.finished
    assert one.spec == other.spec
    for name in ("loss_rec", "loss_adv", "loss_d"):
        assert one.history[name] == pytest.approx(other.history[name], rel=1e-4)
    assert one.measured["val_error"] == pytest.approx(other.measured["val_error"], rel=1e-4)
    assert one.measured["images_seen"] == other.measured["images_seen"]


def test_trials_that_run_together_leave_what_each_would_alone(tmp_path: Path, separate: list[Record]) -> None:
    results, found = run_all(tmp_path, specs())
    for record, alone in zip(found, separate, strict=True):
        assert_same_numbers(record, alone)
        kept = read_record(results, record.spec.key)
        assert kept is not None
        assert kept.metrics == record.metrics
        log = results.log_file(record.spec.key).read_text(encoding="utf-8")
        assert log.count("epoch 1") == log.count("epoch 2") == 1, "it tells of its own epochs only"
        assert not results.checkpoints(record.spec.key).exists()
        assert (results.detector(record.spec.key) / "weights.safetensors").stat().st_size < 2_000_000
    together = sum(record.seconds for record in found)
    assert 0 < sum(record.measured["train_seconds"] for record in found) < together


def test_a_trial_that_fails_beside_others_is_recorded_and_the_rest_finish(
    tmp_path: Path, separate: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = specs()
    ended = Trainer.ended

    def diverging(self: Trainer, losses: Tensor) -> Any:
        return ended(self, losses * math.nan if self.settings.lambda_ == 0.1 else losses)

    monkeypatch.setattr(Trainer, "ended", diverging)
    results, found = run_all(tmp_path, chosen)
    assert [record.status for record in found] == ["finished", "failed", "finished"]
    assert "not finite after epoch 1" in found[1].error
    assert "not finite" not in results.log_file(chosen[0].key).read_text(encoding="utf-8")
    for place in (0, 2):
        assert_same_numbers(found[place], separate[place])


def test_if_memory_is_too_small_for_all_they_run_one_after_the_other(
    tmp_path: Path, separate: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(self: fused.Stack, batches: Sequence[Tensor]) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(fused.Stack, "step", too_much)
    results, found = run_all(tmp_path, specs()[:2])
    for record, alone in zip(found, separate, strict=False):
        assert_same_numbers(record, alone)
        assert "one after the other" in results.log_file(record.spec.key).read_text(encoding="utf-8")
