"""Reading a study file: layers of defaults, both forms, and errors that name the line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from puzzle_study import config
from puzzle_study.config import forms, layers, text
from puzzle_study.config.axes import with_detector_axis
from puzzle_study.config.check import check_corruptions, check_rules, check_search
from puzzle_study.config.forms import Form, Tree
from puzzle_study.config.paths import with_absolute_paths
from puzzle_study.config.text import Origin, Place, dotted
from puzzle_study.config.types import Layer
from puzzle_study.datasets.catalogue import DATASETS
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError, cut, nearest_setting, suggestion

IN_PYTHON = "the study given in Python"


@dataclass(frozen=True)
class StudyFile:
    """A study file as read, from which the study and its configurations are resolved.

    Attributes:
        study: the study with every default filled in.
        form: one detector or several.
    """

    study: config.Study
    form: Form
    _document: Layer = field(repr=False)
    _origin: Origin = field(repr=False)

    def configuration(self, values: Mapping[str, config.Scalar], *, axis: str = "") -> config.Settings:
        """Return the configuration with these values, by dotted name, and otherwise the study's.

        Args:
            values: of axes, or of settings in a condition.
            axis: the axis with that condition, for errors.

        Raises:
            UserError: a value is not allowed; names the axis in the study file.
        """
        detector = str(values.get(forms.ONE, self.form.names[0]))
        document = self._document
        for name, value in values.items():
            if name != forms.ONE and self.form.detector_of(name) in (None, detector):
                place = f"{forms.SEVERAL}.{name}" if self.form.detector_of(name) and self.form.several else name
                document = layers.merge(document, layers.nested(place, value))
        chosen = f"{self.form.prefix(detector)}variant" in values
        try:
            shared, own = _resolved(document, self.form, detector, chosen=chosen)
            return config.Settings(
                detector=detector,
                data=config.Data.model_validate(shared.get("data")),
                evaluate=config.Evaluate.model_validate(shared.get("evaluate", {})),
                own=self.form.settings_class(detector).model_validate(own),
            )
        except ValidationError as error:
            first = error.errors()[0]
            loc = ".".join(str(part) for part in first["loc"])
            name = next((name for name in values if loc and name.endswith(loc)), next(iter(values), ""))
            raise UserError(
                f"search axis `{axis or name}` has a value that is not allowed: `{name}` {_reason(first)} "
                f"({self.where(axis or name)})"
            ) from error
        except UserError as error:  # the study's variant, against the first and only axis
            raise UserError(f"{error} ({self.where(next(iter(values), ''))})") from error

    def where(self, axis: str) -> str:
        """Return the file and line of a search axis."""
        return self._origin.of(("search", "space", axis))

    def where_set(self, settings: Iterable[str]) -> str:
        """Return the file and line, or the assignment, of the first of these settings that the user set."""
        places: list[Place] = [tuple(name.split(".")) for name in settings]
        if self.form.several:
            places = [(forms.SEVERAL, *place) if self.form.detector_of(str(place[0])) else place for place in places]
        return self._origin.of(next(filter(self._origin.has, places), places[0]))


def load(source: Path | Mapping[str, Any], *, quick: bool = False, assignments: Iterable[str] = ()) -> StudyFile:
    """Read a study file.

    Args:
        source: a YAML file, or what one would hold.
        quick: apply the file's own ``quick:`` section.
        assignments: ``dotted.name=value``, stronger than the file; values are YAML.

    Raises:
        UserError: with the file, the line, the key, the allowed values and the nearest valid key.
    """
    file = _read_file(source, quick=quick, assignments=assignments)
    check_search(file)
    check_rules(file)
    check_corruptions(file)
    return file


def load_dumped(path: Path) -> config.Study:
    """Return a study written by :func:`dump`, even if its axes would now be refused, so old results stay readable."""
    return _read_file(path, quick=False, assignments=()).study


def dump(study: config.Study) -> str:
    """Return a resolved study as YAML that :func:`load` reads back to the same study."""
    content = study.model_dump(mode="json", by_alias=True)
    if study.search is not None:
        content["search"] = study.search.model_dump(mode="json", by_alias=True, exclude_none=True)
    if not Form.of_study(study).several:
        own = content.pop(forms.SEVERAL)[study.first]
        content = {"name": content.pop("name"), forms.ONE: study.first, "data": content.pop("data"), **own, **content}
    return yaml.dump(content, Dumper=text.StudyDumper, sort_keys=False, allow_unicode=True)


def _read_file(source: Path | Mapping[str, Any], *, quick: bool, assignments: Iterable[str]) -> StudyFile:
    lines: Mapping[Place, int]
    if isinstance(source, Path):
        name = str(source)
        document, lines = text.read(source)
        document.setdefault("name", source.stem)
    else:
        name, document, lines = IN_PYTHON, text.plain(source), {}
    origin = Origin(name, lines)
    if "quick" in document:
        shortened = document.pop("quick")
        if not isinstance(shortened, dict):
            raise UserError(f"`quick` must be a section of settings ({origin.of(('quick',))})")
        below = {place[1:]: line for place, line in lines.items() if place[0:1] == ("quick",)}
        both = layers.merge(document, shortened)
        of_both = Origin(name, {**lines, **below, **({(): 1} if lines else {})})
        _check_unknown(shortened, _form(both, of_both), Origin(name, below))
        if quick:
            document, origin = both, of_both
    elif quick:
        raise UserError(f"{name} has no `quick:` section; add one or remove --quick")
    for assignment in assignments:
        setting, equals, value = assignment.partition("=")
        if not equals or not re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)*", setting):
            raise UserError(
                f"--set needs name=value with a dotted name, such as train.epochs=2; got {cut(repr(assignment))}"
            )
        place = tuple(setting.split("."))
        document = layers.merge(document, layers.nested(setting, text.assigned(value, place, assignment)))
        origin = Origin(origin.file, origin.lines, (*origin.assigned, place))
    form = _form(document, origin)
    _check_unknown(document, form, origin)
    document = with_absolute_paths(document, form)
    return StudyFile(_validated(document, form, origin), form, document, origin)


def _form(document: Layer, origin: Origin) -> Form:
    """Return a document's form; refuse unknown detectors."""
    try:
        form = Form.of(document)
    except UserError as error:
        key = forms.SEVERAL if forms.SEVERAL in document else forms.ONE
        raise UserError(f"{error} ({origin.of((key,))})") from error
    for name in form.names:
        if name not in DETECTORS:
            place = (forms.SEVERAL, name) if form.several else (forms.ONE,)
            raise UserError(
                f"there is no detector {name!r}{suggestion(name, DETECTORS)}; there are {', '.join(DETECTORS)} "
                f"({origin.of(place)})"
            )
    return form


