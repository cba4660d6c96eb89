"""Detects that all trials of a study fail for one reason, so that more trials would fail too."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from puzzle_study.datasets import TaskSpec
from puzzle_study.study.plan import Plan
from puzzle_study.trials.spec import TrialSpec

ENOUGH = 3
"""Trials, tasks and configurations (references count) that must have failed with the same error, or all of them."""
ENOUGH_IN_A_SEARCH = 10
"""Configurations, if a searched setting may be the reason."""


def common_failure(plan: Plan) -> str | None:
    """Return the user error with which the first trials of a plan all failed, if no trial has worked.

    A single failing configuration or class does not stop a study: several of each must fail with the same error, and
    more configurations in a search, unless a reference, which has no searched setting, fails in the same way. If errors
    differ between classes, all classes must have failed. "First" is in the plan's order, so failures beside a long
    training do not count before that has ended.
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
    counts = (
        (len(failed), min(ENOUGH, plan.total)),
        (len(sentences), min(tasks, len(plan.tasks))),
        (len({plan.training_of(spec) for spec in failed}), min(configurations, references + plan.trainings)),
    )
    if any(found < wanted for found, wanted in counts) or any(record.worked for record in plan.records.values()):
        return None
    return f"{sentences[failed[0].task]} (the first {len(failed)} trials failed like this, so no more were run)"


def _may_be_searched(plan: Plan, failed: Iterable[TrialSpec]) -> bool:
    """Whether a searched setting may have caused these failures."""
    searched = plan.study.search.space if plan.study.search else {}
    owners = tuple(found[0] for name in searched if (found := plan.file.form.resolve(name)))
    return bool(searched) and all(
        isinstance(spec.settings, owners) or isinstance(spec.settings.own, owners) for spec in failed
    )
