"""Images and settings of the imitated trials."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="package", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUZZLE_STUDY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
