"""The sections of a report, in order. To add one: a module with a ``build``, and its name here.

The comparison of several studies is not listed, because it belongs to all studies together.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from puzzle_study.reporting.blocks import Section
from puzzle_study.reporting.study_data import StudyData

NAMES = (
    "verdict",
    "summary",
    "ranking",
    "detectors",
    "selection",
    "objectives",
    "classes",
    "training",
    "stability",
    "axes",
    "ablations",
    "data_efficiency",
    "robustness",
    "convergence",
    "smallest",
    "certified",
    "transfer",
    "corruptions",
    "gallery",
    "histograms",
    "cost",
    "settings",
    "provenance",
)
SECTIONS: tuple[Callable[[StudyData], Section], ...] = tuple(
    import_module(f"puzzle_study.reporting.sections.{name}").build for name in NAMES
)
"""Each takes a study; a section without blocks is left out, and one line tells what a study did not do."""
