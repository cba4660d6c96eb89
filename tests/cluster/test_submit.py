"""The script that `ray submit` copies: what a user wrote arrives as it was written, and nothing else does."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puzzle_study import __version__

SCRIPT = Path(__file__).resolve().parent.parent.parent / "docker" / "submit.py"
HOSTILE = [
    "--set",
    "name=a b",
    "; touch owned",
    "$(touch owned)",
    "`touch owned`",
    "&& touch owned",
    "'; touch owned; '",
    '"; touch owned; "',
    "| tee owned",
    "> owned",
    "*",
    "~",
    "!!",
    "\\",
    "",
    "two\nlines",
    "ε = 0.1",
    "-x",
]
# Stands for the package on a node: says what it was called with.
STAND_IN = """
import json, sys
from pathlib import Path
Path({out!r}).write_text(json.dumps([Path(sys.argv[1]).read_text(encoding="utf-8"), *sys.argv[2:]]))
sys.exit(7)
"""


@pytest.fixture(scope="module")
def submit() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("submit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def node(folder: Path, version: str) -> dict[str, str]:
    """The environment of a node that has some version of the package."""
    package = folder / "node" / "puzzle_study"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"__version__ = {version!r}\n", encoding="utf-8")
    (package / "tune.py").write_text(STAND_IN.format(out=str(folder / "called.json")), encoding="utf-8")
    home = folder / "home"
    home.mkdir()
    (home / "submit.py").write_bytes(SCRIPT.read_bytes())
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    return {"HOME": str(home), "PATH": path, "PYTHONPATH": str(package.parent)}


def as_ray_submits(line: str, environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Do with a `ray submit` line what Ray does: join the arguments with blanks and give them to a shell."""
    done = subprocess.run(
        ["bash", "-c", f"for word in {line.removeprefix('ray submit')}; do printf '%s\\n' \"$word\"; done"],
        capture_output=True,
        text=True,
        check=True,
    )
    _, _, *arguments = done.stdout.splitlines()
    return subprocess.run(
        ["bash", "-c", " ".join(["python", "~/submit.py", *arguments])],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )


def encoded(study: Path, *arguments: str) -> str:
    """The first line that --encode prints."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--encode", study, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[0]


def test_hostile_arguments_and_the_study_file_arrive_unchanged_through_two_shells(tmp_path: Path) -> None:
    study = tmp_path / "x.yaml"
    study.write_text("name: 'it''s; $(touch owned)'\n# ε\n", encoding="utf-8")
    line = encoded(study, *HOSTILE)
    done = as_ray_submits(line, node(tmp_path, __version__), tmp_path)
    assert done.returncode == 7, done.stderr
    called = json.loads((tmp_path / "called.json").read_text(encoding="utf-8"))
    assert called == [study.read_text(encoding="utf-8"), *HOSTILE, "--address", "auto"]
    assert not list(tmp_path.rglob("owned"))
    assert stat.S_IMODE((tmp_path / "home" / ".puzzle_study" / "submitted").stat().st_mode) & 0o022 == 0


def test_an_address_that_was_given_stays(tmp_path: Path) -> None:
    study = tmp_path / "x.yaml"
    study.write_text("name: x\n", encoding="utf-8")
    as_ray_submits(encoded(study, "--address=10.0.0.1:6379"), node(tmp_path, __version__), tmp_path)
    called = json.loads((tmp_path / "called.json").read_text(encoding="utf-8"))
    assert called[1:] == ["--address=10.0.0.1:6379"]


def test_a_node_with_another_version_is_refused(tmp_path: Path) -> None:
    study = tmp_path / "x.yaml"
    study.write_text("name: x\n", encoding="utf-8")
    done = as_ray_submits(encoded(study), node(tmp_path, "9.9.9"), tmp_path)
    assert done.returncode == 2
    assert f"this node has puzzle_study 9.9.9 for {tmp_path}/bin/python" in done.stderr
    assert f"submitted with {__version__}; install that version on every node" in done.stderr
    assert not (tmp_path / "called.json").exists()


@given(
    st.lists(st.text(st.characters(blacklist_categories=["Cs"]))), st.text(st.characters(blacklist_categories=["Cs"]))
)
def test_a_word_is_of_harmless_signs_and_holds_everything(
    submit: ModuleType, tmp_path_factory: pytest.TempPathFactory, arguments: list[str], text: str
) -> None:
    study = tmp_path_factory.getbasetemp() / "any.yaml"
    study.write_bytes(text.encode())
    word = submit.encode(study, arguments, "1.2.3")
    assert word.isascii()
    assert word.replace("-", "").replace("_", "").isalnum()
    assert word[0] == "s"
    name, read, found, version = submit.decode(word)
    assert (name, found, version) == ("any.yaml", arguments, "1.2.3")
    assert read == study.read_text(encoding="utf-8")


@pytest.mark.parametrize("word", ["", "s", "x", "s123", "s-", "--resume", "studies/digits.yaml", "sä", "s" + "A" * 64])
def test_another_argument_is_refused_in_one_sentence(submit: ModuleType, word: str) -> None:
    with pytest.raises(submit.Refused, match=r"was not made by `python docker/submit\.py --encode"):
        submit.decode(word)


def test_a_name_that_leads_elsewhere_is_refused(submit: ModuleType, tmp_path: Path) -> None:
    study = tmp_path / "x.yaml"
    study.write_text("", encoding="utf-8")
    forged = json.dumps({"format": 1, "version": "1", "name": "../x.yaml", "study": "", "arguments": []})
    word = "s" + submit.base64.urlsafe_b64encode(submit.zlib.compress(forged.encode())).decode().rstrip("=")
    with pytest.raises(submit.Refused, match=r"the study file's name '../x.yaml' is invalid"):
        submit.decode(word)


def test_what_is_too_long_or_not_there_is_refused(submit: ModuleType, tmp_path: Path) -> None:
    study = tmp_path / "x.yaml"
    with pytest.raises(submit.Refused, match=r"x.yaml cannot be read"):
        submit.encode(study, [], "1")
    study.write_text(os.urandom(200_000).hex(), encoding="utf-8")
    with pytest.raises(submit.Refused, match=r"x.yaml is too long to submit"):
        submit.encode(study, [], "1")


def test_the_token_is_made_once_and_only_for_its_owner(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--token"]
    environment = os.environ | {"HOME": str(tmp_path)}
    path = tmp_path / ".ray" / "auth_token"
    subprocess.run(command, env=environment, check=True, capture_output=True)
    token = path.read_text(encoding="utf-8")
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(path)
    assert path.read_text(encoding="utf-8") == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
