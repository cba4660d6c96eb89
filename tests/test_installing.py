"""What a plain ``pip install .`` brings, without the pinned versions of constraints.txt."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import puzzle_study

ROOT = Path(__file__).parents[1]
SECONDS = 480
OFFLINE = ("Failed to establish a new connection", "Temporary failure", "NameResolution", "Max retries exceeded")


def test_rays_private_interfaces_are_there_and_no_newer_version_is_let_in_than_the_one_that_is_tested() -> None:
    used = set()
    for path in (ROOT / "puzzle_study").rglob("*.py"):
        used |= set(re.findall(r"from (ray\.(?:\w+\.)*_[\w.]+) import (\w+)", path.read_text(encoding="utf-8")))
    assert used, "if none is used, the bound may go"
    for module, name in used:
        assert hasattr(importlib.import_module(module), name)
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    wanted = Requirement(next(line for line in lines if '"ray[tune]' in line).strip(' ",')).specifier
    pinned = Version(re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)[0])
    assert pinned in wanted
    assert f"{pinned.major}.{pinned.minor + 1}" not in wanted


def test_the_citation_and_the_release_notes_are_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"]) == (puzzle_study.__version__, "MIT")
    notes = re.findall(r"^## \[(.*?)\](?: - (.*))?$", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    assert notes[:2] == [("Unreleased", ""), (cited["version"], str(cited["date-released"]))]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)


@pytest.mark.slow
def test_a_plain_install_resolves_without_torchvision_and_an_old_requests(tmp_path: Path) -> None:
    checkout, none, report = (tmp_path / name for name in ("checkout", "constraints.txt", "report.json"))
    (checkout / "puzzle_study").mkdir(parents=True)
    for name in ("README.md", "LICENSE", "puzzle_study/__init__.py"):
        shutil.copy(ROOT / name, checkout / name)
    # Without torch, which is gigabytes with CUDA and requires none of the packages that are looked for.
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith('"torch>=')]
    assert len(kept) == len(lines) - 1
    (checkout / "pyproject.toml").write_text("".join(kept), encoding="utf-8")
    none.touch()
    command = [
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--retries=1",
        f"--report={report}",
        str(checkout),
    ]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", *command],
            cwd=tmp_path,
            env=os.environ | {"PIP_CONSTRAINT": str(none)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index did not answer within {SECONDS} s")
    if done.returncode and any(word in done.stderr for word in OFFLINE):
        pytest.skip(f"no package index can be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found = [item["metadata"] for item in json.loads(report.read_text(encoding="utf-8"))["install"]]
    versions = {item["name"].lower(): item["version"] for item in found}
    assert "torchvision" not in versions
    assert versions["torchattacks"].startswith("3.3")
    assert [int(part) for part in versions["requests"].split(".")[:2]] > [2, 25]
