"""Reports of finished studies: statistics, tables, figures and one self-contained HTML page.

Importing this package is light; seaborn and PyTorch are loaded when a report is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from puzzle_study.results import Results

__all__ = ["build_report"]


def build_report(results: Results, *, others: Sequence[Results] = (), output: Path | None = None) -> Path:
    """Write the report of a study and return the path of its ``index.html``.

    Args:
        results: the study that is reported.
        others: further studies that are compared with it.
        output: folder of the report; None: ``report`` in the study's own folder.

    Raises:
        UserError: a study has no tables yet, or one of its files is damaged.
    """
    from puzzle_study.reporting import build

    return build.build(results, others=others, output=output or results.report)
