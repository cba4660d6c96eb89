"""Where a measured share passes a limit between two severities."""

from __future__ import annotations

import math

import pytest

from puzzle_study.corruptions.registry import CORRUPTIONS
from puzzle_study.corruptions.tolerance import tolerance


def test_a_limit_is_found_between_the_severities_around_it() -> None:
    rising = tolerance((0, 1, 3), (0.0, 2.0, 4.0), (0.05, 0.05, 0.25), 0.1)
    assert rising is not None
    assert (rising.value, rising.severity) == pytest.approx((2.5, 1.5))
    falling = tolerance((0, 2, 4), (1.0, 0.8, 0.5), (0.8, 0.6, 0.0), 0.4)
    assert falling is not None
    assert (falling.value, falling.severity) == pytest.approx((0.7, 2 + 2 / 3))


def test_the_first_passing_counts_and_none_is_none() -> None:
    there_and_back = tolerance((0, 1, 2), (0.0, 1.0, 2.0), (0.0, 0.4, 0.0), 0.2)
    assert there_and_back is not None
    assert there_and_back.value == 0.5
    assert tolerance((0, 1), (0.0, 1.0), (0.1, 0.19), 0.2) is None
    assert tolerance((0, 1), (0.0, 1.0), (0.1, math.nan), 0.2) is None


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("shift", 0.7, "0.7 pixels"),
        ("shift", 12.34, "12 pixels"),
        ("scale", 1.0561, "× 1.056"),
        ("dim_lamp", 0.8, "× 0.8"),
        ("brighter", 0.09, "+0.09"),
        ("jpeg", 40.0, "quality 40"),
        ("rotation", 5.83, "5.8°"),
        ("contrast", 1.0, "× 1"),
    ],
)
def test_strengths_are_written_with_two_digits_of_their_distance_from_nothing(
    kind: str, value: float, text: str
) -> None:
    assert CORRUPTIONS[kind].written(value) == text