def _resolved(document: Layer, form: Form, detector: str, *, chosen: bool = False) -> tuple[Layer, Any]:
    """Return the shared settings and a detector's own, each merged over its defaults."""
    own, shared = form.own(document, detector), form.shared(document)
    if not isinstance(own, dict):
        return shared, own
    data = document.get("data")
    dataset = data.get("name") if isinstance(data, dict) else None
    settings = form.settings_class(detector)
    merged = layers.resolved(settings, own, str(dataset), variant_is_chosen=chosen)
    common = {name: merged.pop(name) for name in list(merged) if name not in forms.section_keys(settings)}
    # The images of one detector's paper must not change the other detectors' images.
    return (shared if form.several else layers.merge(common, shared)), merged


def _validated(document: Layer, form: Form, origin: Origin) -> config.Study:
    """Return a document's study."""
    detectors: dict[str, config.DetectorSettings] = {}
    shared: Layer = {}
    try:
        for name in form.names:
            shared, own = _resolved(document, form, name)
            detectors[name] = form.settings_class(name).model_validate(own)
    except ValidationError as error:
        raise UserError(_sentence(error, own, form.place(name), origin)) from error
    except UserError as error:
        raise UserError(f"{error} ({origin.of((*form.place(name), 'variant'))})") from error
    search = shared.get("search")
    if isinstance(search, dict) and isinstance(space := search.get("space"), dict):
        space = {name: _axis_as_read(form, name, axis) for name, axis in space.items()}
        shared["search"] = search | {"space": with_detector_axis(space, form) if form.several else space}
    try:
        return config.Study.model_validate({**shared, forms.SEVERAL: detectors})
    except ValidationError as error:
        raise UserError(_sentence(error, shared, (), origin)) from error


