"""The sections of a report, in order. To add one: a module with a ``build``, and a line here.

The comparison of several studies is not among them: it is of all studies together, not of one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from puzzle_study.reporting.blocks import Section
from puzzle_study.reporting.sections import (
    ablations,
    axes,
    classes,
    cost,
    data_efficiency,
    detectors,
    gallery,
    histograms,
    objectives,
    provenance,
    ranking,
    robustness,
    selection,
    settings,
    stability,
    summary,
    training,
    transfer,
)
from puzzle_study.reporting.study_data import StudyData

SECTIONS: tuple[Callable[[StudyData, Path], Section], ...] = (
    summary.build,
    ranking.build,
    detectors.build,
    selection.build,
    objectives.build,
    classes.build,
    training.build,
    stability.build,
    axes.build,
    ablations.build,
    data_efficiency.build,
    robustness.build,
    transfer.build,
    gallery.build,
    histograms.build,
    cost.build,
    settings.build,
    provenance.build,
)
"""Each takes a study and the folder of the report's figures; one without blocks is left out."""
