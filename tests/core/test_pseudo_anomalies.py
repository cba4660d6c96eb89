"""Pseudo-anomalies: repeatable, really changed, and made of nothing but validation images."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from puzzle_study.criteria.bank import MOST, make_pseudo_anomalies, pseudo_anomalies_of
from puzzle_study.criteria.kinds.registry import KINDS

from . import tiny
from .tiny import examples

UNCHANGED_IF_CONSTANT = {"cut_paste", "foreign_piece", "elastic", "fade", "blur", "phase", "jigsaw", "rot90", "mixup"}
UNCHANGED_IF_CONSTANT |= {"halves"}


def spoiled(name: str, images: Tensor, severity: int, seed: int = 0) -> Tensor:
    """Every image spoiled by one kind at one severity; its partner is the next image."""
    kind = KINDS[name]
    generator = torch.Generator().manual_seed(seed)
    return kind.spoil(images, images.roll(-1, 0), kind.severities[severity], generator)


def changed(result: Tensor, image: Tensor) -> Tensor:
    """Which pixels [H, W] differ."""
    return (result != image).any(0)


@pytest.mark.parametrize("severity", [0, -1])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_spoils_images_of_any_shape_and_stays_uint8(name: str, severity: int) -> None:
    for count, channels, side in ((1, 1, 16), (3, 3, 17), (2, 1, 33)):
        images = tiny.images(count, channels=channels, side=side)
        before = images.clone()
        result = spoiled(name, images, severity)
        assert result.dtype == torch.uint8
        assert result.shape == images.shape
        assert torch.equal(images, before)


@pytest.mark.parametrize("name", KINDS)
def test_severities_change_more_and_more(name: str) -> None:
    images = tiny.images(40, side=32)
    changes = [
        float((spoiled(name, images, severity).float() - images.float()).square().mean())
        for severity in range(len(KINDS[name].severities))
    ]
    assert 2 <= len(changes) <= 3
    assert min(changes) > 0
    if name not in ("rot90", "jigsaw", "halves"):  # other places, not more of them
        assert changes == sorted(changes)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_images_are_survived(value: int) -> None:
    images = torch.full((3, 3, 17, 17), value, dtype=torch.uint8)
    for name in KINDS:
        same = torch.equal(spoiled(name, images, -1), images)
        assert same == (name in UNCHANGED_IF_CONSTANT), name


def test_the_bank_is_bounded_and_every_kind_and_severity_has_its_part() -> None:
    for validation in (1, 2, 18, 60, 150, 500):
        made = make_pseudo_anomalies(tiny.images(validation), seed=0)
        assert len(made.images) == len(made.kinds) == len(made.severities) == pseudo_anomalies_of(validation) <= MOST
    cells, kinds = Counter(zip(made.kinds, made.severities, strict=True)), Counter(made.kinds)
    assert set(cells) == {(name, 1 + level) for name, kind in KINDS.items() for level in range(len(kind.severities))}
    assert min(kinds.values()) > 0.95 * MOST / len(KINDS)


def test_the_page_on_the_method_says_how_many_are_made() -> None:
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    counts = re.search(r"(\d+), (\d+) and (\d+) validation images give (\d+), (\d+) and (\d+) \*pseudo-anom", page)
    assert counts is not None
    images, made = [int(count) for count in counts.groups()[:3]], [int(count) for count in counts.groups()[3:]]
    assert [pseudo_anomalies_of(count) for count in images] == made


def test_the_same_seed_gives_the_same_images_and_another_seed_others() -> None:
    images = tiny.images(4)
    state = torch.random.get_rng_state()
    one, again, other = (make_pseudo_anomalies(images, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, other.images)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_kind_does_not_change_another(monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny.images(4)
    whole = make_pseudo_anomalies(images, seed=0)
    monkeypatch.setattr("puzzle_study.criteria.bank.KINDS", {name: KINDS[name] for name in ("mixup", "scar")})
    two = make_pseudo_anomalies(images, seed=0)
    for name in ("mixup", "scar"):
        rows, alone = ([kind == name for kind in made.kinds] for made in (whole, two))
        assert torch.equal(whole.images[torch.tensor(rows)], two.images[torch.tensor(alone)])


def test_of_one_validation_image_alone_no_copy_is_called_an_anomaly() -> None:
    image = tiny.images(1)
    made = make_pseudo_anomalies(image, seed=0)
    assert set(made.kinds) == {name for name, kind in KINDS.items() if not kind.pairs}
    assert (made.images != image).flatten(1).any(1).all()


def test_of_several_tries_the_most_visible_is_kept() -> None:
    """An image that is black but for a corner: most patches moved within it would change nothing."""
    images = torch.zeros(6, 1, 16, 16, dtype=torch.uint8)
    images[:, :, :8, :8] = torch.arange(50, 114, dtype=torch.uint8).reshape(8, 8)
    made = make_pseudo_anomalies(images, seed=0)
    rows = torch.tensor([kind == "cut_paste" for kind in made.kinds])
    assert (made.images[rows] != images[:1]).flatten(1).any(1).float().mean() > 0.9


@examples(15)
@given(seed=st.integers(0, 1000), channels=st.sampled_from([1, 3]))
def test_cut_and_paste_shows_a_rectangle_of_the_same_image(seed: int, channels: int) -> None:
    """The changed rectangle is found again, pixel by pixel, elsewhere in the image."""
    images = tiny.images(3, channels=channels, seed=seed)
    for result, image in zip(spoiled("cut_paste", images, -1, seed), images, strict=True):
        rows, columns = changed(result, image).nonzero(as_tuple=True)
        if not len(rows):
            continue  # it was pasted onto itself
        top, bottom, left, right = int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1
        height, width = bottom - top, right - left
        patch = result[:, top:bottom, left:right]
        assert max(height, width) <= 8
        assert any(
            torch.equal(image[:, row : row + height, column : column + width], patch)
            for row in range(16 - height + 1)
            for column in range(16 - width + 1)
        )


def test_a_foreign_piece_is_the_same_quarter_of_another_image() -> None:
    images = tiny.images(8, channels=3, side=17)
    for result, image, partner in zip(spoiled("foreign_piece", images, -1), images, images.roll(-1, 0), strict=True):
        sides = (slice(0, 8), slice(8, 17))
        foreign = [
            (row, column)
            for row in sides
            for column in sides
            if not torch.equal(result[:, row, column], image[:, row, column])
        ]
        ((row, column),) = foreign
        assert torch.equal(result[:, row, column], partner[:, row, column])


def test_noise_covers_one_rectangle_only() -> None:
    images = tiny.images(8)
    for result, image in zip(spoiled("local_noise", images, -1), images, strict=True):
        rows, columns = changed(result, image).nonzero(as_tuple=True)
        inside = changed(result, image)[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert inside.numel() <= 64
        assert inside.float().mean() > 0.8


def test_a_jigsaw_keeps_every_piece_and_leaves_none_in_its_place() -> None:
    images = tiny.images(8, side=17)
    for result, image in zip(spoiled("jigsaw", images, 0), images, strict=True):
        places = [(slice(row, row + 8), slice(column, column + 8)) for row in (0, 8) for column in (0, 8)]
        pieces = [image[0][place] for place in places]
        found = [next(n for n, piece in enumerate(pieces) if torch.equal(result[0][p], piece)) for p in places]
        assert sorted(found) == [0, 1, 2, 3]
        assert all(number != place for place, number in enumerate(found))


def test_random_phases_keep_the_power_spectrum() -> None:
    # In the middle of the range nothing is clipped.
    images = (tiny.images(4, side=17).float() / 8 + 112).to(torch.uint8)
    before, after = (torch.fft.rfft2(x.float()).abs() for x in (images, spoiled("phase", images, -1)))
    assert torch.allclose(before, after, atol=20)
    assert not torch.equal(images, spoiled("phase", images, -1))


def test_mixup_and_blur_make_what_their_names_say() -> None:
    images = tiny.images(4)
    mean = (images.float() + images.roll(-1, 0).float()) / 2
    assert (spoiled("mixup", images, -1).float() - mean).abs().max() <= 0.5
    blurred = spoiled("blur", images, 1)
    assert blurred[0, 0, 8, 8] == images[0, 0, 6:11, 6:11].float().mean().round()
