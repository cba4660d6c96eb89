"""A made-up study and its report, written once for all tests of reporting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puzzle_study.reporting import build_report
from puzzle_study.results import Results
from tests.reporting.pages import Page
from tests.reporting.synthetic import SMALL, Recipe, write_study

Small = Callable[..., Results]


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study with everything: search, references that win, attacks, gallery, a failed trial, an inverted class."""
    recipe = Recipe(configurations=9, classes=("0", "1", "8"), inverted_class="8")
    return write_study(tmp_path_factory.mktemp("results") / "made_up", recipe)


@pytest.fixture(scope="session")
def report(study: Results) -> Page:
    """The report of that study."""
    return Page(build_report(study))


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """Writes a study of one training and one reference, but for what is given."""

    def write(**changes: Any) -> Results:
        return write_study(tmp_path / str(changes.get("name", "x")), replace(SMALL, **changes))

    return write
