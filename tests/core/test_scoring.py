"""Error matrices and scores against the slow reference, whatever the chunks, norms and aggregations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from puzzle_study.config import Reading
from puzzle_study.detectors import scoring
from puzzle_study.detectors.memory import AtOnce
from puzzle_study.detectors.puzzle_ae import detector as puzzle_ae
from puzzle_study.detectors.puzzle_ae import puzzles
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
    for reading in scoring.READINGS:
        slow = [
            [
                reference.puzzle_errors(
                    x, detector.network, in_play.kind, in_play.grid, in_play.permutations, reading.error
                )
                for x in images
            ]
            for images in (validation, test)
        ]
        expected = [reference.anomaly_score(errors, slow[0], reading.aggregation) for errors in slow[1]]
        assert detector.read_by(reading)(test).tolist() == pytest.approx(expected, rel=1e-4)


@examples(60)
@given(seed=st.integers(0, 1000), reading=st.sampled_from(scoring.READINGS))
def test_scores_of_error_matrices_equal_the_reference(seed: int, reading: Reading) -> None:
    validation, test = matrices(seed)
    norm: Callable[[float], float] = math.sqrt if reading.error == "l2" else float
    rows = [[list(map(norm, row)) for row in matrix.tolist()] for matrix in (validation, test)]
    expected = [reference.anomaly_score(row, rows[0], reading.aggregation) for row in rows[1]]
    assert scoring.scores(test, validation, reading).tolist() == pytest.approx(expected, rel=1e-12)


@examples(40)
@given(seed=st.integers(0, 1000), error=st.sampled_from(list(scoring.NORMS)))
def test_min_is_at_most_avg_is_at_most_max(seed: int, error: str) -> None:
    validation, test = matrices(seed)
    low, mean, high = (scoring.scores(test, validation, Reading(error, name)) for name in ("min", "avg", "max"))
    assert (low <= mean).all()
    assert (mean <= high).all()


@examples(40)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), reading=st.sampled_from(scoring.READINGS))
def test_how_hard_a_permutation_is_cancels(seed: int, scale: float, reading: Reading) -> None:
    """Eq. 6: a permutation whose errors are all larger by a factor changes no score."""
    validation, test = matrices(seed)
    factor = torch.ones(validation.shape[1], dtype=validation.dtype)
    factor[0] = scale
    torch.testing.assert_close(
        scoring.scores(test * factor, validation * factor, reading), scoring.scores(test, validation, reading)
    )


@pytest.mark.parametrize("error", scoring.NORMS)
def test_the_mean_score_of_the_validation_images_is_one(error: str) -> None:
    validation, _ = matrices(0)
    mean = scoring.scores(validation, validation, Reading(error, "avg")).mean()
    assert float(mean) == pytest.approx(1)


def test_a_network_that_solves_every_validation_puzzle_gives_no_nan() -> None:
    found = scoring.scores(torch.ones(2, 3), torch.zeros(4, 3), Reading("l2", "avg"))
    assert not found.isnan().any()


@pytest.mark.parametrize("at_once", [1, 5, 22, 23, 46, 47, 10_000])
def test_the_error_matrix_does_not_depend_on_its_chunks(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether images are taken one by one or together, and even the puzzles of one image in parts."""
    expected, detector, images = tiny.detector(ALL).error_matrix(tiny.images(5)), tiny.detector(ALL), tiny.images(5)
    numbers = at_once * tiny.SIDE**2 * detector.base_channels
    monkeypatch.setitem(puzzle_ae.CHUNK_NUMBERS, "cpu", numbers)
    assert detector.views_at_once() == at_once
    seen: list[int] = []
    detector.network.register_forward_hook(lambda network, inputs, answer: seen.append(len(inputs[0])))
    torch.testing.assert_close(detector.error_matrix(images), expected, rtol=1e-5, atol=0)
    assert max(seen) <= at_once
    assert sum(seen) == 5 * 23


@examples(30)
@given(images=st.integers(0, 50), at_once=st.integers(1, 300))
def test_chunks_cover_every_image_once_in_order(images: int, at_once: int) -> None:
    detector = tiny.detector(SETS["rotations"])
    detector.at_once = AtOnce(at_once)
    parts: list[slice] = []
    detector.by_chunks(tiny.images(images), lambda part, _: parts.append(part))
    assert [i for part in parts for i in range(images)[part]] == list(range(images))
    assert all(len(range(images)[part]) * 3 <= max(at_once, 3) for part in parts)


def test_no_images_have_an_empty_error_matrix() -> None:
    assert tiny.detector(ALL).error_matrix(tiny.images(0)).shape == (0, 23)


@pytest.mark.parametrize("views", [1, 3, 4, 23, 24, 72, 512])
def test_chosen_views_are_nested_and_spread_over_all(views: int) -> None:
    choices = [scoring.chosen_views(views, count) for count in range(1, views + 2)]
    assert [len(chosen) for chosen in choices] == [*range(1, views + 1), views]
    for fewer, more in itertools.pairwise(choices):
        assert set(fewer) <= set(more)
        assert more == sorted(set(more))
    for count, chosen in enumerate(choices[: views // 2], start=1):
        gaps = np.diff([chosen[-1] - views, *chosen])
        assert gaps.max() <= 3 * views / count + 1, "no part of the order is left out"
