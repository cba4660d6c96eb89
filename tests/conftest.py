"""One thread: the networks of tests are so small that more only wait for each other, and sums differ with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

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
