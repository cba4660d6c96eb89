"""The studies that come with the package: found by name from any folder, written to be edited, and in the wheel."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from puzzle_study.__main__ import COMMANDS, main
from puzzle_study.config import read, shipped

ROOT = Path(__file__).resolve().parents[1]
NAMES = [path.relative_to(ROOT / "studies").with_suffix("").as_posix() for path in (ROOT / "studies").rglob("*.yaml")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has nothing to do with the checkout."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def call(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, result.output
    return result


def test_every_study_of_the_repository_is_listed_with_what_it_is() -> None:
    rows = [line.split(maxsplit=1) for line in call("list").output.splitlines()]
    assert sorted(name for name, _ in rows) == sorted(NAMES)
    for name, title in rows:
        text = (ROOT / "studies" / f"{name}.yaml").read_text(encoding="utf-8")
        assert text.startswith(f"# {title[:60]}")
        assert 10 < len(title) < 120


@pytest.mark.parametrize("name", ["digits", "folder", "detectors_mnist", "paper/table02_mvtec"])
def test_a_written_study_is_the_packages_and_its_comments_name_the_new_file(name: str, elsewhere: Path) -> None:
    said = call("init", name).output
    target = Path(f"{Path(name).name}.yaml")
    assert said == f"{target}: edit it, then run: puzzle-study tune {target}\n"
    text = target.read_text(encoding="utf-8")
    assert f"python -m puzzle_study.tune {target}" in text
    assert "studies/" not in text
    assert "$schema" not in text
    assert read.load(target).study == read.load(ROOT / "studies" / f"{name}.yaml").study


def test_a_written_study_takes_a_path_or_a_folder_and_replaces_nothing(elsewhere: Path) -> None:
    call("init", "mnist", "mine/my digits.yaml")
    assert "puzzle_study.tune 'mine/my digits.yaml'" in Path("mine/my digits.yaml").read_text(encoding="utf-8")
    call("init", "mnist", "mine")
    assert Path("mine/mnist.yaml").is_file()
    Path("mnist.yaml").write_text("mine\n")
    assert "mnist.yaml is there already" in call("init", "mnist", code=2).output
    assert Path("mnist.yaml").read_text() == "mine\n"
    assert "mnist.yaml/a.yaml cannot be written" in call("init", "mnist", "mnist.yaml/a.yaml", code=2).output
    assert "no study 'mnits'; did you mean mnist?" in call("init", "mnits", code=2).output
    assert "`puzzle-study list`" in call("init", "../../secret", code=2).output


def test_a_name_is_a_study_of_the_package_unless_a_file_has_it(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shipped.find(Path("digits")) == shipped.FOLDER / "digits.yaml"
    assert shipped.find(Path("paper/table02_mvtec")) == shipped.FOLDER / "paper" / "table02_mvtec.yaml"
    Path("digits").mkdir()
    assert shipped.find(Path("digits")) == shipped.FOLDER / "digits.yaml"
    # Who runs `init digits`, edits the file and runs `tune digits` wants that file.
    call("init", "digits")
    assert shipped.find(Path("digits")) == Path("digits.yaml")
    Path("mnist").write_text("data: {name: digits}\n")
    assert shipped.find(Path("mnist")) == Path("mnist")
    assert shipped.find(Path()) == Path()


def test_tune_runs_a_study_of_the_package_from_any_folder(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[tuple[str, Path]] = []

    def run_study(file: read.StudyFile, folder: Path, **named: object) -> int:
        run.append((file.study.name, folder.absolute()))
        return 0

    monkeypatch.setattr("puzzle_study.study.engine.run_study", run_study)
    call("tune", "digits")
    assert run == [("digits", elsewhere / "results")]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("digit", "did you mean digits?"),
        ("studies/digits.yaml", "the study of that name in the package is digits, without .yaml"),
    ],
)
def test_a_study_that_is_not_there_is_said_with_what_may_be_meant(word: str, hint: str) -> None:
    assert hint in call("tune", word, code=2).output


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_an_example(name: str) -> None:
    said = call(name, "--help").output
    assert "Example" in said
    assert f"puzzle-study {name}" in said


def test_the_shell_completes_commands_and_options() -> None:
    def completed(words: str, position: int) -> str:
        env = {"_PUZZLE_STUDY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
        return CliRunner().invoke(main, prog_name="puzzle-study", env=env).output

    assert completed("puzzle-study sc", 1) == "plain,score\n"
    assert completed("puzzle-study score --wa", 2) == "plain,--watch\n"
    assert "_PUZZLE_STUDY_COMPLETE=bash_source puzzle-study" in (ROOT / "docs" / "using.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_exist_with_their_options() -> None:
    page = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
    lines = [shlex.split(line, comments=True) for line in page.splitlines() if line.startswith("puzzle-study ")]
    assert {words[1] for words in lines} == {"list", "tune", "init", "score", "serve"}
    for _, name, *words in lines:
        found = main.get_command(click.Context(main), name)
        assert found is not None
        options = {option for parameter in found.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options


def test_a_wheel_holds_the_studies(tmp_path: Path) -> None:
    pytest.importorskip("setuptools.build_meta")
    checkout = tmp_path / "checkout"
    for name in ("puzzle_study", "studies"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in NAMES:
            content = archive.read(f"puzzle_study/studies/{name}.yaml")
            assert content == (ROOT / "studies" / f"{name}.yaml").read_bytes()
