"""attack1, attack2 and attack2_averaged against slow, obvious versions; the same for every chunk size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from puzzle_study.attacks.specs import attack_spec
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.detectors.scoring import AGGREGATIONS

from . import planted
from .planted import EPSILON, attacked, fgsm

pytestmark = pytest.mark.slow


def sign_step(value: Tensor, leaf: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(value, leaf)
    return (leaf.detach() + EPSILON * slope.sign()).clamp(0, 1)


def own_error(detector: PuzzleDetector, puzzle_CHW: Tensor, true_CHW: Tensor, k: int) -> Tensor:
    """The error of one puzzle against the true image in the detector's norm, over that of the validation images."""
    error = (detector.answer(puzzle_CHW[None])[0] - true_CHW).square().mean()
    validation_N = detector.validation_NK[:, k]
    if detector.reading.error == "l2":
        error, validation_N = error.sqrt(), validation_N.sqrt()
    return error / validation_N.mean()


def reference_attack1(detector: PuzzleDetector, x_CHW: Tensor) -> Tensor:
    leaf = x_CHW.clone().requires_grad_()
    return sign_step(detector(leaf[None]).sum(), leaf)


def reference_attack2(detector: PuzzleDetector, x_CHW: Tensor) -> Tensor:
    """The paper: attack each permuted image, put it back in order, average."""
    return averaged_over_puzzles(detector, x_CHW, sign_step)


def reference_attack2_averaged(detector: PuzzleDetector, x_CHW: Tensor) -> Tensor:
    def slope(value: Tensor, leaf: Tensor) -> Tensor:
        return torch.autograd.grad(value, leaf)[0]

    return (x_CHW + EPSILON * averaged_over_puzzles(detector, x_CHW, slope).sign()).clamp(0, 1)


def averaged_over_puzzles(
    detector: PuzzleDetector, x_CHW: Tensor, made_of: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Put back in order what is made of each puzzle and its error, and average it."""
    height, width = x_CHW.shape[-2:]
    true_CHW = puzzles.pad(x_CHW[None], detector.grid)[0]
    made = []
    for k in range(len(detector.puzzle_set)):
        leaf = detector.puzzler.shuffle(true_CHW[None], torch.tensor([k]))[0].requires_grad_()
        made.append(made_of(own_error(detector, leaf, true_CHW, k), leaf))
    return detector.undo(torch.stack(made)[None])[0].mean(0)[:, :height, :width]


REFERENCES = {
    "attack1": reference_attack1,
    "attack2": reference_attack2,
    "attack2_averaged": reference_attack2_averaged,
}


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("attack", REFERENCES)
@pytest.mark.parametrize(("grid", "side", "count"), [(2, 16, 23), (3, 16, 5)])
def test_fgsm_is_the_reference(attack: str, aggregation: str, grid: int, side: int, count: int) -> None:
    detector = planted.puzzle_detector(aggregation=aggregation, grid=grid, count=count, side=side)
    x_NCHW = planted.images(3, side=side)
    (result,) = attacked(detector, x_NCHW, fgsm(attack))
    expected = torch.stack([REFERENCES[attack](detector, x.float() / 255) for x in x_NCHW])
    # The sign of a gradient next to zero may differ by rounding.
    assert ((result.perturbed - expected).abs() > 1e-4).float().mean() < 0.01
    torch.testing.assert_close(result.scores, detector(expected).detach(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("attack", REFERENCES)
def test_same_result_for_every_chunk_size(attack: str, aggregation: str) -> None:
    """Also with random starts, and if the puzzles of one image do not fit together."""
    detector = planted.puzzle_detector(aggregation=aggregation, count=7)
    x_NCHW = planted.images(3)
    specs = [attack_spec(attack, method, epsilon=EPSILON, steps=2) for method in ("fgsm", "ffgsm", "pgdl2")]
    expected = attacked(detector, x_NCHW, *specs, at_once=1000)
    for at_once in (1, 5, 16):
        found = attacked(detector, x_NCHW, *specs, at_once=at_once)
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(other.clean_scores, one.clean_scores, rtol=1e-5, atol=0)
            torch.testing.assert_close(other.scores, one.scores, rtol=1e-4, atol=0)
            assert ((other.perturbed - one.perturbed).abs() > 1e-4).float().mean() < 0.01


def test_attack2_shrinks_the_perturbation() -> None:
    """Averaging sign maps of K puzzles leaves less than ε: the paper's wording makes a weak attack."""
    detector = planted.puzzle_detector()
    x_NCHW = planted.images(3, low=51, high=204)
    first, second, averaged = attacked(detector, x_NCHW, *map(fgsm, REFERENCES))
    clean = x_NCHW.float() / 255
    assert float((second.perturbed - clean).abs().mean()) < 0.7 * EPSILON
    assert float((first.perturbed - clean).abs().mean()) > 0.99 * EPSILON
    assert float((averaged.perturbed - clean).abs().mean()) > 0.99 * EPSILON
    assert float(averaged.scores.mean()) > float(second.scores.mean())


def test_rotations_are_attacked_too() -> None:
    detector = planted.puzzle_detector(count=3)
    turns = puzzles.PuzzleSet("rotation", 1, ((1,), (2,), (3,)))
    detector = PuzzleDetector(detector.network, turns, shape=detector.shape, reading=detector.reading)
    x_NCHW = planted.images(2)
    detector.calibrate(x_NCHW)
    for result in attacked(detector, x_NCHW, *map(fgsm, REFERENCES)):
        expected = torch.stack([REFERENCES[result.spec.attack](detector, x.float() / 255) for x in x_NCHW])
        torch.testing.assert_close(result.perturbed, expected, rtol=0, atol=1e-4)
