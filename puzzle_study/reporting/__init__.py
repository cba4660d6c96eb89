"""Reports of finished studies: statistics, tables, figures and one self-contained HTML page.

Importing this package is light; seaborn and PyTorch are loaded when a report is built.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle_study.errors import UserError

if TYPE_CHECKING:
    from puzzle_study.reporting.study_data import StudyData
    from puzzle_study.results import Results

__all__ = ["build_report", "chosen_results", "load_study", "write_model_cards"]

VARIABLE = "PUZZLE_STUDY_RESULTS"


def build_report(
    results: Results,
    *,
    others: Sequence[Results] = (),
    output: Path | None = None,
    environment: Mapping[str, Any] | None = None,
) -> Path:
    """Write a study's report and return the path of its ``index.html``.

    Args:
        results: the study.
        others: further studies to compare with it.
        output: folder of the report; None: ``report`` in the study's own folder.
        environment: future content of ``environment.json``; None: its present content.

    Raises:
        UserError: a study has no tables yet, or one of its files is damaged.
    """
    from puzzle_study.reporting import build

    return build.build(results, others=others, output=output or results.report, environment=environment)


def write_model_cards(results: Results, environment: Mapping[str, Any]) -> None:
    """Write MODEL_CARD.md beside each of the winner's detectors; see :mod:`puzzle_study.reporting.model_card`."""
    from puzzle_study.reporting import model_card

    model_card.write_model_cards(results, environment)


def load_study(folder: Path) -> StudyData:
    """Read a finished study: its tables, and values for reports and notebooks.

    Args:
        folder: ``results/<name>``.

    Raises:
        UserError: the study has no tables yet, or one of its files is damaged.
    """
    from puzzle_study.reporting import reading
    from puzzle_study.results import Results

    return reading.load(Results(folder))


def chosen_results(default: str = "digits") -> Path:
    """Return the folder that a notebook reads: PUZZLE_STUDY_RESULTS, or ``results/<default>`` here or one level up."""
    named = os.environ.get(VARIABLE)
    tried = [Path(named)] if named else [Path("results") / default, Path("..") / "results" / default]
    for folder in tried:
        if folder.is_dir():
            return folder
    raise UserError(f"{tried[0]} is missing; run python -m puzzle_study.tune STUDY.yaml first, or set {VARIABLE}")
