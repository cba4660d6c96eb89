"""Trainings: the same numbers for the same seed, whole or cut and resumed anywhere; when they stop or fail."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from puzzle_study import config
from puzzle_study.detectors import checkpoint
from puzzle_study.detectors.base import TrainingDiverged
from puzzle_study.detectors.puzzle_ae.training import averaging_decay

from . import tiny

pytestmark = pytest.mark.slow

EPOCHS = 5
CASES: dict[str, dict[str, Any]] = {
    "paper": {},
    "authors_code": {
        "puzzle.per_batch": True,
        "train.feature_loss": "elementwise",
        "train.adversary.noise": "twice",
        "train.adversary.target": "noisy",
    },
    "plateau_at_every_epoch": {"train.plateau_patience": 1, "train.learning_rate": 0.05},
    "one_cycle": {"train.schedule": "one_cycle", "model.initialisation": "he"},
    "constant": {"train.schedule": "constant"},
    "averaging": {"train.averaging": 0.5},
    "without_discriminator": {"train.lambda": 0.0},
    "nine_pieces": {"puzzle.grid": 3, "puzzle.count": 5},
    "rotations": {"puzzle.kind": "rotation"},
    "pgd": {"train.adversary.method": "pgd", "train.adversary.steps": 2, "train.adversary.alpha": 0.05},
    "converging": {"train.convergence_epochs": 2, "train.learning_rate": 1e-6},
}
DATA = tiny.images(7)


def case_settings(case: str) -> config.Settings:
    return tiny.settings({"train.epochs": EPOCHS} | CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_the_same_seed_gives_the_same_weights_and_losses_to_the_bit(case: str) -> None:
    one, losses = tiny.train(case_settings(case), DATA, seed=3)
    torch.manual_seed(12345)
    torch.rand(7)
    other, again = tiny.train(case_settings(case), DATA, seed=3)
    assert losses == again
    assert tiny.same_state(one.state(), other.state())
    assert tiny.trainer(case_settings(case), seed=4).epoch(DATA).loss_rec != losses[0].loss_rec
    if case == "plateau_at_every_epoch":
        assert losses[-1].lr < losses[0].lr


@pytest.mark.parametrize("case", CASES)
def test_a_training_cut_after_any_epoch_and_resumed_is_the_same_to_the_bit(case: str, tmp_path: Path) -> None:
    settings = case_settings(case)
    whole = tiny.trainer(settings)
    losses = []
    while not whole.finished:
        losses.append(whole.epoch(DATA))
        checkpoint.save(tmp_path / str(whole.epochs_done), whole.epochs_done, {"trainer": whole.state()})
    for cut in range(1, len(losses)):
        resumed = tiny.trainer(settings, seed=99)
        state = checkpoint.load_newest(tmp_path / str(cut))
        assert state is not None
        resumed.restore(state["trainer"])
        rest = [resumed.epoch(DATA) for _ in losses[cut:]]
        assert rest == losses[cut:]
        assert resumed.finished
        assert tiny.same_state(resumed.state(), whole.state())


def test_averaged_weights_are_the_moving_average_over_steps_and_leave_the_training_as_it_is() -> None:
    limit = 0.22  # reached in between: the decays are 2/11, then 3/12 and more
    plain, averaged = (
        tiny.trainer(tiny.settings({"train.averaging": decay, "train.batch_size": 7})) for decay in (0.0, limit)
    )
    assert plain.solver is plain.network
    expected: dict[str, torch.Tensor] = {}
    for step in range(EPOCHS):  # of one step each
        assert plain.epoch(DATA) == averaged.epoch(DATA)
        new = 1 - (2 / 11 if step == 1 else limit)
        for name, weight in plain.network.named_parameters():
            expected[name] = weight.detach().clone() if name not in expected else expected[name].lerp(weight, new)
    assert tiny.same_state(plain.network.state_dict(), averaged.network.state_dict())
    for name, weight in averaged.solver.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name].detach())
        assert not torch.equal(weight, plain.network.get_parameter(name))


@pytest.mark.parametrize("steps", [50, 500, 20_000])
def test_averaged_weights_hold_next_to_nothing_of_the_first_step_however_short_the_training_is(steps: int) -> None:
    decays = [averaging_decay(0.998, step) for step in range(1, steps)]
    assert math.prod(decays) < 1e-6
    assert decays == sorted(decays)
    assert decays[-1] <= 0.998


def test_the_plateau_schedule_multiplies_by_its_factor_after_one_epoch_more_than_its_patience() -> None:
    trainer = tiny.trainer(tiny.settings({"train.plateau_patience": 2, "train.plateau_factor": 0.5}))
    rates = []
    for loss in (1.0, 0.9, 0.9, 0.95, 0.95, 0.8):
        trainer.plateau.step(loss)
        rates.append(trainer.optimiser.param_groups[0]["lr"])
    assert rates == [1e-3, 1e-3, 1e-3, 1e-3, 5e-4, 5e-4]


def test_the_smallest_new_minimum_is_no_plateau() -> None:
    trainer = tiny.trainer(tiny.settings({"train.plateau_patience": 1}))
    for step in range(6):
        trainer.plateau.step(1 - 1e-6 * step)
    assert trainer.optimiser.param_groups[0]["lr"] == 1e-3


def test_one_cycle_ends_near_zero_and_peaks_at_the_learning_rate() -> None:
    values = {"train.schedule": "one_cycle", "train.epochs": 20, "train.learning_rate": 0.01, "train.lambda": 0.0}
    _, losses = tiny.train(tiny.settings(values), DATA)
    rates = [row.lr for row in losses]
    assert max(rates) == pytest.approx(0.01, rel=0.02)
    assert rates[-1] < 2e-4
    assert rates.index(max(rates)) in (1, 2)


def test_losses_fall() -> None:
    values = {"train.epochs": 30, "train.learning_rate": 5e-3, "model.initialisation": "he"}
    _, losses = tiny.train(tiny.settings(values), DATA)
    assert losses[-1].loss_rec < 0.7 * losses[0].loss_rec
    assert [row.epoch for row in losses] == list(range(1, 31))


def test_a_lambda_of_zero_builds_no_discriminator() -> None:
    trainer = tiny.trainer(tiny.settings({"train.lambda": 0.0}))
    assert trainer.discriminator is None
    assert trainer.discriminator_optimiser is None
    losses = trainer.epoch(DATA)
    assert (losses.loss_adv, losses.loss_d) == (0, 0)
    assert trainer.state()["discriminator"] is None


def test_a_lambda_above_zero_trains_the_discriminator() -> None:
    trainer = tiny.trainer(tiny.settings({"train.lambda": 1e-6}))
    assert trainer.discriminator is not None
    before = {name: weight.clone() for name, weight in trainer.discriminator.named_parameters()}
    losses = trainer.epoch(DATA)
    assert losses.loss_d > 0
    assert all(not torch.equal(weight, before[name]) for name, weight in trainer.discriminator.named_parameters())


def test_the_initial_unet_does_not_depend_on_lambda() -> None:
    one, other = (tiny.trainer(tiny.settings({"train.lambda": value})).network for value in (0.0, 0.02))
    assert tiny.same_state(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_after_convergence_epochs_without_a_new_minimum(patience: int) -> None:
    values = {"train.epochs": 50, "train.convergence_epochs": patience, "train.learning_rate": 1e-9}
    trainer, losses = tiny.train(tiny.settings(values), DATA)
    assert trainer.epochs_done < 50
    rec = [row.loss_rec for row in losses]
    assert min(rec[:-patience]) <= min(rec[-patience:])
    for end in range(patience + 1, len(rec)):
        assert min(rec[:end][-patience:]) < min(rec[: end - patience])


@pytest.mark.parametrize("where", ["network", "discriminator"])
def test_a_loss_that_is_not_finite_names_its_epoch_and_losses(where: str) -> None:
    trainer = tiny.trainer(tiny.settings({"train.epochs": 5}))
    trainer.epoch(DATA)
    broken = getattr(trainer, where)
    with torch.no_grad():
        next(broken.parameters()).fill_(math.inf)
    with pytest.raises(
        TrainingDiverged,
        match=r"^the loss is not finite after epoch 2 \(reconstruction [\w.-]+, feature matching nan, "
        r"discriminator nan\); lower train\.learning_rate or train\.lambda$",
    ):
        trainer.epoch(DATA)


# Checkpoints


def test_only_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for epoch in (1, 2, 3, 10, 999_999):
        checkpoint.save(tmp_path, epoch, {"epoch": epoch})
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["epoch-000010.pt", "epoch-999999.pt"]
    assert checkpoint.load_newest(tmp_path) == {"epoch": 999_999}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-000010.pt", "epoch-999999.pt"]


def test_without_checkpoints_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path) is None
    assert checkpoint.load_newest(tmp_path / "nowhere") is None


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(255 - byte for byte in content[middle : middle + 8])
    path.write_bytes(content)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "emptied": lambda path: path.write_bytes(b""),
    "overwritten": lambda path: path.write_bytes(b"hello" * 100),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "flipped": flipped,
    "a folder": a_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = tiny.trainer(case_settings("paper"))
    for _ in range(2):
        trainer.epoch(DATA)
        checkpoint.save(tmp_path, trainer.epochs_done, {"trainer": trainer.state()})
    newest = checkpoint.checkpoints(tmp_path)[-1]
    DAMAGES[damage](newest)
    with caplog.at_level(logging.WARNING):
        state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["trainer"]["epochs_done"] == 1
    assert f"checkpoint {newest} is damaged" in caplog.text
    assert "continuing from the one before it" in caplog.text


def test_where_all_checkpoints_are_damaged_each_is_named_and_training_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for epoch in (1, 2):
        checkpoint.save(tmp_path, epoch, {"epoch": epoch})
    for path in checkpoint.checkpoints(tmp_path):
        path.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load_newest(tmp_path) is None
    assert all(str(path) in caplog.text for path in checkpoint.checkpoints(tmp_path))


def test_a_checkpoint_with_code_is_passed_over_and_nothing_is_executed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "run", 1, {"epoch": 1})
    marker = tmp_path / "executed"
    torch.save({"trainer": tiny.Malicious(marker)}, tmp_path / "run" / "epoch-000002.pt")
    assert checkpoint.load_newest(tmp_path / "run") == {"epoch": 1}
    assert not marker.exists()


def test_a_failed_write_leaves_the_checkpoints_that_were_there(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"epoch": 1})
    with pytest.raises(Exception, match="lambda"):
        checkpoint.save(tmp_path, 2, {"epoch": lambda: None})
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-000001.pt"]
