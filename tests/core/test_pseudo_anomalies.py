"""Pseudo-anomalies: repeatable, really changed, and made of nothing but validation images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from puzzle_study.criteria.bank import PATCH_SHARE, make_pseudo_anomalies

from . import tiny
from .tiny import examples

KINDS = ("cut_paste", "foreign_piece", "local_noise")


def of_kind(images: Tensor, kind: str, *, per_image: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The results of one kind, and the image that each was made from."""
    made = make_pseudo_anomalies(images, per_image=per_image, seed=seed)
    chosen = torch.tensor([name == kind for name in made.kinds])
    return made.images[chosen], images.repeat_interleave(per_image, 0)


@examples(25)
@given(
    count=st.integers(2, 6),
    channels=st.sampled_from([1, 3]),
    side=st.integers(16, 33),
    per_image=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_each_image_is_spoiled_in_each_way_and_stays_uint8(
    count: int, channels: int, side: int, per_image: int, seed: int
) -> None:
    images = tiny.images(count, channels=channels, side=side, seed=seed)
    made = make_pseudo_anomalies(images, per_image=per_image, seed=seed)
    assert made.images.dtype == torch.uint8
    assert made.images.shape == (3 * count * per_image, channels, side, side)
    assert made.kinds == tuple(kind for kind in KINDS for _ in range(count * per_image))


@pytest.mark.parametrize(("images", "made"), [(18, 18 * 5 * 3), (60, 60 * 3 * 3), (150, 150 * 3), (500, 200 * 3)])
def test_a_few_hundred_are_made_however_many_validation_images_there_are(images: int, made: int) -> None:
    assert len(make_pseudo_anomalies(tiny.images(images), seed=0).kinds) == made


def test_the_page_on_the_method_says_how_many_are_made() -> None:
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    counts = re.search(r"(\d+), (\d+) and (\d+) validation images give (\d+), (\d+) and (\d+) \*pseudo-anom", page)
    assert counts is not None
    images, made = [int(count) for count in counts.groups()[:3]], [int(count) for count in counts.groups()[3:]]
    assert [len(make_pseudo_anomalies(tiny.images(count), seed=0).kinds) for count in images] == made


def test_the_same_seed_gives_the_same_images_and_another_seed_others() -> None:
    images = tiny.images(4)
    one, again, other = (make_pseudo_anomalies(images, per_image=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, other.images)


def test_the_global_random_state_and_the_images_stay_as_they_were() -> None:
    images = tiny.images(4)
    before, state = images.clone(), torch.random.get_rng_state()
    make_pseudo_anomalies(images, per_image=2, seed=0)
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_result_differs_from_its_image(kind: str, channels: int) -> None:
    spoiled, source = of_kind(tiny.images(6, channels=channels), kind, per_image=4)
    assert (spoiled != source).flatten(1).any(1).all()


@examples(25)
@given(seed=st.integers(0, 1000), channels=st.sampled_from([1, 3]))
def test_cut_and_paste_shows_a_rectangle_of_the_same_image(seed: int, channels: int) -> None:
    """The changed rectangle is found again, pixel by pixel, elsewhere in the image."""
    spoiled, source = of_kind(tiny.images(3, channels=channels, seed=seed), "cut_paste", seed=seed)
    for result, image in zip(spoiled, source, strict=True):
        top, bottom, left, right = changed_rectangle(result, image)
        height, width = bottom - top, right - left
        assert height <= round(PATCH_SHARE[1] * 16)
        assert width <= round(PATCH_SHARE[1] * 16)
        patch = result[:, top:bottom, left:right]
        places = [
            (row, column)
            for row in range(16 - height + 1)
            for column in range(16 - width + 1)
            if torch.equal(image[:, row : row + height, column : column + width], patch)
        ]
        assert places


@examples(25)
@given(seed=st.integers(0, 1000), channels=st.sampled_from([1, 3]))
def test_a_foreign_piece_is_the_same_quarter_of_another_image(seed: int, channels: int) -> None:
    images = tiny.images(4, channels=channels, side=17, seed=seed)
    spoiled, source = of_kind(images, "foreign_piece", seed=seed)
    rows, columns = (slice(0, 8), slice(8, 17)), (slice(0, 8), slice(8, 17))
    for result, image in zip(spoiled, source, strict=True):
        quarters = [(..., row, column) for row in rows for column in columns]
        foreign = [q for q in quarters if not torch.equal(result[q], image[q])]
        assert len(foreign) == 1
        assert any(torch.equal(result[foreign[0]], other[foreign[0]]) for other in images)


@examples(25)
@given(seed=st.integers(0, 1000))
def test_noise_covers_one_rectangle_only(seed: int) -> None:
    spoiled, source = of_kind(tiny.images(3, seed=seed), "local_noise", seed=seed)
    for result, image in zip(spoiled, source, strict=True):
        top, bottom, left, right = changed_rectangle(result, image)
        assert (bottom - top) * (right - left) <= round(PATCH_SHARE[1] * 16) ** 2
        changed = (result != image)[:, top:bottom, left:right].float().mean()
        assert changed > 0.8


def changed_rectangle(result: Tensor, image: Tensor) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of all pixels that differ."""
    rows, columns = (result != image).any(0).nonzero(as_tuple=True)
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def test_of_several_tries_the_most_visible_is_kept() -> None:
    """An image that is black but for a corner: most patches moved within it would change nothing."""
    images = torch.zeros(6, 1, 16, 16, dtype=torch.uint8)
    images[:, :, :8, :8] = torch.arange(50, 114, dtype=torch.uint8).reshape(8, 8)
    spoiled, source = of_kind(images, "cut_paste", per_image=5)
    assert (spoiled != source).flatten(1).any(1).float().mean() > 0.9


def test_of_one_validation_image_alone_no_copy_is_called_an_anomaly() -> None:
    image = tiny.images(1)
    made = make_pseudo_anomalies(image, per_image=2, seed=0)
    assert made.kinds == ("cut_paste", "cut_paste", "local_noise", "local_noise")
    assert (made.images != image).flatten(1).any(1).all()
