"""Reading a study file: YAML as data, layers of defaults, and errors that name the line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from puzzle_study import config
from puzzle_study.config import layers
from puzzle_study.config.check import check_puzzles, check_search
from puzzle_study.errors import UserError, cut, nearest_setting, suggestion
from puzzle_study.paths import with_absolute_paths

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
BOOLEANS = {"true": True, "false": False}
Place = tuple[str | int, ...]


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
    """Return a constructor of values: 010 is ten, as in YAML 1.2; what does not fit its tag is an error."""

    def construct(loader: StudyLoader, node: yaml.ScalarNode) -> Any:
        text = str(loader.construct_scalar(node))
        try:
            return parse(text)
        except (ValueError, KeyError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"{cut(repr(text))} does not fit its tag", node.start_mark
            ) from error

    return construct


# Of the types of YAML only those of JSON: dates, sets and bytes are no settings.
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


@dataclass(frozen=True)
class StudyFile:
    """A study file as read, from which the study and its configurations are resolved.

    Attributes:
        source: name of the file, for errors.
        study: the study with every default filled in.
    """

    source: str
    study: config.Study
    _document: layers.Layer = field(repr=False)
    _lines: Mapping[Place, int] = field(repr=False)
    _given: Sequence[Place] = field(repr=False)

    def configuration(self, values: Mapping[str, config.Scalar]) -> config.Settings:
        """Return the configuration that has these values, by dotted name, and the study's otherwise.

        Raises:
            UserError: a value is not allowed there; the axis in the study file is named.
        """
        layers = [layers.nested(name, value) for name, value in values.items()]
        document = resolved_layers(layers.merge(self._document, *layers), chosen=frozenset(values))
        names = config.Settings.model_fields
        try:
            return config.Settings.model_validate({key: value for key, value in document.items() if key in names})
        except ValidationError as error:
            first = error.errors()[0]
            loc = ".".join(str(part) for part in first["loc"])
            axis = next((name for name in values if loc.startswith(name)), next(iter(values), ""))
            raise UserError(
                f"search axis `{axis}` leads to a value that is not allowed: {_reason(first)} ({self.where(axis)})"
            ) from error

    def where(self, axis: str) -> str:
        """Return the file and line in which a search axis stands."""
        return _where(("search", "space", axis), self.source, self._lines, (), self._given)

    def where_set(self, settings: Iterable[str]) -> str:
        """Return the file and line, or the assignment, of the first of these settings that the user has set."""
        places = [tuple(name.split(".")) for name in settings]
        of_user = [
            place
            for place in places
            if place in self._lines or any(given == place[: len(given)] for given in self._given)
        ]
        return _where((of_user or places)[0], self.source, self._lines, (), self._given)


def resolved_layers(document: layers.Layer, chosen: frozenset[str] = frozenset()) -> layers.Layer:
    """Merge the layers of defaults under a document, and the variant's own settings over it.

    Raises:
        UserError: the document contradicts its variant (values of a search, ``chosen``, may not).
    """
    data = document.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    dataset = layers.DATASETS.get(str(name), {})
    preset = layers.preset(str(document.get("preset", dataset.get("preset", "paper"))), str(name))
    variant = str(document.get("variant", "CPAE-G"))
    forced = layers.VARIANTS.get(variant, {})
    if "variant" not in chosen:
        given = layers.leaves(document)
        for dotted, value in layers.leaves(forced).items():
            if dotted in given and given[dotted] != value:
                raise UserError(
                    f"variant {variant} means {dotted} = {value}, but {dotted} is set to {cut(str(given[dotted]))}; "
                    f"leave one of the two out"
                )
    return layers.merge(dataset, preset, document, forced)


def load(path: Path, *, quick: bool = False, assignments: Iterable[str] = ()) -> StudyFile:
    """Read a study file.

    Args:
        path: a YAML file.
        quick: apply the file's own ``quick:`` section.
        assignments: ``dotted.name=value``, stronger than the file; values are YAML.

    Raises:
        UserError: one sentence with the file, the line, the key, what is allowed and the nearest right key.
    """
    file = _resolve(path, quick=quick, assignments=assignments)
    check_search(file)
    check_puzzles(file)
    return file


def load_dumped(path: Path) -> config.Study:
    """Return a study as :func:`dump` wrote it; that its axes may have been refused since keeps nobody from its results.

    Raises:
        UserError: the file cannot be read.
    """
    return _resolve(path, quick=False, assignments=()).study


def _resolve(path: Path, *, quick: bool, assignments: Iterable[str]) -> StudyFile:
    document, lines = _read(path)
    source = str(path)
    if "quick" in document:
        shortened = document.pop("quick")
        if not isinstance(shortened, dict):
            raise UserError(f"`quick` must be a section of settings ({source}, line {lines[('quick',)]})")
        _check_unknown(shortened, source, lines, prefix=("quick",))
        if quick:
            document = layers.merge(document, shortened)
            lines |= {place[1:]: line for place, line in lines.items() if place[:1] == ("quick",) and len(place) > 1}
    elif quick:
        raise UserError(f"{source} has no `quick:` section; leave --quick out or write one")
    document.setdefault("name", path.stem)
    given = []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", name):
            raise UserError(
                f"--set wants name=value with a dotted name, such as train.epochs=2; got {cut(repr(assignment))}"
            )
        place = tuple(name.split("."))
        document = layers.merge(document, layers.nested(name, _assigned(text, place, assignment)))
        given.append(place)
    _check_unknown(document, source, lines, given=given)
    document = with_absolute_paths(document)
    layered = resolved_layers(document)
    if isinstance(search := layered.get("search"), dict) and isinstance(space := search.get("space"), dict):
        layered["search"] = search | {"space": _space_as_read(space)}
    try:
        study = config.Study.model_validate(layered)
    except ValidationError as error:
        raise UserError(_sentence(error, layered, source, lines, given)) from error
    return StudyFile(source, study, document, lines, given)


def dump(study: config.Study) -> str:
    """Return a resolved study as YAML that :func:`load` reads back to the same study."""
    content = study.model_dump(mode="json", by_alias=True)
    if study.search is not None:
        content["search"] = study.search.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.dump(content, Dumper=StudyDumper, sort_keys=False, allow_unicode=True)


def _read(path: Path) -> tuple[layers.Layer, dict[Place, int]]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        near = (
            suggestion(path.name, (other.name for other in path.parent.glob("*.yaml"))) if path.parent.is_dir() else ""
        )
        raise UserError(f"study file {path} does not exist{near}") from error
    except OSError as error:
        raise UserError(f"study file {path} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise UserError(f"study file {path} is larger than 1 MiB; that is no study file")
    try:
        text = raw.decode("utf-8")
        _check_depth(text, str(path))
        root = yaml.compose(text, Loader=StudyLoader)
        lines = {(): 1} | dict(_lines(root, (), lambda line: f"{path}, line {line}")) if root is not None else {}
        document = yaml.load(text, Loader=StudyLoader)  # StudyLoader derives from SafeLoader
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
        raise UserError(f"{path} must hold settings such as `data:` and `train:`, got {_kind(document)}")
    return document, lines


def _check_depth(text: str, source: str) -> None:
    """Refuse deep nesting by the parser's events, one at a time: composing it takes time and stack without bound."""
    depth = 0
    for event in yaml.parse(text, Loader=StudyLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise UserError(f"{source} is nested too deeply to be a study file")


def _lines(node: yaml.Node, place: Place, where: Callable[[int], str]) -> Iterable[tuple[Place, int]]:
    """Yield the line of every key and item; a key given twice is an error, and so is an alias that nests itself."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in seen:
                raise UserError(f"`{_dotted((*place, name))}` is given twice ({where(line)})")
            seen.add(name)
            if value.start_mark.index < key.start_mark.index:
                raise UserError(f"`{_dotted((*place, name))}` is a YAML alias; write the value out ({where(line)})")
            yield (*place, name), line
            yield from _lines(value, (*place, name), where)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            line = item.start_mark.line + 1
            if item.start_mark.index <= node.start_mark.index:
                raise UserError(f"`{_dotted(place)}` holds a YAML alias; write the value out ({where(line)})")
            yield (*place, index), line
            yield from _lines(item, (*place, index), where)


def _assigned(text: str, place: Place, assignment: str) -> Any:
    """Return the value of an assignment, which may hold no more than a file."""
    try:
        _check_depth(text, f"--set {_dotted(place)}")
        if (root := yaml.compose(text, Loader=StudyLoader)) is not None:
            list(_lines(root, place, lambda line: f"--set {_dotted(place)}"))  # for what it refuses
        return yaml.load(text, Loader=StudyLoader)  # StudyLoader derives from SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"--set {cut(assignment)}: the value is not valid YAML") from error


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the section class inside an annotation such as ``Search | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _model(part)) is not None:
            return found
    return None


def _keys(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """Return the YAML keys of a section, each with its own section class where it has one."""
    return {
        (entry.alias or name): (None if name == "space" else _model(entry.annotation))
        for name, entry in model.model_fields.items()
    }


def setting_names(model: type[BaseModel] = config.Study, prefix: str = "") -> list[str]:
    """Return the dotted names of all settings."""
    names = []
    for key, section in _keys(model).items():
        names += setting_names(section, f"{prefix}{key}.") if section else [f"{prefix}{key}"]
    return names


def _space_as_read(space: layers.Layer) -> layers.Layer:
    """Return the axes with values as their settings read them, 8/255 as a number; what does not fit stays as it is."""
    read = {}
    for name, axis in space.items():
        if isinstance(axis, dict):
            listed = [kind for kind in config.AXIS_KINDS if kind != "int_uniform" and kind in axis]
            axis = axis | {kind: _as_read(name, axis[kind]) for kind in listed}
            if isinstance(when := axis.get("when"), dict):
                axis["when"] = {other: _as_read(other, values) for other, values in when.items()}
        read[name] = axis
    return read


def _as_read(name: str, values: Any) -> Any:
    adapter = _reader(name)
    if adapter is None or not isinstance(values, list):
        return values
    read = []
    for value in values:
        try:
            found = adapter.validate_python(value)
        except ValidationError:
            found = value
        read.append(found if isinstance(found, (bool, int, float, str)) else value)
    return read


@cache
def _reader(name: str) -> TypeAdapter[Any] | None:
    """Return what reads the values of a setting, None where there is no such setting."""
    model: type[BaseModel] | None = config.Settings
    *sections, last = str(name).split(".")
    for section in sections:
        model = _keys(model).get(section) if model is not None else None
    if model is None:
        return None
    for key, entry in model.model_fields.items():
        if (entry.alias or key) == last and _model(entry.annotation) is None:
            # Not the field itself, whose alias means something in its section only.
            read: Any = Annotated[(entry.annotation, *entry.metadata, "")]
            return TypeAdapter(read, config=model.model_config)
    return None


def _check_unknown(
    document: layers.Layer,
    source: str,
    lines: Mapping[Place, int],
    *,
    prefix: Place = (),
    given: Iterable[Place] = (),
) -> None:
    """Refuse unknown keys with the nearest right one, wherever in the tree it lives."""

    def walk(layer: layers.Layer, model: type[BaseModel], place: Place) -> None:
        keys = _keys(model)
        for key, value in layer.items():
            here = (*place, key)
            if key not in keys:
                near = nearest_setting(_dotted(here), [_dotted((*place, other)) for other in keys], setting_names())
                near = near or f"; allowed here: {', '.join(keys)}"
                where = _where(here, source, lines, prefix, given)
                raise UserError(f"`{_dotted(here)}` is not a setting{near} ({where})")
            section = keys[key]
            if section is not None and isinstance(value, dict):
                walk(value, section, here)

    walk(document, config.Study, ())


def _sentence(
    error: ValidationError, document: layers.Layer, source: str, lines: Mapping[Place, int], given: Iterable[Place]
) -> str:
    """Return one sentence for the first problem that pydantic found."""
    first = error.errors()[0]
    place = _place(first["loc"], document, missing=first["type"] == "missing")
    if first["type"] == "missing":
        annotation = _annotation(place)
        return f"`{_dotted(place)}` is missing{annotation} ({_where(place[:-1], source, lines, (), given)})"
    if first["type"] == "extra_forbidden":  # only axes are not walked by _check_unknown
        near = suggestion(str(first["loc"][-1]), config.Axis.model_fields)
        near = near or f"; allowed here: {', '.join(config.Axis.model_fields)}"
        return f"`{_dotted(place)}` is not a setting{near} ({_where(place, source, lines, (), given)})"
    allowed = ""
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        allowed = suggestion(first["input"], re.findall(r"'([^']+)'", str(first["ctx"]["expected"])))
    return f"`{_dotted(place)}` {_reason(first)}{allowed} ({_where(place, source, lines, (), given)})"


def _annotation(place: Place) -> str:
    if place in (("data",), ("data", "name")):
        return f"; it is one of {', '.join(config.DatasetName.__args__)}"  # type: ignore[attr-defined]
    return ""


def _reason(first: Any) -> str:
    """Return what is wrong and what was given, in the words of the study file."""
    message = re.sub(r"^(Input should be|Value error,)\s*", "", first["msg"])
    message = message.replace("a valid tuple", "a list").replace("a valid dictionary", "a section")
    message = re.sub(r"^(Tuple|Dictionary|String) should", "should", message).replace(" after validation", "")
    if first["type"] == "value_error":
        return f"is not right: {message}"
    if first["type"] in ("tuple_type", "list_type"):
        message = "a list"
    if re.search(r"valid dictionary or instance of", first["msg"]):
        message = "a section of settings"
    value = first["input"]
    shown = _kind(value) if isinstance(value, (dict, list)) else cut(repr(value))
    verb = "" if message.startswith(("should", "must")) else "must be "
    return f"{verb}{message}, got {shown}"


def _place(loc: tuple[str | int, ...], document: Any, *, missing: bool) -> Place:
    """Return the part of a pydantic location that exists in the document (it adds names of union members)."""
    place: list[str | int] = []
    here = document
    for part in loc:
        inside = isinstance(here, dict) and part in here
        if isinstance(here, (list, tuple)) and isinstance(part, int):
            inside = part < len(here)
        if inside:
            here = here[part]
        elif not (missing and part == loc[-1]):
            continue
        place.append(part)
    return tuple(place)


def _where(place: Place, source: str, lines: Mapping[Place, int], prefix: Place, given: Iterable[Place]) -> str:
    """Return the file and line of a place, or the command line that set it."""
    for assigned in given:
        if assigned == place[: len(assigned)]:
            return f"--set {_dotted(assigned)}"
    here = (*prefix, *place)
    while here and here not in lines:
        here = here[:-1]
    return f"{source}, line {lines[here]}" if here in lines else source


def _dotted(place: Place) -> str:
    return cut(".".join(f"[{part}]" if isinstance(part, int) else str(part) for part in place).replace(".[", "["))


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "a section", list: "a list", str: "text", bool: "a boolean"}.get(type(value), "a number")
