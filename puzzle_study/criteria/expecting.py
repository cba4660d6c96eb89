"""What a user expects of anomalies, as weights of the kinds of pseudo-anomalies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from puzzle_study.criteria.kinds.registry import KINDS

Expected = Literal["defects", "other_objects", "unknown"]


def kind_weights(expect: Expected = "unknown", kinds: Sequence[str] | None = None) -> dict[str, float]:
    """Return how much each kind counts.

    Args:
        expect: ``defects`` (small changes of the same thing), ``other_objects`` or ``unknown`` (all count alike).
        kinds: those that count at all; None: all.
    """
    return {name: KINDS[name].weights.get(expect, 1.0) for name in (KINDS if kinds is None else kinds)}
