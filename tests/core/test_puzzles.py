"""Puzzle sets, shuffling, un-shuffling and hidden pieces, by properties and against the slow reference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.detector import scoring_set
from puzzle_study.detectors.puzzle_ae.puzzles import Permutation, Puzzler, PuzzleSet
from puzzle_study.detectors.puzzle_ae.rules import hidden_style, scoring_permutations
from puzzle_study.detectors.puzzle_ae.settings import Puzzle, PuzzleSettings
from puzzle_study.errors import UserError

from . import reference
from .tiny import examples


def displaced(permutation: Permutation) -> int:
    """How many pieces are not at home."""
    return sum(piece != position for position, piece in enumerate(permutation))


@st.composite
def permutations(draw: st.DrawFn, grid: int) -> Permutation:
    return tuple(draw(st.permutations(range(grid * grid))))


@st.composite
def batches(draw: st.DrawFn, *, square: bool = False) -> Tensor:
    """Float images of any size from 2 to 13 pixels and any number of channels."""
    height = draw(st.integers(2, 13))
    width = height if square else draw(st.integers(2, 13))
    seed = draw(st.integers(0, 10_000))
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 4)), height, width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def jigsaws(draw: st.DrawFn) -> tuple[Tensor, PuzzleSet]:
    """Images and one to four arbitrary permutations of any grid."""
    grid = draw(st.integers(1, 4))
    chosen = draw(st.lists(permutations(grid), min_size=1, max_size=4))
    return draw(batches()), PuzzleSet("jigsaw", grid, tuple(chosen))


def puzzler(images: Tensor, chosen: PuzzleSet) -> tuple[Tensor, Puzzler]:
    """The padded images and their puzzler."""
    whole = puzzles.pad(images, chosen.grid)
    return whole, Puzzler(chosen, height=whole.shape[2], width=whole.shape[3])


# Puzzle sets


@pytest.mark.parametrize(
    ("every", "pieces", "count", "moved"),
    [
        (puzzles.all_permutations(), 4, 23, {2, 3, 4}),
        (puzzles.transpositions(4), 4, 6, {2}),
        (puzzles.transpositions(9), 9, 36, {2}),
        # Which six move, and in which of the derangements of six.
        ([tuple(map(int, row)) for row in puzzles._nine_piece_permutations()], 9, math.comb(9, 6) * 265, {6}),
    ],
    ids=["all", "six swaps", "36 swaps", "nine pieces"],
)
def test_permutations_are_distinct_as_many_as_the_paper_says_and_displace_so_many_pieces(
    every: Sequence[Permutation], pieces: int, count: int, moved: set[int]
) -> None:
    assert len(every) == len(set(every)) == count
    assert all(sorted(p) == list(range(pieces)) for p in every)
    assert {displaced(p) for p in every} == moved


@examples(15)
@given(count=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_drawn_permutations_are_distinct_and_displace_exactly_six(count: int, seed: int) -> None:
    drawn = puzzles.drawn_permutations(count, seed)
    assert len(drawn) == len(set(drawn)) == count
    assert all(sorted(p) == list(range(9)) and displaced(p) == 6 for p in drawn)


@examples(10)
@given(short=st.integers(1, 20), more=st.integers(0, 20), seed=st.integers(0, 1000))
def test_a_longer_draw_of_the_same_seed_begins_with_the_shorter_one(short: int, more: int, seed: int) -> None:
    assert puzzles.drawn_permutations(short + more, seed)[:short] == puzzles.drawn_permutations(short, seed)


def test_a_draw_is_the_same_in_another_process_and_other_for_another_seed() -> None:
    puzzles.drawn_permutations.cache_clear()
    first = puzzles.drawn_permutations(4, 0)
    puzzles.drawn_permutations.cache_clear()
    assert first == puzzles.drawn_permutations(4, 0)
    assert first != puzzles.drawn_permutations(4, 1)


def test_drawn_permutations_are_as_far_apart_as_a_greedy_choice_can_make_them() -> None:
    drawn = puzzles.drawn_permutations(8, 0)
    every = [tuple(map(int, row)) for row in puzzles._nine_piece_permutations()]

    def to_the_nearest(candidate: Permutation, chosen: tuple[Permutation, ...]) -> int:
        return min(sum(a != b for a, b in zip(candidate, other, strict=True)) for other in chosen)

    for count in range(1, len(drawn)):
        farthest = max(to_the_nearest(candidate, drawn[:count]) for candidate in every)
        assert to_the_nearest(drawn[count], drawn[:count]) == farthest


@pytest.mark.parametrize(
    ("values", "normal_class", "dataset", "count", "grid"),
    [
        ({}, "3", "mnist", 23, 2),
        ({}, "bottle", "mvtec", 23, 2),
        *(({}, texture, "mvtec", 6, 2) for texture in ("carpet", "grid", "leather", "tile", "wood")),
        ({}, "carpet", "folder", 23, 2),
        ({"permutations": "all"}, "carpet", "mvtec", 23, 2),
        ({"permutations": "two_swapped"}, "3", "mnist", 6, 2),
        ({"grid": 3}, "3", "mnist", 24, 3),
        ({"grid": 3, "count": 5}, "3", "mnist", 5, 3),
        ({"grid": 3, "permutations": "two_swapped"}, "3", "mnist", 36, 3),
        ({"kind": "rotation"}, "3", "mnist", 3, 1),
    ],
)
def test_auto_chooses_the_papers_puzzle_set(
    values: dict[str, object], normal_class: str, dataset: str, count: int, grid: int
) -> None:
    chosen = puzzles.puzzle_set(Puzzle.model_validate(values), normal_class=normal_class, dataset=dataset)
    assert (len(chosen), chosen.grid) == (count, grid)


@pytest.mark.parametrize(("permutations", "grid", "needed"), [("all", 3, 2), ("drawn", 2, 3)])
def test_permutations_that_a_grid_has_not_are_refused(permutations: str, grid: int, needed: int) -> None:
    puzzle = Puzzle.model_validate({"grid": grid, "permutations": permutations})
    with pytest.raises(UserError, match=rf"^puzzle\.permutations `{permutations}` needs puzzle\.grid {needed}"):
        puzzles.puzzle_set(puzzle, normal_class="3", dataset="mnist")


# Shuffling


@examples(60)
@given(data=st.data(), case=jigsaws())
def test_puzzles_equal_the_reference(data: st.DataObject, case: tuple[Tensor, PuzzleSet]) -> None:
    images, chosen = case
    whole, fast = puzzler(images, chosen)
    k_N = torch.tensor(data.draw(st.lists(st.integers(0, len(chosen) - 1), min_size=len(images), max_size=len(images))))
    shuffled = fast.shuffle(whole, k_N)
    for image, k, puzzle in zip(images, k_N.tolist(), shuffled, strict=True):
        slow = reference.padded(image, chosen.grid)
        assert torch.equal(puzzle, reference.jigsaw(slow, chosen.grid, chosen.permutations[k]))
        assert torch.equal(reference.solved_jigsaw(puzzle, chosen.grid, chosen.permutations[k]), slow)


@examples(60)
@given(case=jigsaws())
def test_shuffle_all_is_shuffle_for_every_permutation(case: tuple[Tensor, PuzzleSet]) -> None:
    images, chosen = case
    whole, fast = puzzler(images, chosen)
    every = fast.shuffle_all(whole)
    assert every.shape == (len(images), len(chosen), *whole.shape[1:])
    for k in range(len(chosen)):
        assert torch.equal(every[:, k], fast.shuffle(whole, torch.full((len(images),), k)))
    assert torch.equal(fast.unshuffle_all(every), whole[:, None].expand_as(every))
    assert torch.equal(whole[..., : images.shape[2], : images.shape[3]], images)
    for part in (slice(1), slice(1, None), slice(1, 3)):
        assert torch.equal(fast.shuffle_all(whole, part), every[:, part])


@examples(40)
@given(images=batches(square=True))
def test_rotations_equal_the_reference_and_can_be_turned_back(images: Tensor) -> None:
    chosen = puzzles.puzzle_set(Puzzle(kind="rotation"), normal_class="3", dataset="mnist")
    whole, fast = puzzler(images, chosen)
    every = fast.shuffle_all(whole)
    for number, (turns,) in enumerate(chosen.permutations):
        for image, turned in zip(whole, every[:, number], strict=True):
            assert torch.equal(turned, reference.quarter_turned(image, turns))
    assert torch.equal(fast.unshuffle_all(every), whole[:, None].expand_as(every))


def test_shuffling_lets_gradients_through() -> None:
    images = torch.rand(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    fast = Puzzler(PuzzleSet("jigsaw", 2, puzzles.all_permutations()[:2]), height=4, width=4)
    assert torch.autograd.gradcheck(fast.shuffle_all, images)


@pytest.mark.parametrize(("side", "grid", "padded"), [(28, 2, 28), (28, 3, 30), (16, 3, 18), (32, 3, 33), (9, 3, 9)])
def test_sides_are_padded_to_the_next_multiple_of_the_grid(side: int, grid: int, padded: int) -> None:
    assert puzzles.padded_side(side, grid) == padded
    canvas = puzzles.pad(torch.ones(1, 1, side, side), grid)
    assert canvas.shape[2:] == (padded, padded)
    assert canvas.sum() == side * side


@pytest.mark.parametrize(
    ("chosen", "sides", "reason"),
    [
        (PuzzleSet("jigsaw", 3, puzzles.drawn_permutations(1, 0)), (28, 28), "28×28 pixels do not divide into 3×3"),
        (PuzzleSet("rotation", 1, ((1,),)), (4, 6), "rotations need square images, got 4×6"),
    ],
)
def test_sides_that_do_not_fit_are_refused(chosen: PuzzleSet, sides: tuple[int, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Puzzler(chosen, height=sides[0], width=sides[1])


# Hidden pieces


@examples(60)
@given(data=st.data(), images=batches(), grid=st.integers(2, 4), how=st.sampled_from(["black", "gray"]))
def test_each_hidden_piece_equals_the_reference(data: st.DataObject, images: Tensor, grid: int, how: str) -> None:
    chosen = PuzzleSet("jigsaw", grid, (tuple(range(grid * grid)),))
    whole, fast = puzzler(images, chosen)
    assert fast.pieces == grid * grid
    before = whole.clone()
    every = st.lists(st.integers(0, fast.pieces - 1), min_size=len(images), max_size=len(images))
    for numbers in (*([number] * len(images) for number in range(fast.pieces)), data.draw(every)):
        painted = fast.hide(whole, torch.tensor(numbers), how)
        for image, number, result in zip(whole, numbers, painted, strict=True):
            torch.testing.assert_close(result, reference.hidden(image, grid, number, how), rtol=0, atol=1e-6)
    assert torch.equal(whole, before), "the original stays as it was"


def test_rotation_puzzles_hide_a_quarter() -> None:
    images = torch.rand(1, 3, 6, 6)
    _, fast = puzzler(images, PuzzleSet("rotation", 1, ((1,),)))
    assert fast.pieces == 4
    for number in range(4):
        painted = fast.hide(images, torch.tensor([number]), "black")
        assert torch.equal(painted[0], reference.hidden(images[0], 2, number, "black"))


def test_index_tables_that_would_fill_the_memory_are_refused() -> None:
    with pytest.raises(UserError, match=r"23 puzzles of 4096×4096 pixels are more than .* lower data\.size or"):
        puzzles.Puzzler(puzzles.PuzzleSet("jigsaw", 2, puzzles.all_permutations()), height=4096, width=4096)


@examples(20)
@given(side=st.integers(2, 13))
def test_the_pieces_of_an_odd_rotation_puzzle_cover_every_pixel_once(side: int) -> None:
    fast = Puzzler(PuzzleSet("rotation", 1, ((1,),)), height=side, width=side)
    assert fast.piece_PL.sum(0).eq(1).all()
    assert fast.piece_PL.any(1).all()


def test_another_way_of_hiding_is_refused() -> None:
    images, fast = puzzler(torch.rand(1, 1, 4, 4), PuzzleSet("jigsaw", 2, ((1, 0, 2, 3),)))
    with pytest.raises(ValueError, match=r"^a piece can be hidden black or gray, not white$"):
        fast.hide(images, torch.tensor([0]), "white")


@pytest.mark.parametrize(
    ("hide", "channels", "style"),
    [("auto", 1, "black"), ("auto", 3, "gray"), ("black", 3, "black"), ("gray", 3, "gray"), ("none", 1, None)],
)
def test_auto_hides_black_in_one_channel_and_gray_in_three(hide: str, channels: int, style: str | None) -> None:
    assert hidden_style(hide, channels) == style


def test_gray_is_refused_for_one_channel() -> None:
    with pytest.raises(UserError, match=r"^puzzle\.hide `gray` changes nothing in images of one channel"):
        hidden_style("gray", 1)


@pytest.mark.parametrize("normal_class", ["bottle", "leather"])
@pytest.mark.parametrize("kind", ["jigsaw", "rotation"])
@pytest.mark.parametrize("puzzle_set", ["training", "all"])
@pytest.mark.parametrize(
    ("grid", "permutations"),
    [(2, "auto"), (2, "all"), (2, "two_swapped"), (3, "auto"), (3, "two_swapped"), (3, "drawn")],
)
def test_how_many_permutations_score_is_known_before_there_are_any(
    grid: int, permutations: str, puzzle_set: str, kind: str, normal_class: str
) -> None:
    values = {"kind": kind, "grid": grid, "permutations": permutations, "count": 5}
    settings = PuzzleSettings.model_validate({"puzzle": values, "score": {"puzzle_set": puzzle_set}})
    made = puzzles.puzzle_set(settings.puzzle, normal_class=normal_class, dataset="mvtec")
    known = scoring_permutations(settings, normal_class=normal_class, dataset="mvtec")
    assert known == len(scoring_set(settings, made))
