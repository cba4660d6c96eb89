"""The two commands of the Makefile work wherever the checkout lies."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_pip_finds_its_constraints_in_a_path_with_a_blank(tmp_path: Path) -> None:
    checkout = tmp_path / "a b"
    checkout.mkdir()
    for name in ("Makefile", "constraints.txt"):
        shutil.copy(ROOT / name, checkout)
    show = "show: ; @echo $$PIP_CONSTRAINT"
    shown = subprocess.run(
        ["make", "--no-print-directory", "--eval", show, "show"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    # As pip reads it: words apart by blanks.
    assert [(checkout / word).is_file() for word in shown.stdout.split()] == [True]
