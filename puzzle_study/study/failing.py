"""A study whose trials all fail for one reason, which more trials would only repeat."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from puzzle_study.datasets import TaskSpec
from puzzle_study.study.plan import Plan
from puzzle_study.trials.spec import PUZZLE_AE, UNTRAINED, TrialSpec

ENOUGH = 3
"""Trials, tasks and configurations (references count) that must have failed alike, or all that there are."""
ENOUGH_IN_A_SEARCH = 10
"""Configurations, if what they search may be the reason."""


def common_failure(plan: Plan) -> str | None:
    """Return the user error with which the first trials of a plan all failed, if none of its trials has worked.

    A configuration or a class that cannot be trained does not stop a study in which others can: several of each must
    say the same. More configurations must in a search, unless a reference, which knows no searched setting, says it
    too. Sentences that name the class differ from class to class; then all classes must have failed. First means in
    the plan's order, so that failures beside a long training do not count before that has ended.
    """
    failed: list[TrialSpec] = []
    sentences: dict[TaskSpec, str] = {}
    for spec in itertools.chain(plan.references, *(planned.trials for planned in plan.configurations)):
        said = plan.records.get(spec.key, {}).get("user_error")
        if said is None or sentences.setdefault(spec.task, said) != said:
            break
        failed.append(spec)
    tasks = ENOUGH if len(set(sentences.values())) == 1 else len(plan.tasks)
    configurations = ENOUGH_IN_A_SEARCH if _may_be_searched(plan, failed) else ENOUGH
    there = len(plan.configurations) if plan.exhausted else plan.wanted
    counts = (
        (len(failed), min(ENOUGH, plan.total)),
        (len(sentences), min(tasks, len(plan.tasks))),
        (len({spec.configuration for spec in failed}), min(configurations, len(plan.study.references) + there)),
    )
    if any(found < wanted for found, wanted in counts) or any(map(has_worked, plan.records.values())):
        return None
    return f"{sentences[failed[0].task]} (the first {len(failed)} trials failed like this, so no more were run)"


def _may_be_searched(plan: Plan, failed: Iterable[TrialSpec]) -> bool:
    """Whether these trials may have failed for a setting that other configurations have otherwise."""
    searched = plan.study.search.space if plan.study.search else {}
    by_images_alone = any(spec.detector not in (PUZZLE_AE, UNTRAINED) for spec in failed)
    return bool(searched) and (not by_images_alone or any(axis.startswith("data.") for axis in searched))


def has_worked(record: Mapping[str, Any]) -> bool:
    """Whether a record is that of a trial that did not fail."""
    return record.get("status") != "failed"