def _axis_as_read(form: Form, name: str, axis: Any) -> Any:
    """Return an axis with values as their setting reads them, 8/255 as a number; invalid values are unchanged."""
    if not isinstance(axis, dict):
        return axis
    listed = [kind for kind in config.AXIS_KINDS if kind != "int_uniform" and kind in axis]
    axis = axis | {kind: _as_read(form, name, axis[kind]) for kind in listed}
    if isinstance(when := axis.get("when"), dict):
        axis["when"] = {other: _as_read(form, other, values) for other, values in when.items()}
    return axis


def _as_read(form: Form, name: str, values: Any) -> Any:
    found = form.resolve(str(name))
    adapter = _reader(*found) if found else None
    if adapter is None or not isinstance(values, list):
        return values
    read = []
    for value in values:
        try:
            fitting = adapter.validate_python(value)
        except ValidationError:
            fitting = value
        read.append(fitting if isinstance(fitting, (bool, int, float, str)) else value)
    return read


@cache
def _reader(model: type[BaseModel], name: str) -> TypeAdapter[Any] | None:
    """Return what reads a setting's values, or None for an unknown setting."""
    head, _, rest = name.partition(".")
    keys = forms.section_keys(model)
    if rest or keys.get(head) is not None:
        section = keys.get(head)
        return _reader(section, rest) if section is not None and rest else None
    for key, entry in model.model_fields.items():
        if (entry.alias or key) == head:
            # Not the field itself: its alias is valid only in its section.
            read: Any = Annotated[(entry.annotation, *entry.metadata, "")]
            return TypeAdapter(read, config=model.model_config)
    return None


def _check_unknown(document: Layer, form: Form, origin: Origin) -> None:
    """Refuse unknown keys, and suggest the nearest valid one anywhere in the tree."""
    tree = form.tree()

    def walk(layer: Layer, keys: Tree, place: Place) -> None:
        for key, value in layer.items():
            here = (*place, key)
            if key not in keys:
                raise UserError(
                    f"`{dotted(here)}` is not a setting{_nearest(here, keys, tree, form)} ({origin.of(here)})"
                )
            if (below := keys[key]) is not None and isinstance(value, dict):
                walk(value, below, here)

    walk(document, tree, ())


def _nearest(here: Place, keys: Tree, tree: Tree, form: Form) -> str:
    """Return a suggestion, or the allowed keys."""
    key, place = str(here[-1]), here[:-1]
    owners = () if place else form.names if form.several else (DETECTORS.default,)
    for name in owners:
        if key in forms.section_keys(form.settings_class(name)):
            if form.several:
                return f"; with `detectors` put it below one of them: detectors.{name}.{key}"
            return f" of {form.names[0]}, but of {name}; remove it or set `detector: {name}`"
    near = nearest_setting(dotted(here), [dotted((*place, other)) for other in keys], forms.leaf_names(tree))
    return near or f"; allowed here: {', '.join(keys) or 'nothing'}"


def _sentence(error: ValidationError, document: Any, above: Place, origin: Origin) -> str:
    """Return one sentence on pydantic's first problem; ``above`` is the document's own place."""
    first = error.errors()[0]
    place = (*above, *_place(first["loc"], document, missing=first["type"] == "missing"))
    if first["type"] == "missing":
        listed = f"; it is one of {', '.join(DATASETS)}" if place in (("data",), ("data", "name")) else ""
        return f"`{dotted(place)}` is missing{listed} ({origin.of(place[:-1])})"
    if first["type"] == "extra_forbidden":  # only axes are not walked by _check_unknown
        near = suggestion(str(first["loc"][-1]), config.Axis.model_fields)
        near = near or f"; allowed here: {', '.join(config.Axis.model_fields)}"
        return f"`{dotted(place)}` is not a setting{near} ({origin.of(place)})"
    allowed = ""
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        allowed = suggestion(first["input"], re.findall(r"'([^']+)'", str(first["ctx"]["expected"])))
    return f"`{dotted(place)}` {_reason(first)}{allowed} ({origin.of(place)})"


def _reason(first: Any) -> str:
    """Return what is wrong and what was given, in the study file's terms."""
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
    shown = text.kind_of(value) if isinstance(value, (dict, list)) else cut(repr(value))
    verb = "" if message.startswith(("should", "must")) else "must be "
    return f"{verb}{message}, got {shown}"


def _place(loc: tuple[str | int, ...], document: Any, *, missing: bool) -> Place:
    """Return the part of a pydantic location that exists in the document, without names of union members."""
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
