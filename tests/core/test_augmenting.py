"""Training on mild corruptions: seeded, fresh in every epoch, the same after a resume, and nothing if none is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from puzzle_study import config
from puzzle_study.config import forms, layers, read
from puzzle_study.detectors.base import Run
from puzzle_study.detectors.nearest_neighbour import NearestNeighbour
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.results import Results, content_key
from puzzle_study.trials import augmenting, run
from puzzle_study.trials.augmenting import Augmentation
from puzzle_study.trials.spec import TrialSpec, trained_settings

from . import tiny

KINDS = ("shift", "brighter", "dim_lamp")
IMAGES = tiny.images(60)


def test_every_epoch_draws_anew_and_the_same_again() -> None:
    augmentation = Augmentation(KINDS, 7)
    first, second = (augmentation.of_epoch(IMAGES, epoch) for epoch in (1, 2))
    assert first.dtype == torch.uint8
    assert torch.equal(Augmentation(KINDS, 7).of_epoch(IMAGES, 1), first)
    assert not torch.equal(first, second)
    assert not torch.equal(Augmentation(KINDS, 8).of_epoch(IMAGES, 1), first)


def test_an_image_in_four_is_left_as_it_is_if_there_are_three_kinds() -> None:
    images = tiny.images(800)
    same = (Augmentation(KINDS, 0).of_epoch(images, 1) == images).flatten(1).all(1)
    assert float(same.float().mean()) == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 800))


def test_each_image_is_changed_by_a_kind_as_that_kind_changes_it() -> None:
    """A dim lamp multiplies; the factors are those of severities 1 to 3."""
    white = torch.full((200, 1, 16, 16), 200, dtype=torch.uint8)
    changed = Augmentation(("dim_lamp",), 0).of_epoch(white, 1)
    assert set(changed.flatten().tolist()) == {200, 190, 180, 160}


@pytest.mark.parametrize(("kinds", "copies"), [((), 0), (("shift",), 1), (KINDS, 3), ((*KINDS, "gamma", "darker"), 4)])
def test_copies_follow_the_originals_and_are_capped(kinds: tuple[str, ...], copies: int) -> None:
    found = Augmentation(kinds, 0).with_copies(IMAGES)
    assert len(found) == (1 + augmenting.copies_of(kinds)) * len(IMAGES) == (1 + copies) * len(IMAGES)
    assert torch.equal(found[: len(IMAGES)], IMAGES)
    parts = found.split(len(IMAGES))
    assert not any(torch.equal(one, other) for i, one in enumerate(parts) for other in parts[:i])


def test_without_a_kind_the_very_images_are_given() -> None:
    assert Augmentation((), 0).of_epoch(IMAGES, 1) is IMAGES
    assert Augmentation((), 0).with_copies(IMAGES) is IMAGES


def trial(name: str, augment: tuple[str, ...]) -> TrialSpec:
    """A small trial of a detector."""
    base = tiny.trial({"data.max_train_images": 24, "data.max_test_images": 20, "data.augment": augment})
    kind = DETECTORS[name].Settings
    small = layers.resolved(kind, layers.merge(*(layers.nested(*item) for item in kind.SMALL.items())), "digits")
    own = kind.model_validate(forms.own_part(kind, small))
    settings = config.Settings(detector=name, data=base.settings.data, evaluate=base.settings.evaluate, own=own)
    return TrialSpec(settings, base.task, base.seed, base.fingerprint)


class Interrupted(Exception):
    pass


def errors_of(spec: TrialSpec, folder: Path, *, interrupt: bool = False) -> dict[str, Any]:
    """The error matrices of a trial, perhaps one that was interrupted after its first epoch and went on."""
    results = Results(folder)

    def stop(row: dict[str, float]) -> None:
        raise Interrupted

    if interrupt:
        with pytest.raises(Interrupted):
            run.run(spec, results, device=tiny.CPU, on_epoch=stop)
    assert run.run(spec, results, device=tiny.CPU).finished
    return results.errors(spec.key)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["puzzle_ae", "ae_l2"])
def test_an_augmented_training_that_was_interrupted_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    spec = trial(name, KINDS)
    whole = errors_of(spec, tmp_path / "whole")
    cut = errors_of(spec, tmp_path / "cut", interrupt=True)
    assert all(np.array_equal(whole[part], cut[part]) for part in ("validation", "pseudo", "test"))
    plain = errors_of(trial(name, ()), tmp_path / "plain")
    assert not np.array_equal(whole["test"], plain["test"])


def test_what_is_fitted_at_once_gets_the_copies_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    fit = NearestNeighbour.fit

    def watched(self: NearestNeighbour, images_NCHW: Tensor, run: Run) -> None:
        seen.append(images_NCHW)
        fit(self, images_NCHW, run)

    monkeypatch.setattr(NearestNeighbour, "fit", watched)
    counts: dict[tuple[str, ...], Any] = {}
    for augment in ((), KINDS):
        spec, results = trial("nearest_neighbour", augment), Results(tmp_path)
        counts[augment] = run.run(spec, results, device=tiny.CPU).measured["images_seen"]
    assert counts[KINDS] == 4 * counts[()] == len(seen[1])
    assert torch.equal(seen[1][: len(seen[0])], seen[0])


def test_augmentation_is_part_of_a_trials_key_only_if_there_is_some() -> None:
    plain, shifted = (tiny.trial({"data.augment": augment}) for augment in ((), ("shift",)))
    content = trained_settings(plain.settings)
    assert "augment" not in content["data"]
    assert plain.configuration == content_key(content, length=8) == tiny.trial().configuration
    assert plain.key != shifted.key
    assert plain.training_seed == shifted.training_seed


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("[colour_cast]", ["colour_cast", "3 channels", "data.augment", "line 2"]),
        ("[shift, shift]", ["data.augment", "twice"]),
        ("[shfit]", ["data.augment", "shift"]),
        ("shift", ["data.augment"]),
    ],
)
def test_what_cannot_be_trained_on_is_one_sentence(listed: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"detector: pca\ndata: {{name: digits, augment: {listed}}}\n", encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read.load(path)
    assert all(word in str(refused.value) for word in words), str(refused.value)
