"""Every criterion by name; the first is the default.

To add one: a module with a :class:`~puzzle_study.criteria.base.Criterion`, and a line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from puzzle_study.registry import Registry

if TYPE_CHECKING:
    from puzzle_study.criteria.base import Criterion

CRITERIA: Registry[type[Criterion]] = Registry(
    "criterion",
    {
        "pseudo_anomalies": "puzzle_study.criteria.pseudo_anomalies:PseudoAnomalies",
        "worst_kind": "puzzle_study.criteria.worst_kind:WorstKind",
        "borda": "puzzle_study.criteria.borda:Borda",
        "val_error": "puzzle_study.criteria.val_error:ValError",
        "stability": "puzzle_study.criteria.stability:Stability",
        "consensus": "puzzle_study.criteria.consensus:Consensus",
        "ensemble": "puzzle_study.criteria.ensemble:Ensemble",
        "oracle": "puzzle_study.criteria.oracle:Oracle",
    },
)
"""Classes of :class:`~puzzle_study.criteria.base.Criterion` by their names in ``selection``."""
