"""Splits: sizes, no overlap, copies kept together, the same every time."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from puzzle_study.datasets import TaskSpec, protocols, stratified
from puzzle_study.datasets.records import Decoded, attempt
from puzzle_study.errors import UserError

from .conftest import section

NORMAL = "a"
"""A busy machine is no failure."""


def decoded(classes: list[str], parts: list[str] | None = None, groups: list[int] | None = None) -> Decoded:
    count = len(classes)
    return Decoded(
        images_NCHW=np.zeros((count, 1, 1, 1), dtype=np.uint8),
        names=tuple(map(str, range(count))),
        classes=tuple(classes),
        parts=tuple(parts or ["all"] * count),
        groups=np.array(groups if groups is not None else range(count), dtype=np.int64),
    )


def split(
    protocol: str, found: Decoded | None = None, *, repeat: int = 0, normal: str = "", **settings: Any
) -> protocols.Split:
    spec = TaskSpec("digits", normal or ("normal" if protocol == "medical" else NORMAL), repeat)
    data = section("digits", **settings)
    return protocols.split(found or SETS[protocol], spec, data, protocol=protocol, where="somewhere")


OFFICIAL = decoded([*"abc"] * 40 + [*"abc"] * 20, ["train"] * 120 + ["test"] * 60)
COIL = decoded([letter for letter in "abcdefgh" for _ in range(72)])
MEDICAL = decoded(["normal"] * 98 + ["tumor"] * 155, groups=[number % 80 for number in range(98)] + [*range(100, 255)])


SETS = {"official": OFFICIAL, "protocol1": COIL, "medical": MEDICAL}


def sets(chosen: protocols.Split) -> tuple[set[int], set[int], set[int]]:
    return set(chosen.train.tolist()), set(chosen.validation.tolist()), set(chosen.test.tolist())


def sizes(chosen: protocols.Split) -> tuple[int, int, int]:
    return len(chosen.train), len(chosen.validation), len(chosen.test)


def test_official_split_is_protocol_2() -> None:
    chosen = split("official")
    assert sizes(chosen) == (34, 6, 60)
    assert {OFFICIAL.classes[index] for index in chosen.train} == {NORMAL}
    assert {OFFICIAL.parts[index] for index in [*chosen.train, *chosen.validation]} == {"train"}
    assert chosen.labels.tolist() == [OFFICIAL.classes[index] != NORMAL for index in chosen.test]


def test_protocol_1_has_as_many_anomalies_as_normal_images() -> None:
    chosen = split("protocol1")
    assert sizes(chosen) == (49, 9, 28), "80 % of 72 is 58, of which 15 % validate"
    assert chosen.labels.sum() == 14
    assert len({COIL.classes[index] for index in chosen.test[chosen.labels]}) > 2
    assert sets(split("protocol1", repeat=1)) != sets(chosen)


def test_medical_split_has_ten_normal_test_images() -> None:
    chosen = split("medical")
    assert sizes(chosen) == (75, 13, 165)
    assert (~chosen.labels).sum() == 10


@pytest.mark.parametrize("kinds", [[], ["good"] * 8, ["hole"] * 8, ["good", "hole", "crack"] * 3])
def test_a_given_split_takes_good_for_normal_may_lack_a_side_and_its_limit_holds(kinds: list[str]) -> None:
    found = decoded(["good"] * 20 + kinds, ["train"] * 20 + ["test"] * len(kinds))
    chosen = split("given", found, normal="bottle")
    assert sizes(chosen) == (17, 3, len(kinds))
    assert chosen.labels.tolist() == [kind != "good" for kind in kinds]
    limited = split("given", found, normal="bottle", max_test_images=5)
    assert sizes(limited) == (17, 3, min(5, len(kinds)))
    assert set(limited.labels.tolist()) == set(chosen.labels.tolist())


@given(
    protocol=st.sampled_from(["official", "protocol1", "medical"]),
    seed=st.integers(0, 2**32 - 1),
    fraction=st.floats(0.01, 0.99),
    train_fraction=st.floats(0.01, 1),
    limit=st.none() | st.integers(2, 50),
)
def test_every_split_is_disjoint_sized_and_repeatable(
    protocol: str, seed: int, fraction: float, train_fraction: float, limit: int | None
) -> None:
    found = SETS[protocol]
    settings: dict[str, Any] = {
        "split_seed": seed,
        "validation_fraction": fraction,
        "train_fraction": train_fraction,
        "max_train_images": limit,
        "max_test_images": limit,
    }
    chosen = attempt(lambda: split(protocol, **settings))
    if isinstance(chosen, UserError):
        # Two images that are copies of each other cannot be split.
        assert "too few different training images" in str(chosen)
        assert protocol == "medical"
        return
    train, validation, test = sets(chosen)
    assert min(len(train), len(validation)) > 0
    assert not train & validation
    assert not (train | validation) & test
    groups = [set(found.groups[list(part)].tolist()) for part in (train, validation, test)]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    assert {found.classes[index] for index in train | validation} == {"normal" if protocol == "medical" else NORMAL}
    pool = {"official": 40, "protocol1": 58, "medical": 88}[protocol]
    wanted = min(max(2, round(train_fraction * pool)), limit or pool)
    assert len(train) + len(validation) == wanted
    assert abs(len(validation) - min(max(1, round(fraction * wanted)), wanted - 1)) <= (protocol == "medical")
    assert 0 < chosen.labels.sum() < len(chosen.labels)
    if limit:
        assert len(test) == min(limit, {"official": 60, "protocol1": 28, "medical": 165}[protocol])
    assert sets(split(protocol, **settings)) == sets(chosen)


@pytest.mark.parametrize("count", [1, 5, 39])
def test_a_fixed_count_of_validation_images_wins_over_the_fraction(count: int) -> None:
    chosen = split("official", validation_count=count, validation_fraction=0.9)
    assert sizes(chosen) == (40 - count, count, 60)
    assert not sets(chosen)[0] & sets(chosen)[1]


def test_a_fixed_count_keeps_copies_together() -> None:
    chosen = split("medical", validation_count=5)
    train, validation, _ = (set(MEDICAL.groups[list(part)].tolist()) for part in sets(chosen))
    assert 4 <= len(chosen.validation) <= 5
    assert not train & validation


@pytest.mark.parametrize(
    ("settings", "validating"),
    [
        ({"validation_count": 40}, 6),
        ({"validation_count": 851, "max_train_images": 10}, 2),
        ({"validation_count": 5, "train_fraction": 1 / 2}, 3),
    ],
)
def test_a_fixed_count_that_does_not_fit_falls_back_to_the_fraction_and_says_so(
    settings: dict[str, Any], validating: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert len(split("official", **settings).validation) == validating
    (message,) = caplog.messages
    assert f"data.validation_count {settings['validation_count']} does not fit" in message
    assert f"leaves {validating} for validation" in message


@given(
    protocol=st.sampled_from(["official", "medical"]),
    seed=st.integers(0, 1000),
    small=st.floats(0.05, 1),
    large=st.floats(0.05, 1),
    settings=st.sampled_from([{}, {"validation_count": 5}, {"validation_count": 20}, {"max_train_images": 30}]),
)
def test_smaller_fractions_train_and_validate_on_subsets_and_keep_the_test(
    protocol: str, seed: int, small: float, large: float, settings: dict[str, Any]
) -> None:
    small, large = sorted((small, large))
    few, many = (sets(split(protocol, split_seed=seed, train_fraction=share, **settings)) for share in (small, large))
    assert few[0] <= many[0]
    assert few[1] <= many[1]
    assert few[2] == many[2]


def test_all_images_are_split_as_ever() -> None:
    assert split("official").validation.tolist() == [6, 27, 75, 102, 114, 117]
    assert split("official", max_train_images=12).validation.tolist() == [36, 90]


def test_seeds_and_classes_draw_differently() -> None:
    assert sets(split("official", split_seed=1))[1] != sets(split("official", split_seed=2))[1]
    positions = [(split("official", normal=normal).validation // 3).tolist() for normal in "ab"]
    assert positions[0] != positions[1]


@pytest.mark.parametrize("limit", [2, 3, 5])
def test_few_test_images_keep_both_kinds(limit: int) -> None:
    chosen = split("medical", max_test_images=limit)
    assert len(chosen.test) == limit
    assert 0 < chosen.labels.sum() < limit


SCANT = {
    "no image of the class": (decoded([*"bcbc"]), "official", "has no image of class a; the set is incomplete"),
    "one training image": (
        decoded([*"abab"], ["train", *["test"] * 3]),
        "official",
        "has 1 training images; at least 2",
    ),
    "only copies": (
        decoded([*"aaaaab"], [*["train"] * 4, *["test"] * 2], [0, 0, 0, 0, 1, 2]),
        "official",
        r"too few different training images to split validation off \(1 among 4\)",
    ),
    "too few normal scans": (
        decoded(["normal"] * 11 + ["tumor"]),
        "medical",
        "11 normal images; 10 for the test and 2",
    ),
    "no other objects": (decoded([*"a" * 72, *"bb"]), "protocol1", "2 images of other objects are too few"),
    "hardly any image": (decoded([*"aab"]), "protocol1", "the test of class a has no normal image"),
}


@pytest.mark.parametrize("case", SCANT)
def test_too_few_images(case: str) -> None:
    found, protocol, sentence = SCANT[case]
    with pytest.raises(UserError, match=rf"somewhere.* {sentence}"):
        split(protocol, found)


CLASSES = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=200)


@given(classes=CLASSES, share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_stratified_draws_in_proportion(classes: list[str], share: float, seed: int) -> None:
    count = round(share * len(classes))
    drawn = stratified(classes, count, seed)
    assert drawn.dtype == np.int64
    assert len(drawn) == count
    assert np.all(np.diff(drawn) > 0)
    frequency, kept = Counter(classes), Counter(classes[index] for index in drawn)
    if count >= len(frequency):
        assert set(kept) == set(frequency)
    exact = {name: number * count / len(classes) for name, number in frequency.items()}
    if min(exact.values()) >= 1:
        assert all(abs(kept[name] - exact[name]) < 1 for name in exact)
    assert np.array_equal(drawn, stratified(classes, count, seed))
    assert stratified(classes, len(classes) + count, seed).tolist() == list(range(len(classes)))


def test_stratified_follows_the_seed() -> None:
    classes = ["a", "b"] * 50
    assert stratified(classes, 20, 0).tolist() != stratified(classes, 20, 1).tolist()


@given(groups=st.lists(st.integers(0, 30), min_size=1, max_size=60), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_groups_are_drawn_whole(groups: list[int], share: float, seed: int) -> None:
    count = round(share * len(groups))
    marked = protocols.draw_groups(np.array(groups), count, np.random.default_rng(seed))
    assert marked.sum() <= count
    assert not set(np.array(groups)[marked].tolist()) & set(np.array(groups)[~marked].tolist())
    sizes = Counter(groups)
    assume(any(size == 1 for size in sizes.values()))
    if all(size == 1 for size in sizes.values()):
        assert marked.sum() == count


def test_objects_come_all_once_before_any_comes_again() -> None:
    drawn = protocols.objects([f"obj{number}" for number in range(1, 101)], 250, 0)
    assert len(set(drawn[:100])) == len(set(drawn[100:200])) == 100
    assert drawn[:100] != drawn[100:200]
    assert drawn[:30] == protocols.objects([f"obj{number}" for number in range(1, 101)], 30, 0)
    assert drawn[:30] != protocols.objects([f"obj{number}" for number in range(1, 101)], 30, 1)
