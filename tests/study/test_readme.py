"""The README, word by word: every command and example of it runs, in order, in another folder, on new images."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

import puzzle_study
from benchmarks import parts
from puzzle_study.__main__ import main
from puzzle_study.config import read
from puzzle_study.results import Results
from tests.study.conftest import DIGITS, plan_of, tune_environment

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
SMALLER = {
    "  feature_knn: {}\n": "",
    "    feature_knn.neighbours: {choice: [1, 2, 5]}\n": "",
    "data: {size: 64,": "data: {size: 32, validation_count: 6,",
    "train: {epochs: 10}": "train: {epochs: 1}",
    "references: [nearest_neighbour, pca, one_class_svm]": "references: [nearest_neighbour]",
    "attacks: {methods: [fgsm, noise],": "attacks: {configurations: [winner], methods: [noise],",
}
"""What "edit it if you like" does to the study file here: less work, and every detector draws maps."""


def test_every_block_is_of_a_kind_that_is_checked_and_every_link_leads_somewhere() -> None:
    assert {kind for kind, _ in BLOCKS} == {"sh", "python", "yaml", "bibtex"}
    assert README.count("```") == 2 * len(BLOCKS)
    for target, anchor in re.findall(r"\]\((?!http)([^)#]+)(?:#([\w-]+))?\)", README):
        assert (ROOT / target).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / target).read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_what_is_to_be_installed_is_there() -> None:
    """`test_installing` resolves the package's requirements and `test_shipped` builds it; this would load gigabytes."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (extras,) = (match for line in COMMANDS for match in re.findall(r"^pip install '\.\[(.*)\]'", line))
    assert set(extras.split(",")) <= set(re.findall(r"^(\w+) = \[", project, flags=re.MULTILINE))


def test_the_study_file_is_complete(tmp_path: Path) -> None:
    (content,) = (block for kind, block in BLOCKS if kind == "yaml")
    plan = plan_of(tmp_path, content, [DIGITS[3], DIGITS[8]])
    assert plan.take() is not None
    assert plan.total > 20 * 2 * 3
    assert read.load(tmp_path / "study.yaml", quick=True).study != read.load(tmp_path / "study.yaml").study


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has nothing to do with the checkout, with images that no other test draws."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PUZZLE_STUDY_CACHE", "cache")
    parts.write(folder / "data" / "mine", train=24, test=3, side=40, seed=1)
    (folder / "photos").mkdir()
    rng = np.random.default_rng(2)
    for number, defect in enumerate((None, "scratch", "chip")):
        parts.washer(rng, defect, 40).save(folder / "photos" / f"{number}.png")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_its_commands_run_one_after_the_other_from_another_folder(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, block in BLOCKS:
        if kind == "python":
            capsys.readouterr()
            exec(block, {})  # as a script would, without a second of imports
            assert re.search(r"^\[-?1 +-?1 +-?1\]$", capsys.readouterr().out, flags=re.MULTILINE)
        for line in block.splitlines() if kind == "sh" else ():
            follow(line, elsewhere)
    results = Results(elsewhere / "results" / "mine")
    assert set(pd.read_csv(results.trials_file).status) == {"finished"}
    assert results.report_file.is_file()
    (best,) = results.best.iterdir()
    assert {path.name for path in best.iterdir()} == {"detector.json", "weights.safetensors", "MODEL_CARD.md"}
    assert len(pd.read_csv(elsewhere / "scores.csv")) == 3
    maps = sorted(path.name for path in (elsewhere / "maps").iterdir())
    assert maps == ["0.png", "1.png", "2.png"]
    with Image.open(elsewhere / "maps" / "0.png") as overlay:
        assert overlay.size == (512, 512)
    session = onnxruntime.InferenceSession(str(elsewhere / "mine.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "score"
    assert (elsewhere / "mine_model" / "MLmodel").is_file()
    written = {"cache", "data", "maps", "mine.onnx", "mine.yaml", "mine_model", "photos", "results", "scores.csv"}
    assert {path.name for path in elsewhere.iterdir()} == written
    move_the_images(elsewhere, capsys)


def follow(line: str, here: Path) -> None:
    """Do what a line says; the lines of `make` are only looked up, those of `pip` are another test's."""
    words = shlex.split(line, comments=True)
    if words[0] == "make" and shutil.which("make"):
        call(ROOT, ["make", "--dry-run", *words[1:]])
    elif words[:2] == ["puzzle-study", "serve"]:
        serve(words, here)
    elif "--watch" in words:
        watch(words, here)
    elif words[:2] == ["puzzle-study", "tune"] and "--dry-run" not in words:
        call(here, ["bash", "-c", line])  # Ray gets a process of its own
    elif words[0] == "puzzle-study":
        done = CliRunner().invoke(main, words[1:])
        assert done.exit_code == 0, done.output
    else:
        assert words[0] in ("make", "pip"), line
    if words[:2] == ["puzzle-study", "init"]:
        path = here / words[-1]
        text = path.read_text(encoding="utf-8")
        for old, new in SMALLER.items():
            assert old in text
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


def environment() -> dict[str, str]:
    """The commands of this environment first."""
    own = tune_environment()
    return own | {"PATH": f"{Path(sys.executable).parent}:{own['PATH']}"}


def call(here: Path, words: list[str]) -> None:
    """Run a command, which must succeed."""
    done = subprocess.run(words, cwd=here, env=environment(), capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"


def serve(words: list[str], here: Path) -> None:
    """Start the page, look at it, and end it by Ctrl-C."""
    with subprocess.Popen(
        [*words, "--port", "0"], cwd=here, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            with urllib.request.urlopen(address, timeout=60) as page:
                assert b"mine" in page.read()
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def watch(words: list[str], here: Path) -> None:
    """Wait until the images that are there have their rows, and end it by Ctrl-C."""
    with subprocess.Popen(words, cwd=here, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            rows = [process.stdout.readline() for _ in range(4)]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    assert [row.partition(",")[0] for row in rows] == ["path", *(f"photos/{number}.png" for number in range(3))]


def move_the_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever the images lie, the finished study is theirs: it is only read, and its detectors can be attacked."""
    (here / "data").rename(here.parent / "moved")
    capsys.readouterr()
    study = puzzle_study.run("mine.yaml", quick=True, settings={"data.root": "../moved/mine"})
    assert capsys.readouterr().out == "mine is finished: results/mine/report/index.html\n"
    assert study.detector("mine").name == study.detector().name
    attack = "attack results/mine/best --method noise --epsilon 0.1 --data-root ../moved/mine --output noise.csv"
    assert CliRunner().invoke(main, attack.split()).exit_code == 0
    assert (here / "noise.csv").is_file()
