"""A made-up study and its report, written once for all tests of reporting."""

from __future__ import annotations

from pathlib import Path

import pytest

from puzzle_study.reporting import build_report
from puzzle_study.results import Results
from tests.reporting.synthetic import Recipe, write_study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study with everything: search, references that win, attacks, gallery, a failed trial, an inverted class."""
    recipe = Recipe(configurations=9, classes=("0", "1", "8"), inverted_class="8")
    return write_study(tmp_path_factory.mktemp("results") / "made_up", recipe)


@pytest.fixture(scope="session")
def report(study: Results) -> Path:
    """The report of that study."""
    return build_report(study)
