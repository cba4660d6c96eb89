"""One thread: the networks of tests are so small that more only wait for each other, and sums differ with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Machines are shared, and a first call may import much.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

STUDY = {
    "name": "digits",
    "data": {"name": "digits", "normal_classes": ["3", "8"], "max_train_images": 40, "max_test_images": 60},
    "model": {"base_channels": 2},
    "train": {"epochs": 1, "batch_size": 16, "precision": "float32"},
    "evaluate": {"max_images": 20},
    "references": ["nearest_neighbour"],
    "search": {
        "configurations": 1,
        "space": {"train.lambda": {"uniform": [0, 0.1]}, "score.aggregation": {"choice": ["avg", "max"]}},
    },
}
SLOW_FIXTURES = {"attacked", "closed", "finished", "rivals", "trained", "tune"}
"""Fixtures that train a study or start Ray: what uses one is slow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses such a fixture."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``results/digits``, a study of :data:`STUDY` whose trials ran in this process, without a report."""
    from puzzle_study.config import read
    from puzzle_study.results import Results
    from puzzle_study.study import best
    from puzzle_study.study.attacking import write_attack_tables
    from puzzle_study.study.engine import make_plan
    from puzzle_study.study.tables import write_tables
    from puzzle_study.trials import run

    folder = tmp_path_factory.mktemp("searched")
    results = Results(folder / "results" / "digits")
    file = read.load(STUDY)
    plan = make_plan(file, results)
    results.root.mkdir(parents=True)
    results.study_file.write_text(read.dump(file.study), encoding="utf-8")
    plan.keep_search(results.optuna_file)
    while (spec := plan.take()) is not None:
        plan.done(spec.key, run.run(spec, results, device=torch.device("cpu")))
    write_tables(plan, results)
    write_attack_tables(plan, results)
    best.write(plan, results)
    return folder
