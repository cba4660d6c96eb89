"""The page on extending shows the very detector that the tests install as another package's."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_page_on_extending_shows_the_detector_that_is_tested() -> None:
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert shown == Path(__file__).with_name("mean_image.py").read_text(encoding="utf-8")
