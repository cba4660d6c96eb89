"""The commands of the Makefile work wherever the checkout lies, and name the versions of Python that are promised."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

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


def test_makefile_and_workflow_test_the_versions_of_python_that_the_package_names() -> None:
    project, makefile, workflow = (
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("pyproject.toml", "Makefile", ".github/workflows/tests.yml")
    )
    named = re.findall(r"Python :: (3\.\d+)", project)
    jobs = yaml.safe_load(workflow)["jobs"]
    assert jobs["python"]["strategy"]["matrix"]["version"] == named
    assert f"PYTHONS ?= {' '.join(named)}\nOLDEST := {named[0]}\n" in makefile
    assert f'requires-python = ">={named[0]}"' in project


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_python_that_is_not_there_is_said_to_be_left_out(tmp_path: Path) -> None:
    """By a uv that finds and downloads nothing."""
    (tmp_path / "uv").write_text("#!/bin/sh\nexit 2\n")
    (tmp_path / "uv").chmod(0o755)
    done = subprocess.run(
        ["make", "--no-print-directory", "test-matrix", "PYTHONS=3.99"],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Python 3.99 is not on this machine" in done.stderr
    assert done.stdout.endswith("failed: none; not run, since they are not on this machine: 3.99\n")
