"""A report of thousands of configurations reads whole columns; the same is done here one configuration at a time."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puzzle_study.reporting import reading
from puzzle_study.reporting.sections import ranking
from puzzle_study.reporting.values import auroc_mean, tasks_of
from puzzle_study.results import Results
from puzzle_study.statistics import intervals

SCORES = st.one_of(st.just(np.nan), st.integers(0, 3).map(float))
CONFIGURATION = st.tuples(
    st.sampled_from(["configuration", "configuration", "reference"]),
    st.booleans(),
    st.lists(st.tuples(SCORES, SCORES, st.sampled_from(["", "", "winner"])), min_size=1, max_size=3),
)


@settings(max_examples=40)
@given(st.lists(CONFIGURATION, min_size=1, max_size=8))
def test_the_ranking_keeps_the_first_of_each_part_and_all_that_are_named(
    configurations: list[tuple[str, bool, list[tuple[float, float, str]]]],
) -> None:
    names = ["configuration", "role", "complete", "rank", "auroc_mean", "label"]
    rows = pd.DataFrame(
        [(f"c{at}", role, complete, *own) for at, (role, complete, some) in enumerate(configurations) for own in some],
        columns=names,
    ).sort_values(["rank", "auroc_mean"], ascending=[True, False])

    def order(group: pd.DataFrame) -> tuple[float, ...]:
        best = group.iloc[0]
        part = 1 if best["role"] == "reference" else 0 if best["complete"] else 2
        return (part, *np.nan_to_num([best["rank"], -best["auroc_mean"]], nan=np.inf))

    groups = sorted((group for _, group in rows.groupby("configuration", sort=False)), key=order)
    named = [(group["role"] == "reference").any() or (group["label"] != "").any() for group in groups]
    others = [place for place, is_named in enumerate(named) if not is_named][: max(0, 3 - sum(named))]
    expected = [(place + 1, groups[place]) for place in range(len(groups)) if named[place] or place in others]
    with mock.patch.object(ranking, "MOST_ROWS", 3):
        found = ranking._most(rows)
    assert [place for place, _ in found] == [place for place, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("metric", ["auroc", "selection", "val_error"])
def test_means_of_columns_are_those_of_each_configurations_trials(study: Results, metric: str) -> None:
    data = reading.load(study)
    choices = [data.choice(row) for _, row in data.summary.iterrows()]
    assert len(choices) > 20
    for choice in choices:
        values = data.metric(choice, metric)
        found = data.mean(choice, metric)
        if values.empty:
            assert found is None
        elif metric == "auroc":
            ends = (data.metric(choice, suffix=end) for end in ("_low", "_high"))
            np.testing.assert_equal(vars(found), vars(auroc_mean(values, *ends)))
        else:
            bounds = (0, 1) if metric == "selection" else (-np.inf, np.inf)
            expected = intervals.mean_interval(values.to_numpy(), tasks_of(values), bounds=bounds)
            np.testing.assert_equal(vars(found), vars(expected))
        known = ~np.isnan(data.numbers(choice, metric))
        assert [key for key, there in zip(data.keys(choice), known, strict=True) if there] == list(values.index)
