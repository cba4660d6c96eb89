"""Error matrices and scores against the slow reference, whatever the chunks, norms and aggregations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from puzzle_study import config
from puzzle_study.config import Aggregation, ErrorNorm
from puzzle_study.detectors import scoring
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.detectors.puzzle_ae.puzzles import PuzzleSet

from . import reference, tiny
from .tiny import examples

ALL = PuzzleSet("jigsaw", 2, puzzles.all_permutations())
SETS = {
    "all": ALL,
    "two_swapped": PuzzleSet("jigsaw", 2, puzzles.transpositions(4)),
    "nine_pieces": PuzzleSet("jigsaw", 3, puzzles.drawn_permutations(4, 0)),
    "rotations": PuzzleSet("rotation", 1, ((1,), (2,), (3,))),
}


def matrices(seed: int, validation: int = 4, test: int = 6, k: int = 5) -> tuple[Tensor, Tensor]:
    """Positive error matrices in float64."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(validation + test, k, dtype=torch.float64, generator=generator) + 1e-3
    return drawn[:validation], drawn[validation:]


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SETS)
def test_the_score_of_an_image_equals_the_reference(name: str, channels: int) -> None:
    in_play = SETS[name]
    validation, test = tiny.float_images(5, channels=channels).split([2, 3])
    detector = tiny.detector(in_play, channels=channels).eval()
    detector.calibrate(validation)
    for error, aggregation in itertools.product(scoring.ERROR_NORMS, scoring.AGGREGATIONS):
        slow = [
            [
                reference.puzzle_errors(x, detector.network, in_play.kind, in_play.grid, in_play.permutations, error)
                for x in images
            ]
            for images in (validation, test)
        ]
        expected = [reference.anomaly_score(errors, slow[0], aggregation) for errors in slow[1]]
        found = detector.with_score(config.Score(error=error, aggregation=aggregation))(test)
        assert found.tolist() == pytest.approx(expected, rel=1e-4)


@examples(60)
@given(
    seed=st.integers(0, 1000),
    error=st.sampled_from(scoring.ERROR_NORMS),
    aggregation=st.sampled_from(scoring.AGGREGATIONS),
)
def test_scores_of_error_matrices_equal_the_reference(seed: int, error: ErrorNorm, aggregation: Aggregation) -> None:
    validation, test = matrices(seed)
    rows = [[[e if error == "mse" else math.sqrt(e) for e in row] for row in m.tolist()] for m in (validation, test)]
    expected = [reference.anomaly_score(row, rows[0], aggregation) for row in rows[1]]
    found = scoring.scores(test, validation, error=error, aggregation=aggregation)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@examples(40)
@given(seed=st.integers(0, 1000), error=st.sampled_from(scoring.ERROR_NORMS))
def test_min_is_at_most_avg_is_at_most_max(seed: int, error: ErrorNorm) -> None:
    validation, test = matrices(seed)
    low, mean, high = (scoring.scores(test, validation, error=error, aggregation=a) for a in scoring.AGGREGATIONS)
    assert (low <= mean).all()
    assert (mean <= high).all()


@examples(40)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), error=st.sampled_from(scoring.ERROR_NORMS))
def test_how_hard_a_permutation_is_cancels(seed: int, scale: float, error: ErrorNorm) -> None:
    """Eq. 6: a permutation whose errors are all larger by a factor changes no score."""
    validation, test = matrices(seed)
    factor = torch.ones(validation.shape[1], dtype=validation.dtype)
    factor[0] = scale
    for aggregation in scoring.AGGREGATIONS:
        torch.testing.assert_close(
            scoring.scores(test * factor, validation * factor, error=error, aggregation=aggregation),
            scoring.scores(test, validation, error=error, aggregation=aggregation),
        )


@pytest.mark.parametrize("error", scoring.ERROR_NORMS)
def test_the_mean_score_of_the_validation_images_is_one(error: ErrorNorm) -> None:
    validation, _ = matrices(0)
    mean = scoring.scores(validation, validation, error=error, aggregation="avg").mean()
    assert float(mean) == pytest.approx(1)


def test_a_network_that_solves_every_validation_puzzle_gives_no_nan() -> None:
    found = scoring.scores(torch.ones(2, 3), torch.zeros(4, 3), error="l2", aggregation="avg")
    assert not found.isnan().any()


def numbers_for(detector: PuzzleDetector, puzzles_at_once: int) -> int:
    """The limit of a chunk that lets so many puzzles through together."""
    return puzzles_at_once * detector.puzzler.height * detector.puzzler.width * detector.shape.base_channels


@pytest.mark.parametrize("puzzles_at_once", [1, 5, 22, 23, 46, 47, 10_000])
def test_the_error_matrix_does_not_depend_on_its_chunks(puzzles_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether images are taken one by one or together, and even the puzzles of one image in parts."""
    detector, images = tiny.detector(ALL), tiny.images(5)
    expected = detector.error_matrix(images)
    monkeypatch.setitem(detector.CHUNK_NUMBERS, "cpu", numbers_for(detector, puzzles_at_once))
    assert detector.puzzles_at_once == puzzles_at_once
    torch.testing.assert_close(detector.error_matrix(images), expected, rtol=1e-5, atol=0)


@examples(30)
@given(images=st.integers(0, 50), at_once=st.integers(1, 300))
def test_chunks_cover_every_image_once_in_order(images: int, at_once: int) -> None:
    detector = tiny.detector(SETS["rotations"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(detector.CHUNK_NUMBERS, "cpu", numbers_for(detector, at_once))
        parts = list(detector.chunks(images))
    assert [i for part in parts for i in range(images)[part]] == list(range(images))
    assert all(len(range(images)[part]) * 3 <= max(at_once, 3) for part in parts)


def test_uint8_images_and_the_same_in_floats_have_equal_errors() -> None:
    detector = tiny.detector(ALL)
    assert torch.equal(detector.error_matrix(tiny.images(3)), detector.error_matrix(tiny.float_images(3)))


def test_errors_are_not_negative_and_float32() -> None:
    errors = tiny.detector(ALL).error_matrix(tiny.images(3))
    assert errors.shape == (3, 23)
    assert errors.dtype == torch.float32
    assert (errors >= 0).all()


def test_no_images_have_an_empty_error_matrix() -> None:
    assert tiny.detector(ALL).error_matrix(tiny.images(0)).shape == (0, 23)


def test_the_forward_pass_is_the_score_of_the_error_matrix_and_differentiable() -> None:
    detector, images = tiny.detector(SETS["two_swapped"]).eval(), tiny.float_images(3)
    detector.calibrate(tiny.images(4, seed=1))
    attacked = images.clone().requires_grad_()
    scores = detector(attacked)
    torch.testing.assert_close(scores.detach(), detector.scores(detector.error_matrix(images)), rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(scores.sum(), attacked)
    assert gradient.flatten(1).abs().sum(1).gt(0).all()


def test_another_score_shares_weights_and_validation_errors() -> None:
    detector = tiny.detector(SETS["two_swapped"])
    detector.calibrate(tiny.images(2))
    other = detector.with_score(config.Score(aggregation="min"))
    assert other.network is detector.network
    assert torch.equal(other.validation_NK, detector.validation_NK)
    assert (other.score.aggregation, detector.score.aggregation) == ("min", "max")


def test_bfloat16_moves_errors_by_a_few_percent_at_most() -> None:
    detector, images = tiny.detector(ALL), tiny.images(4)
    exact = detector.error_matrix(images)
    detector.precision = "bfloat16"
    torch.testing.assert_close(detector.error_matrix(images), exact, rtol=0.05, atol=0)
