"""Whole trials on an imitated GPU: the CPU's numbers, resumed too, and attacks on the detectors that they leave."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from puzzle_study.attacks.specs import AttackSpec, attack_spec
from puzzle_study.config import Reading
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors import files
from puzzle_study.detectors.memory import AtOnce
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.results import Results
from puzzle_study.trials.along import run_along
from puzzle_study.trials.run import Trial, run
from puzzle_study.trials.spec import TrialSpec

from ..attacks.planted import attacked
from ..core import tiny
from .imitation import CPU, CUDA, Seen, imitated

PUZZLE = {
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.averaging": 0.9,
    "data.max_train_images": 20,
    "data.max_test_images": 20,
    "evaluate.max_images": 10,
    "puzzle.permutations": "two_swapped",
}
MOST_WAITS = {"puzzle_ae": 115, "ae_l2": 75, "ocgan": 95, "nearest_neighbour": 13}
"""Of a whole trial of two epochs, most of them once for each tensor that is saved or moved to the GPU."""


def small_trial(kind: str) -> TrialSpec:
    """A trial of a few seconds, in float32 on every machine."""
    spec = tiny.trial(PUZZLE, kind=kind)
    if kind == "puzzle_ae" or not hasattr(spec.settings.own, "train"):
        return spec
    own: Any = spec.settings.own
    short = {"epochs": 2, "batch_size": 8} | ({"precision": "float32"} if hasattr(own.train, "precision") else {})
    own = own.model_copy(update={"train": own.train.model_copy(update=short)})
    return TrialSpec(spec.settings.model_copy(update={"own": own}), TaskSpec("digits", "3"), 0, "0" * 16)


def trained(kind: str, folder: Path, device: torch.device, on_epoch: Any = None) -> dict[str, np.ndarray]:
    """Run a trial and return its error matrices."""
    spec, results = small_trial(kind), Results(folder)
    record = run(spec, results, device=device, on_epoch=on_epoch)
    assert record.status == "finished", record.error
    found: dict[str, np.ndarray] = results.errors(spec.key)
    return found


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for name in ("validation", "pseudo", "test", "earlier"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", MOST_WAITS)
def test_a_trial_on_a_gpu_has_the_numbers_of_the_cpu_and_waits_no_more_than_stated(kind: str, tmp_path: Path) -> None:
    expected = trained(kind, tmp_path / "cpu", CPU)
    with imitated() as seen, seen.count() as counted:
        found = trained(kind, tmp_path / "gpu", CUDA)
    same(expected, found)
    assert counted.waits.total() <= MOST_WAITS[kind], counted.waits
    assert seen.emptied == 1, "the next trial on this GPU finds its memory free"


class Killed(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["puzzle_ae", "ae_l2"])
def test_a_trial_that_was_killed_goes_on_on_a_gpu(kind: str, tmp_path: Path) -> None:
    expected = trained(kind, tmp_path / "whole", CPU)

    def kill(row: dict[str, float]) -> None:
        raise Killed

    with imitated():
        with pytest.raises(Killed):
            trained(kind, tmp_path / "cut", CUDA, kill)
        epochs: list[float] = []
        same(expected, trained(kind, tmp_path / "cut", CUDA, lambda row: epochs.append(row["epoch"])))
    assert epochs == [2]


def test_averages_along_one_training_have_the_numbers_of_the_cpu_and_no_step_waits_for_them(tmp_path: Path) -> None:
    waits = []
    for images in (20, 36):
        values = PUZZLE | {"data.max_train_images": images}
        specs = [
            replace(tiny.trial(values | {"train.averaging": decay}), along=("train.averaging",)) for decay in (0.5, 0.9)
        ]
        with imitated() as seen, seen.count() as counted:
            results = Results(tmp_path / str(images))
            run_along([Trial(spec, results, device=CUDA) for spec in specs], lambda trial: None)
        waits.append(counted.waits.total())
    alone = Results(tmp_path / "cpu")
    for spec in specs:
        run(spec, alone, device=CPU)
        same(alone.errors(spec.key), results.errors(spec.key))
    assert waits[0] == waits[1], "more steps wait no more often"


def detector(aggregation: str) -> PuzzleDetector:
    """A calibrated detector where torch is told to compute."""
    kept = puzzles.PuzzleSet("jigsaw", 2, puzzles.all_permutations()[:5])
    made = tiny.detector(kept, reading=Reading("l2", aggregation))
    made = made.placed(CUDA if torch.cuda.is_available() else CPU)
    made.calibrate(tiny.images(6, seed=3))
    return made


def attack(spec: AttackSpec, aggregation: str) -> Any:
    return attacked(detector(aggregation), tiny.images(3), spec, compare=False)[0]


@pytest.mark.parametrize(
    ("place", "method", "aggregation"),
    [
        ("attack1", "fgsm", "max"),
        ("attack1", "apgd", "avg"),
        ("attack2", "pgdl2", "min"),
        ("attack2_averaged", "pgd", "avg"),
    ],
)
def test_attacks_on_a_gpu_have_the_numbers_of_the_cpu(place: str, method: str, aggregation: str) -> None:
    steps: dict[str, Any] = {} if method == "fgsm" else {"steps": 3}
    spec = attack_spec(place, method, epsilon=0.05, **steps)
    expected = attack(spec, aggregation)
    with imitated():
        found = attack(spec, aggregation)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.perturbed, expected.perturbed, rtol=0, atol=1e-6)
    assert found.flags == expected.flags


def waits_of_attack(seen: Seen, place: str, aggregation: str, steps: int) -> Counter[str]:
    with seen.count() as counted:
        attack(attack_spec(place, "pgd", epsilon=0.05, steps=steps), aggregation)
    return counted.waits


@pytest.mark.parametrize(
    ("place", "aggregation", "most"),
    [("attack1", "avg", 0), ("attack1", "max", 1), ("attack2", "avg", 0), ("attack2_averaged", "min", 0)],
)
def test_a_step_of_an_attack_waits_only_to_learn_which_views_matter(place: str, aggregation: str, most: int) -> None:
    with imitated() as seen:
        few, many = (waits_of_attack(seen, place, aggregation, steps) for steps in (1, 4))
    assert (many - few).total() <= 3 * most, many - few


def test_scoring_waits_once_a_chunk_and_maps_too() -> None:
    with imitated() as seen:
        made = detector("avg")
        images = tiny.images(9)
        for work in (made.error_matrix, made.maps):
            made.at_once = AtOnce(3 * made.views)  # three chunks
            with seen.count() as counted:
                work(images)
            assert counted.waits.total() <= 3, counted.waits
            with seen.count() as counted:
                work(images.to(CUDA))
            assert counted.waits.total() == 1, "the copy above; images that are there already need none"


def test_a_saved_detector_is_loaded_onto_a_gpu_and_scores_the_same(tmp_path: Path) -> None:
    made, images = detector("avg"), tiny.images(5)
    files.save(made, tmp_path, {})
    expected = made.error_matrix(images)
    with imitated():
        loaded = files.load_detector(tmp_path, device=CUDA)
        assert loaded.device == CUDA
        found = loaded.error_matrix(images).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
