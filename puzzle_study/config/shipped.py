"""The study files that come with the package, by name: ``digits``, ``folder``, ``paper/table02_mvtec``.

``puzzle_study/studies`` is a link to the repository's ``studies``, which a wheel holds as a folder of files.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from puzzle_study.errors import UserError, cut, suggestion

FOLDER = Path(__file__).parents[1] / "studies"
SUFFIX = ".yaml"
SCHEMA_LINE = "# yaml-language-server:"


def names() -> list[str]:
    """Return the names, those of the paper's tables and figures last."""
    paths = [path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob(f"*{SUFFIX}")]
    return [path.as_posix() for path in sorted(paths, key=lambda path: (len(path.parts), path))]


def file_of(name: str) -> Path:
    """Return the file of one of the package's studies, or raise UserError."""
    if name not in names():
        near = suggestion(name, names()) or "; `puzzle-study list` shows what there is"
        raise UserError(f"the package has no study {cut(repr(name))}{near}")
    return FOLDER / f"{name}{SUFFIX}"


def find(word: Path) -> Path:
    """Return the study file for a word on the command line.

    An existing file with this name wins, then one with ``.yaml`` added, such as one from ``puzzle-study init folder``,
    then a study of the package. Any other path is returned unchanged; its reader reports that it does not exist.
    """
    beside = word.with_name(f"{word.name}{SUFFIX}") if word.name else word
    for path in (word, beside):
        if path.is_file():
            return path
    return file_of(word.as_posix()) if word.as_posix() in names() else word


def hint(path: Path, beside: list[str]) -> str:
    """Return a suggestion for a missing study file with these ``beside`` it, or an empty string."""
    if path.stem in names():
        return f"; the study of that name in the package is {path.stem}, without {path.suffix or 'a folder'}"
    near = suggestion(path.name, beside) or suggestion(path.stem, names())
    return near or ("" if path.suffix or path.parent.name else "; `puzzle-study list` shows the studies of the package")


def title(name: str) -> str:
    """Return what the study is, the start of the comment at its head."""
    text = " ".join(line.removeprefix("#").strip() for line in _head(file_of(name)))
    found = re.match(r".*?(?:\?|(?=[.:;] ))", text)
    return found[0] if found else text


def _head(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]


def copied(name: str, target: Path) -> str:
    """Return the study's text for a file elsewhere: its comments name that file, and no schema that is not there."""
    text = file_of(name).read_text(encoding="utf-8").replace(f"studies/{name}{SUFFIX}", shlex.quote(str(target)))
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(SCHEMA_LINE))
