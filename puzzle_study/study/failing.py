"""A study whose trials all fail for one reason, which more trials would only repeat."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from puzzle_study.datasets import TaskSpec
from puzzle_study.study.plan import Plan
from puzzle_study.trials.spec import TrialSpec

ENOUGH = 3
"""Trials, tasks and configurations (references count) that must have failed alike, or all that there are."""
ENOUGH_IN_A_SEARCH = 10
"""Configurations, if what they search may be the reason."""


def common_failure(plan: Plan) -> str | None:
    """Return the user error with which the first trials of a plan all failed, if none of its trials has worked.

    One configuration or class that cannot be trained does not stop a study: several of each must fail alike, and more
    configurations in a search, unless a reference, which knows no searched setting, fails alike too. If sentences
    differ from class to class, all classes must have failed. First means in the plan's order, so that failures beside
    a long training do not count before that has ended.
    """
    failed: list[TrialSpec] = []
    sentences: dict[TaskSpec, str] = {}
    for spec in itertools.chain(plan.references, *(planned.trials for planned in plan.configurations)):
        record = plan.records.get(spec.key)
        said = record.user_error if record is not None else ""
        if not said or sentences.setdefault(spec.task, said) != said:
            break
        failed.append(spec)
    tasks = ENOUGH if len(set(sentences.values())) == 1 else len(plan.tasks)
    configurations = ENOUGH_IN_A_SEARCH if _may_be_searched(plan, failed) else ENOUGH
    references = len({spec.detector for spec in plan.references})
    there = len(plan.configurations) if plan.exhausted else plan.wanted
    counts = (
        (len(failed), min(ENOUGH, plan.total)),
        (len(sentences), min(tasks, len(plan.tasks))),
        (len({spec.configuration for spec in failed}), min(configurations, references + there)),
    )
    if any(found < wanted for found, wanted in counts) or any(record.worked for record in plan.records.values()):
        return None
    return f"{sentences[failed[0].task]} (the first {len(failed)} trials failed like this, so no more were run)"


def _may_be_searched(plan: Plan, failed: Iterable[TrialSpec]) -> bool:
    """Whether these trials may have failed because of a setting that is searched."""
    searched = plan.study.search.space if plan.study.search else {}
    owners = tuple(found[0] for name in searched if (found := plan.file.form.resolve(name)))
    return bool(searched) and all(
        isinstance(spec.settings, owners) or isinstance(spec.settings.own, owners) for spec in failed
    )
