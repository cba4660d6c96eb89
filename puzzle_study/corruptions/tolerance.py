"""How much of a corruption a detector bears: where a measured share passes a limit, between two severities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """Where a limit is passed: the physical strength, and the severity that it is, such as 2.4."""

    value: float
    severity: float


def tolerance(
    severities: Sequence[int], values: Sequence[float], measured: Sequence[float], limit: float
) -> Tolerance | None:
    """Return the first strength at which what was measured passes a limit, linear between neighbours.

    Args:
        severities: from 0, none, in rising order.
        values: the physical strength of each.
        measured: what was measured at each; its first value is on one side of the limit.
        limit: to be reached from that side.

    Returns:
        None if the limit is reached nowhere, or if something is NaN.
    """
    if math.isnan(limit) or any(map(math.isnan, measured)):
        return None
    rising = measured[0] < limit
    for low, high in zip(range(len(measured)), range(1, len(measured)), strict=False):
        if measured[high] >= limit if rising else measured[high] <= limit:
            share = (
                (limit - measured[low]) / (measured[high] - measured[low]) if measured[high] != measured[low] else 0.0
            )
            return Tolerance(
                values[low] + share * (values[high] - values[low]),
                severities[low] + share * (severities[high] - severities[low]),
            )
    return None
