"""Importances find the axis that matters, and say when nothing can be said."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest

from puzzle_study.reporting import importance
from puzzle_study.reporting.blocks import Paragraph, Table
from puzzle_study.reporting.sections import axes
from puzzle_study.reporting.study_data import StudyData


def test_the_axis_that_matters_is_found() -> None:
    generator = np.random.default_rng(0)
    settings = pd.DataFrame({"train.lambda": generator.random(40), "puzzle.grid": generator.integers(2, 4, 40)})
    found = importance.importances(settings, settings["train.lambda"] * 0.1 + 0.8)
    assert found.axes["train.lambda"].low > found.axes["puzzle.grid"].high
    assert found.r2.low > 0.5
    assert found.n == 40


def test_noise_has_no_importance() -> None:
    generator = np.random.default_rng(1)
    settings = pd.DataFrame({"a": generator.random(30), "b": generator.random(30)})
    found = importance.importances(settings, generator.random(30))
    assert found.r2.low < 0
    assert all(axis.low <= 0 <= axis.high for axis in found.axes.values())


def test_words_and_missing_values_are_encoded() -> None:
    settings = pd.DataFrame(
        {"method": ["pgd", "fgsm", "none"], "epsilon": [0.2, 0.1, np.nan], "flag": [True, False, True]}
    )
    assert importance.encoded(settings).tolist() == [[2, 0.2, 1], [0, 0.1, 0], [1, 0.0, 1]]


def test_equal_values_do_not_break() -> None:
    found = importance.importances(pd.DataFrame({"a": range(10)}), np.full(10, 0.9))
    assert np.isnan(found.r2.value)


@pytest.mark.parametrize(("spread", "why"), [(1.0, r"explains .* which may be nothing"), (0.0, "the same AUROC")])
def test_the_report_has_no_importances_if_the_forest_explains_nothing(spread: float, why: str) -> None:
    generator = np.random.default_rng(1)
    frame = pd.DataFrame({"a": generator.random(30), "_auroc": spread * generator.random(30)})
    block = axes._importance(cast("StudyData", SimpleNamespace(axes=["a"])), frame)
    assert isinstance(block, Paragraph)
    assert re.search(why, block.text)


def test_the_report_has_importances_if_the_forest_explains_something() -> None:
    frame = pd.DataFrame({"a": np.random.default_rng(0).random(40)}).assign(_auroc=lambda own: own["a"] * 0.1 + 0.8)
    block = axes._importance(cast("StudyData", SimpleNamespace(axes=["a"])), frame)
    assert isinstance(block, Table)
    assert [row[0].text for row in block.rows] == ["a"]


def test_few_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="importances need 8 configurations and an axis, got 3"):
        importance.importances(pd.DataFrame({"a": [1, 2, 3]}), [1, 2, 3])
