"""YAML as data: loading with line numbers and bounds on size and depth, and dumping that reads back the same.

Uses PyYAML's safe loader with YAML 1.2's booleans and numbers. Round-trip libraries give line numbers too, but build
their own objects for tags, anchors and numbers, which a study file must not have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from puzzle_study.config import shipped
from puzzle_study.config.types import Layer
from puzzle_study.errors import UserError, cut

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
BOOLEANS = {"true": True, "false": False}
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Origin:
    """Where a document's parts come from: lines of its file, and assignments on the command line."""

    file: str
    lines: Mapping[Place, int]
    assigned: tuple[Place, ...] = ()

    def of(self, place: Place) -> str:
        """Return the assignment that set a place, or the file and the line of it or of its section."""
        for assigned in self.assigned:
            if assigned == place[: len(assigned)]:
                return f"--set {dotted(assigned)}"
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.file}, line {self.lines[place]}" if place in self.lines else self.file

    def has(self, place: Place) -> bool:
        """Whether the user wrote this place."""
        return place in self.lines or any(given == place[: len(given)] for given in self.assigned)


class StudyLoader(yaml.SafeLoader):
    """YAML as data, with the booleans and numbers of YAML 1.2.

    YAML 1.1 reads the class name ``no`` as false and the learning rate ``1e-3`` as a string.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012


for tag, pattern, first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("tag:yaml.org,2002:float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
):
    StudyLoader.add_implicit_resolver(tag, re.compile(pattern), [*first, *([""] if tag.endswith("null") else [])])


def _strictly(parse: Callable[[str], Any]) -> Callable[[StudyLoader, yaml.ScalarNode], Any]:
    """Return a strict constructor of values: 010 is ten, as in YAML 1.2; a value that does not fit its tag fails."""

    def construct(loader: StudyLoader, node: yaml.ScalarNode) -> Any:
        text = str(loader.construct_scalar(node))
        try:
            return parse(text)
        except (ValueError, KeyError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"{cut(repr(text))} does not fit its tag", node.start_mark
            ) from error

    return construct


# Only JSON's types: no setting is a date, a set or bytes.
StudyLoader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rsplit(":", 1)[-1] in ("map", "seq", "str", "null")
}
StudyLoader.add_constructor("tag:yaml.org,2002:int", _strictly(int))
StudyLoader.add_constructor("tag:yaml.org,2002:float", _strictly(float))
StudyLoader.add_constructor("tag:yaml.org,2002:bool", _strictly(lambda text: BOOLEANS[text.lower()]))


class StudyDumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else, such as the class names no, 08 and 1e3."""


for first, resolvers in StudyLoader.yaml_implicit_resolvers.items():
    for tag, pattern in resolvers:
        StudyDumper.add_implicit_resolver(tag, pattern, [first])


def read(path: Path) -> tuple[Layer, dict[Place, int]]:
    """Return a study file's content and the line of every key and item."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        beside = [other.name for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UserError(f"study file {path} does not exist{shipped.hint(path, beside)}") from error
    except OSError as error:
        raise UserError(f"study file {path} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise UserError(f"study file {path} is larger than 1 MiB; give another file")
    try:
        document, lines = _parsed(raw.decode("utf-8"), (), str(path), lambda line: f"{path}, line {line}")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a YAML text file in UTF-8 (byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        if "could not determine a constructor" in problem:
            tag = problem.rsplit(" ", 1)[-1]
            raise UserError(
                f"YAML tag {cut(tag)} is not allowed: a study file is plain data ({path}{where})"
            ) from error
        raise UserError(f"{path} is not valid YAML: {problem}{where}") from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise UserError(f"{path} must contain settings such as `data:` and `train:`, got {kind_of(document)}")
    return document, {(): 1} | lines


def plain(content: Mapping[str, Any]) -> Layer:
    """Return a copy of what a study file would hold, given in Python, of plain data only."""
    try:
        copy: Layer = json.loads(json.dumps(content, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"a study given in Python must hold texts, finite numbers, lists and dicts only ({error})"
        ) from error
    return copy


def _parsed(text: str, place: Place, source: str, where: Callable[[int], str]) -> tuple[Any, dict[Place, int]]:
    """Return a text's content at a place of a document, and the line of every key and item."""
    _check_depth(text, source)
    root = yaml.compose(text, Loader=StudyLoader)
    lines = dict(_lines(root, place, where)) if root is not None else {}
    return yaml.load(text, Loader=StudyLoader), lines  # StudyLoader derives from SafeLoader


def _check_depth(text: str, source: str) -> None:
    """Refuse deep nesting from the parser's events, because composing takes unbounded time and stack."""
    depth = 0
    for event in yaml.parse(text, Loader=StudyLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise UserError(f"{source} is nested too deeply to be a study file")


def _lines(node: yaml.Node, place: Place, where: Callable[[int], str]) -> Iterable[tuple[Place, int]]:
    """Yield the line of every key and item; refuse duplicate keys and aliases."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in seen:
                raise UserError(f"`{dotted((*place, name))}` is given twice ({where(line)})")
            seen.add(name)
            if value.start_mark.index < key.start_mark.index:
                raise UserError(f"`{dotted((*place, name))}` is a YAML alias; write the value out ({where(line)})")
            yield (*place, name), line
            yield from _lines(value, (*place, name), where)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            line = item.start_mark.line + 1
            if item.start_mark.index <= node.start_mark.index:
                raise UserError(f"`{dotted(place)}` holds a YAML alias; write the value out ({where(line)})")
            yield (*place, index), line
            yield from _lines(item, (*place, index), where)


def assigned(text: str, place: Place, assignment: str) -> Any:
    """Return the value of an assignment, with the same checks as a file."""
    source = f"--set {dotted(place)}"
    try:
        return _parsed(text, place, source, lambda line: source)[0]
    except yaml.YAMLError as error:
        raise UserError(f"--set {cut(assignment)}: the value is not valid YAML") from error


def dotted(place: Place) -> str:
    return cut(".".join(f"[{part}]" if isinstance(part, int) else str(part) for part in place).replace(".[", "["))


def kind_of(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "a section", list: "a list", str: "text", bool: "a boolean"}.get(type(value), "a number")
