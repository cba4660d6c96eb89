"""Every criterion by name. To add one: a module with a :class:`~puzzle_study.criteria.base.Criterion`, and a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from puzzle_study.registry import Registry

if TYPE_CHECKING:
    from puzzle_study.criteria.base import Criterion

CRITERIA: Registry[type[Criterion]] = Registry(
    "criterion",
    {
        "pseudo_anomalies": "puzzle_study.criteria.pseudo_anomalies:PseudoAnomalies",
        "oracle": "puzzle_study.criteria.oracle:Oracle",
    },
)
