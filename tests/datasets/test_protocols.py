"""Splits: sizes, no overlap, copies kept together, the same every time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from puzzle_study.datasets import TaskSpec, protocols, stratified
from puzzle_study.datasets.records import Decoded, attempt
from puzzle_study.errors import UserError

from .conftest import section

NORMAL = "a"
STEADY = hypothesis_settings(deadline=None)
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
    found: Decoded,
    protocol: str,
    *,
    repeat: int = 0,
    normal: str = NORMAL,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> protocols.Split:
    spec = TaskSpec("digits", normal, repeat)
    return protocols.split(found, spec, section("digits", **settings), protocol=protocol, where="somewhere")


OFFICIAL = decoded([*"abc"] * 40 + [*"abc"] * 20, ["train"] * 120 + ["test"] * 60)
COIL = decoded([letter for letter in "abcdefgh" for _ in range(72)])
MEDICAL = decoded(["normal"] * 98 + ["tumor"] * 155, groups=[number % 80 for number in range(98)] + [*range(100, 255)])


def sets(chosen: protocols.Split) -> tuple[set[int], set[int], set[int]]:
    return set(chosen.train.tolist()), set(chosen.validation.tolist()), set(chosen.test.tolist())


def test_official_split_is_protocol_2() -> None:
    chosen = split(OFFICIAL, "official")
    assert (len(chosen.train), len(chosen.validation), len(chosen.test)) == (34, 6, 60)
    assert {OFFICIAL.classes[index] for index in chosen.train} == {NORMAL}
    assert {OFFICIAL.parts[index] for index in [*chosen.train, *chosen.validation]} == {"train"}
    assert chosen.labels.tolist() == [OFFICIAL.classes[index] != NORMAL for index in chosen.test]


def test_protocol_1_has_as_many_anomalies_as_normal_images() -> None:
    chosen = split(COIL, "protocol1")
    # 80 % of 72 is 58, of which 15 % validate.
    assert (len(chosen.train), len(chosen.validation), len(chosen.test)) == (49, 9, 28)
    assert chosen.labels.sum() == 14
    assert len({COIL.classes[index] for index in chosen.test[chosen.labels]}) > 2
    again = split(COIL, "protocol1", repeat=1)
    assert sets(again) != sets(chosen)


def test_medical_split_has_ten_normal_test_images() -> None:
    chosen = split(MEDICAL, "medical", normal="normal")
    assert (len(chosen.train), len(chosen.validation), len(chosen.test)) == (75, 13, 165)
    assert (~chosen.labels).sum() == 10


@pytest.mark.parametrize("kinds", [[], ["good"] * 8, ["hole"] * 8])
def test_a_given_split_may_lack_a_side_and_its_limit_holds(kinds: list[str]) -> None:
    found = decoded(["good"] * 20 + kinds, ["train"] * 20 + ["test"] * len(kinds))
    chosen = split(found, "given", normal="bottle", settings={"max_test_images": 5})
    assert (len(chosen.train), len(chosen.validation)) == (17, 3)
    assert chosen.labels.tolist() == [kind != "good" for kind in kinds[:5]]


def test_given_split_takes_good_for_normal() -> None:
    found = decoded(["good"] * 20 + ["good", "hole", "crack"] * 3, ["train"] * 20 + ["test"] * 9)
    chosen = split(found, "given", normal="bottle")
    assert (len(chosen.train), len(chosen.validation), len(chosen.test)) == (17, 3, 9)
    assert chosen.labels.tolist() == [False, True, True] * 3


@STEADY
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
    found = {"official": OFFICIAL, "protocol1": COIL, "medical": MEDICAL}[protocol]
    settings = {
        "split_seed": seed,
        "validation_fraction": fraction,
        "train_fraction": train_fraction,
        "max_train_images": limit,
        "max_test_images": limit,
    }
    normal = "normal" if protocol == "medical" else NORMAL
    chosen = attempt(lambda: split(found, protocol, normal=normal, settings=settings))
    if isinstance(chosen, UserError):
        # Two images that are copies of each other cannot be split.
        assert "too few different training images" in str(chosen)
        assert protocol == "medical"
        return
    train, validation, test = sets(chosen)
    assert train
    assert validation
    assert not train & validation
    assert not (train | validation) & test
    groups = [set(found.groups[list(part)].tolist()) for part in (train, validation, test)]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    assert {found.classes[index] for index in train | validation} == {normal}
    pool = {"official": 40, "protocol1": 58, "medical": 88}[protocol]
    wanted = min(max(2, round(train_fraction * pool)), limit or pool)
    assert len(train) + len(validation) == wanted
    assert abs(len(validation) - min(max(1, round(fraction * wanted)), wanted - 1)) <= (protocol == "medical")
    assert 0 < chosen.labels.sum() < len(chosen.labels)
    if limit:
        assert len(test) == min(limit, {"official": 60, "protocol1": 28, "medical": 165}[protocol])
    again = split(found, protocol, normal=normal, settings=settings)
    for ours, theirs in zip(sets(chosen), sets(again), strict=True):
        assert ours == theirs


@pytest.mark.parametrize("count", [1, 5, 39])
def test_a_fixed_count_of_validation_images_wins_over_the_fraction(count: int) -> None:
    settings = {"validation_count": count, "validation_fraction": 0.9}
    chosen = split(OFFICIAL, "official", settings=settings)
    assert (len(chosen.train), len(chosen.validation)) == (40 - count, count)
    assert not sets(chosen)[0] & sets(chosen)[1]


def test_a_fixed_count_keeps_copies_together() -> None:
    chosen = split(MEDICAL, "medical", normal="normal", settings={"validation_count": 5})
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
        assert len(split(OFFICIAL, "official", settings=settings).validation) == validating
    (message,) = caplog.messages
    assert f"data.validation_count {settings['validation_count']} does not fit" in message
    assert f"leaves {validating} for validation" in message


@STEADY
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
    found, normal = {"official": (OFFICIAL, NORMAL), "medical": (MEDICAL, "normal")}[protocol]
    few, many = (
        sets(split(found, protocol, normal=normal, settings=settings | {"split_seed": seed, "train_fraction": share}))
        for share in (small, large)
    )
    assert few[0] <= many[0]
    assert few[1] <= many[1]
    assert few[2] == many[2]


def test_all_images_are_split_as_ever() -> None:
    assert split(OFFICIAL, "official").validation.tolist() == [6, 27, 75, 102, 114, 117]
    assert split(OFFICIAL, "official", settings={"max_train_images": 12}).validation.tolist() == [36, 90]


def test_seeds_and_classes_draw_differently() -> None:
    one = split(OFFICIAL, "official", settings={"split_seed": 1})
    assert sets(one)[1] != sets(split(OFFICIAL, "official", settings={"split_seed": 2}))[1]
    positions = {normal: split(OFFICIAL, "official", normal=normal).validation // 3 for normal in "ab"}
    assert positions["a"].tolist() != positions["b"].tolist()


@pytest.mark.parametrize("limit", [2, 3, 5])
def test_few_test_images_keep_both_kinds(limit: int) -> None:
    chosen = split(MEDICAL, "medical", normal="normal", settings={"max_test_images": limit})
    assert len(chosen.test) == limit
    assert 0 < chosen.labels.sum() < limit


SCANT = {
    "no image of the class": (["b", "c"] * 5, "official", "somewhere holds no image of class a; the set is incomplete"),
    "one training image": (["a", *"bbbb"], "official", "class a has 1 training images; at least 2 are needed"),
    "too few normal scans": ([*"a" * 11, *"bbb"], "medical", "has 11 normal images; 10 for the test and 2 for train"),
    "no other objects": ([*"a" * 72, *"bb"], "protocol1", "2 images of other objects are too few to be the anomalies"),
    "hardly any image": (["a", "a", "b"], "protocol1", "the test of class a has no normal image"),
}


@pytest.mark.parametrize("case", SCANT)
def test_too_few_images(case: str) -> None:
    classes, protocol, sentence = SCANT[case]
    parts = ["train"] * len(classes) + ["test"] * 4 if protocol == "official" else ["all"] * len(classes)
    if protocol == "official":
        classes = [*classes, *("abab" if "a" in classes else "bcbc")]
    with pytest.raises(UserError, match=sentence):
        split(decoded(classes, parts), protocol)


def test_copies_only() -> None:
    found = decoded(["a"] * 4 + ["a", "b"], ["train"] * 4 + ["test"] * 2, [0, 0, 0, 0, 1, 2])
    with pytest.raises(UserError, match=r"too few different training images to split validation off \(1 among 4\)"):
        split(found, "official")


CLASSES = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=200)


@STEADY
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


@STEADY
@given(classes=CLASSES, extra=st.integers(0, 5))
def test_stratified_takes_all_where_all_are_asked_for(classes: list[str], extra: int) -> None:
    assert stratified(classes, len(classes) + extra, 0).tolist() == list(range(len(classes)))


def test_stratified_follows_the_seed() -> None:
    classes = ["a", "b"] * 50
    assert stratified(classes, 20, 0).tolist() != stratified(classes, 20, 1).tolist()


@STEADY
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
