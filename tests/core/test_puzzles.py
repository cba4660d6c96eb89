"""Puzzle sets, shuffling, un-shuffling and hidden pieces, by properties and against the slow reference."""

from __future__ import annotations

import itertools
import math

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


def test_four_pieces_have_23_distinct_permutations_that_displace_at_least_two() -> None:
    every = puzzles.all_permutations()
    assert len(every) == len(set(every)) == 23
    assert all(sorted(p) == [0, 1, 2, 3] and displaced(p) >= 2 for p in every)


@pytest.mark.parametrize(("pieces", "count"), [(4, 6), (9, 36)])
def test_transpositions_displace_exactly_two_pieces(pieces: int, count: int) -> None:
    every = puzzles.transpositions(pieces)
    assert len(every) == len(set(every)) == count
    assert all(sorted(p) == list(range(pieces)) and displaced(p) == 2 for p in every)


def test_nine_pieces_have_22260_permutations_with_six_displaced() -> None:
    every = {tuple(map(int, row)) for row in puzzles._nine_piece_permutations()}
    derangements_of_six = sum(all(p[i] != i for i in range(6)) for p in itertools.permutations(range(6)))
    assert derangements_of_six == 265
    assert len(every) == math.comb(9, 6) * derangements_of_six == 22_260
    assert all(sorted(p) == list(range(9)) and displaced(p) == 6 for p in every)


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
        ({}, "carpet", "mvtec", 6, 2),
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


@pytest.mark.parametrize("texture", ["carpet", "grid", "leather", "tile", "wood"])
def test_each_texture_of_mvtec_gets_the_six_transpositions(texture: str) -> None:
    chosen = puzzles.puzzle_set(Puzzle(), normal_class=texture, dataset="mvtec")
    assert chosen.permutations == puzzles.transpositions(4)


def test_all_is_refused_for_nine_pieces() -> None:
    with pytest.raises(UserError, match=r"^puzzle\.permutations `all` needs puzzle\.grid 2: nine pieces have 22,260"):
        puzzles.puzzle_set(Puzzle(grid=3, permutations="all"), normal_class="3", dataset="mnist")


def test_drawn_is_refused_for_four_pieces() -> None:
    with pytest.raises(UserError, match=r"^puzzle\.permutations `drawn` needs puzzle\.grid 3; four pieces have `all`"):
        puzzles.puzzle_set(Puzzle(grid=2, permutations="drawn"), normal_class="3", dataset="mnist")


@examples(30)
@given(count=st.integers(1, 23), fewer=st.integers(1, 23), seed=st.integers(0, 100))
def test_the_first_n_of_a_set_are_part_of_the_first_n_plus_1(count: int, fewer: int, seed: int) -> None:
    every = PuzzleSet("jigsaw", 2, puzzles.all_permutations())
    some = every.first(count, seed=seed)
    assert len(some) == len(set(some.permutations)) == count
    assert set(every.first(min(count, fewer), seed=seed).permutations) <= set(some.permutations)
    assert some == every.first(count, seed=seed)


def test_more_permutations_than_there_are_is_an_error() -> None:
    every = PuzzleSet("jigsaw", 2, puzzles.all_permutations())
    with pytest.raises(UserError, match=r"^score\.permutations must be `all` or at most 23, .*; got 24$"):
        every.first(24, seed=0)


@examples(50)
@given(permutation=st.integers(1, 4).flatmap(permutations))
def test_the_inverse_undoes_a_permutation(permutation: Permutation) -> None:
    back = puzzles.inverse(permutation)
    assert [permutation[back[piece]] for piece in range(len(permutation))] == list(range(len(permutation)))
    assert puzzles.inverse(back) == permutation


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
@given(data=st.data(), case=jigsaws())
def test_unshuffling_a_shuffled_image_gives_the_padded_image(
    data: st.DataObject, case: tuple[Tensor, PuzzleSet]
) -> None:
    images, chosen = case
    whole, fast = puzzler(images, chosen)
    k_N = torch.tensor(data.draw(st.lists(st.integers(0, len(chosen) - 1), min_size=len(images), max_size=len(images))))
    assert torch.equal(fast.unshuffle(fast.shuffle(whole, k_N), k_N), whole)
    assert torch.equal(whole[..., : images.shape[2], : images.shape[3]], images)


@examples(60)
@given(case=jigsaws())
def test_unshuffling_is_shuffling_by_the_inverse(case: tuple[Tensor, PuzzleSet]) -> None:
    images, chosen = case
    whole, fast = puzzler(images, chosen)
    back = PuzzleSet("jigsaw", chosen.grid, tuple(map(puzzles.inverse, chosen.permutations)))
    _, inverse = puzzler(images, back)
    for k in range(len(chosen)):
        k_N = torch.full((len(images),), k)
        assert torch.equal(fast.unshuffle(whole, k_N), inverse.shuffle(whole, k_N))


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


def test_sides_that_do_not_divide_into_pieces_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^28×28 pixels do not divide into 3×3 pieces$"):
        Puzzler(PuzzleSet("jigsaw", 3, puzzles.drawn_permutations(1, 0)), height=28, width=28)


def test_rotations_of_oblong_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^rotations need square images, got 4×6$"):
        Puzzler(PuzzleSet("rotation", 1, ((1,),)), height=4, width=6)


# Hidden pieces


@examples(60)
@given(data=st.data(), images=batches(), grid=st.integers(2, 4), how=st.sampled_from(["black", "gray"]))
def test_each_hidden_piece_equals_the_reference(data: st.DataObject, images: Tensor, grid: int, how: str) -> None:
    chosen = PuzzleSet("jigsaw", grid, (tuple(range(grid * grid)),))
    whole, fast = puzzler(images, chosen)
    assert fast.pieces == grid * grid
    for number in range(fast.pieces):
        painted = fast.hide(whole, torch.full((len(images),), number), how)
        for image, result in zip(whole, painted, strict=True):
            torch.testing.assert_close(result, reference.hidden(image, grid, number, how), rtol=0, atol=1e-6)
    drawn = torch.tensor(
        data.draw(st.lists(st.integers(0, fast.pieces - 1), min_size=len(images), max_size=len(images)))
    )
    for image, number, result in zip(whole, drawn.tolist(), fast.hide(whole, drawn, how), strict=True):
        torch.testing.assert_close(result, reference.hidden(image, grid, number, how), rtol=0, atol=1e-6)


def test_rotation_puzzles_hide_a_quarter() -> None:
    chosen = puzzles.puzzle_set(Puzzle(kind="rotation"), normal_class="3", dataset="mnist")
    images = torch.rand(1, 3, 6, 6)
    _, fast = puzzler(images, chosen)
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


def test_hiding_leaves_the_original_image_as_it_was() -> None:
    images = torch.rand(1, 1, 4, 4)
    before = images.clone()
    _, fast = puzzler(images, PuzzleSet("jigsaw", 2, ((1, 0, 2, 3),)))
    fast.hide(images, torch.tensor([0]), "black")
    assert torch.equal(images, before)


def test_another_way_of_hiding_is_refused() -> None:
    images, fast = puzzler(torch.rand(1, 1, 4, 4), PuzzleSet("jigsaw", 2, ((1, 0, 2, 3),)))
    with pytest.raises(ValueError, match=r"^a piece is hidden black or gray, not white$"):
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
