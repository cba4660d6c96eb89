"""``python -m puzzle_study.config.docs``: generates pages from the settings' classes.

``docs/settings.md`` lists every setting of a study file with its meaning, unit, range and default: first those that all
detectors share, then each detector's own. ``docs/study.schema.json`` is the same as a JSON Schema, for editors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import CoreSchema, core_schema

from puzzle_study import config
from puzzle_study.cli import command
from puzzle_study.config import check, forms, layers
from puzzle_study.config.forms import Form
from puzzle_study.datasets.catalogue import DATASETS
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.io import write_text

SETTINGS_FILE, SCHEMA_FILE = "settings.md", "study.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
QUOTIENT = {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*/\s*[1-9]\d*\s*$"}
Node = dict[str, Any]
"""A part of a JSON Schema."""


@command()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("docs"),
    show_default=True,
    help="Folder for the two files.",
)
def main(folder: Path) -> None:
    """Write settings.md and study.schema.json from the settings' classes."""
    for name, text in pages().items():
        write_text(folder / name, text)
        click.echo(str(folder / name))


def pages() -> dict[str, str]:
    """Return the generated files by name."""
    return {SETTINGS_FILE: settings_page(), SCHEMA_FILE: json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"}


# The schema


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, plus quotients such as 8/255 if allowed, without titles of keys."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """Allow a quotient as well as the number."""
        return {"anyOf": [super().function_before_schema(schema), QUOTIENT]}

    def field_title_should_be_set(self, schema: CoreSchema | Any) -> bool:
        """Leave out the title, which repeats the key."""
        return False


def described() -> Node:
    """Return the JSON Schema of a study file with the classes' defaults, without its section ``quick``.

    Its properties are the settings that all detectors share. ``$defs`` has their sections and each detector's.
    """
    classes: list[type[BaseModel]] = [config.Study, *{DETECTORS[name].Settings: None for name in DETECTORS}]
    refs, found = models_json_schema([(of, "validation") for of in classes], by_alias=True, schema_generator=_Generator)
    for part in found["$defs"].values():
        del part["title"]
    study, parts = found["$defs"].pop("Study"), found["$defs"]
    study["required"] = ["data"]  # name defaults to the file's; the detector has a default
    del study["description"]
    one = {
        "enum": list(DETECTORS),
        "default": DETECTORS.default,
        "description": "The study's only detector. Its own settings are at the top of the file.",
    }
    several = {
        "type": "object",
        "minProperties": 1,
        "properties": {
            name: {
                "anyOf": [refs[DETECTORS[name].Settings, "validation"], {"type": "null"}],
                "description": f"{DETECTORS[name].title} ({DETECTORS[name].source}).",
            }
            for name in DETECTORS
        },
        "additionalProperties": False,
        "description": f"Several detectors by name, each with its own settings; not together with `{forms.ONE}`.",
    }
    common = study["properties"]
    study["properties"] = {"name": common["name"], forms.ONE: one} | common | {forms.SEVERAL: several}
    every = [*(Form((name,), several=False) for name in DETECTORS), Form(tuple(DETECTORS), several=True)]
    axis, space = parts["Axis"]["properties"], parts["Search"]["properties"]["space"]
    for keys, names in ((space, check.searchable), (axis["when"]["anyOf"][0], check.conditions)):
        keys["propertyNames"] = {"enum": list(dict.fromkeys(name for form in every for name in names(form)))}
    for kind in ("uniform", "log_uniform"):  # read like the axis's setting
        ends = axis[kind]["anyOf"][0]
        ends["items"] = {"anyOf": [ends["items"], QUOTIENT]}
    return {"$schema": DIALECT, "title": "A study file of puzzle_study", **study, "$defs": parts}


def schema() -> Node:
    """Return the JSON Schema of a study file in both forms, with its ``quick`` section."""
    whole = described()
    parts, owns = whole["$defs"], {name: own(whole, name) for name in DETECTORS}
    places = [(whole, set().union(*map(changing, DETECTORS))), *((owns[name], changing(name)) for name in DETECTORS)]
    for top, names in places:
        for prefix, node in sections(whole, top):
            for key, entry in node["properties"].items():
                if section_of(whole, entry) is not None:
                    entry.pop("default", None)
                elif f"{prefix}{key}" in names and "default" in entry:  # sections of two detectors may be the same
                    del entry["default"]
                    about = entry.get("description", "")
                    entry["description"] = f"{about} The default depends on data set and preset, see {SETTINGS_FILE}."
    at_top: dict[str, list[Node]] = {}
    for node in owns.values():
        for key, entry in node["properties"].items():
            meanings = at_top.setdefault(key, [])
            if entry not in meanings:
                meanings.append(entry)
    whole["properties"] |= {key: some[0] if len(some) == 1 else {"anyOf": some} for key, some in at_top.items()}
    whole["dependentSchemas"] = {forms.SEVERAL: {"properties": dict.fromkeys((forms.ONE, *at_top), False)}}
    study = {name: value for name, value in whole.items() if name not in ("$schema", "title", "$defs")}
    quick = {f"Quick{name}": _partial(part) for name, part in {**parts, "Study": study}.items()}
    parts["Axis"]["oneOf"] = [
        {"required": [kind], "properties": {kind: {"type": "array"}}} for kind in config.AXIS_KINDS
    ]
    about = "Settings that `--quick` changes, so that the study takes minutes."
    whole["properties"]["quick"] = {"$ref": "#/$defs/QuickStudy", "description": about}
    return whole | {"$defs": parts | quick}


def _partial(part: Node) -> Node:
    """Return a section's schema under ``quick``, in which nothing is required."""
    shortened: Node = json.loads(json.dumps(part).replace("#/$defs/", "#/$defs/Quick"))
    shortened.pop("required", None)
    for entry in shortened["properties"].values():
        entry.pop("default", None)
    return shortened


def own(whole: Node, detector: str) -> Node:
    """Return the schema of a detector's own settings."""
    return section_of(whole, whole["properties"][forms.SEVERAL]["properties"][detector]) or {}


def section_of(whole: Node, entry: Node) -> Node | None:
    """Return a key's section, or that of each key of a mapping; None for a setting."""
    options = (entry, *entry.get("anyOf", ()), entry.get("additionalProperties") or {})
    refs = [option["$ref"] for option in options if isinstance(option, dict) and "$ref" in option]
    return whole["$defs"][refs[0].rpartition("/")[2]] if refs else None


def sections(whole: Node, node: Node, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """Yield a section and those below it, with the prefixes of their settings' names."""
    yield prefix, node
    for key, entry in node["properties"].items():
        if (below := section_of(whole, entry)) is not None:
            each = "<setting>." if "additionalProperties" in entry else ""
            about = below.get("description", "")
            if entry.get("default", "") is None and (optional := entry.get("description")):
                about += f" Optional: {optional[0].lower()}{optional[1:]}"
            yield from sections(whole, below | {"description": about}, f"{prefix}{key}.{each}")


def changing(detector: str) -> set[str]:
    """Return the settings whose default a detector changes by data set or preset."""
    settings = DETECTORS[detector].Settings
    changes = [*settings.DATASETS.values(), *settings.PRESETS.values()]
    changes += [layer for by_dataset in settings.PRESETS_BY_DATASET.values() for layer in by_dataset.values()]
    return {name for layer in changes for name in layers.leaves(layer)}


# The page

INTRODUCTION = f"""\
<!-- Written by `python -m puzzle_study.config.docs` from the settings' classes; do not edit. -->
# Settings

This page lists every setting of a study file by its dotted name. `evaluate.robust.epsilon` is `epsilon` in the section
`robust` of the section `evaluate`, and `--set evaluate.robust.epsilon=8/255` on the command line. An unknown key is an
error, which suggests the nearest known one. Numbers and booleans follow YAML 1.2: `1e-3` is a number, `no` is a word.
Editors can check and complete study files with [{SCHEMA_FILE}]({SCHEMA_FILE}).

The settings that all detectors share come first. The others belong to [one detector](#detectors). With
`detector: NAME`, they are at the top of the file and have the names used here. With `detectors:`, they are below the
detector's name: `train.epochs` is `detectors.NAME.train.epochs` in the file and after `--set`, and `NAME.train.epochs`
in `search.space` and `when`.

Each of these overrides the ones before it: the default in the tables, the detector's defaults for the data set, the
preset, the study file, its section `quick` (with `--quick`), `--set`, a search's values, the settings that a variant
fixes. `python -m puzzle_study.tune STUDY.yaml --dry-run` prints the result and starts nothing.

Pixel values are in [0, 1]; ε and α refer to that scale. The mark ◦ means that the default depends on data set or
preset: see the tables at the end of each detector. Their `data` settings apply only with `detector: NAME`,
because several detectors share their images.
"""


def settings_page() -> str:
    """Return settings.md."""
    whole = described()
    blocks = [INTRODUCTION, _settings(whole, whole, set().union(*map(changing, DETECTORS)), "## ")]
    overview, parts = [], dict[str, str]()
    for name in DETECTORS:
        tables = _tables(whole, name)
        as_other = next((other for other, text in parts.items() if text == tables), None)
        if tables:
            parts[name] = f"The settings and defaults are those of `{as_other}`.\n" if as_other else tables
        link = f"[below](#{name})" if tables else "none"
        overview.append((f"`{name}`", DETECTORS[name].title, DETECTORS[name].source, link))
    blocks.append("## Detectors\n\n" + _table(("Detector", "Title", "Source", "Own settings"), overview))
    blocks += [f"## `{name}`\n\n{own(whole, name).get('description', '')}\n\n{text}" for name, text in parts.items()]
    return "\n".join(blocks)


def _tables(whole: Node, detector: str) -> str:
    """Return the tables of a detector's own settings and of their changing defaults; empty without settings."""
    node = own(whole, detector)
    settings = [_settings(whole, node | {"description": ""}, changing(detector), "### ")] if node["properties"] else []
    return "\n".join([*settings, *_by_dataset(whole, detector), *_by_preset(whole, detector), *_variants(detector)])


def _settings(whole: Node, top: Node, marked: set[str], level: str) -> str:
    blocks, titles = [], ("Setting", "Meaning", "Unit", "Allowed", "Default")
    for prefix, node in sections(whole, top):
        rows = []
        for key, entry in node["properties"].items():
            if section_of(whole, entry) is None or "additionalProperties" in entry:
                mark = " ◦" if f"{prefix}{key}" in marked else ""
                without = "required" if key in node.get("required", ()) else "the file's name" if key == "name" else ""
                default = (_value(entry["default"]) if "default" in entry else without) + mark
                about = entry.get("description", "")
                rows.append((f"`{prefix}{key}`", about, unit_of(entry), allowed(entry), default))
        title = f"{level}`{prefix[:-1]}`\n\n" if prefix else "## The study\n\n" if top is whole else ""
        about = f"{node['description']}\n\n" if node.get("description") else ""
        blocks.append(title + about + (_table(titles, rows) if rows else ""))
    return "\n".join(blocks)


def unit_of(entry: Node) -> str:
    """Return the unit of a setting's numbers; – if they have no unit, empty if it has no numbers."""
    inner = [*entry.get("anyOf", ()), *([entry["items"]] if "items" in entry else [])]
    return str(entry.get("unit") or next(filter(None, map(unit_of, inner)), ""))


def allowed(entry: Node) -> str:
    """Return in words what a JSON Schema allows."""
    if "anyOf" in entry:
        options = [allowed(option) for option in entry["anyOf"]]
        return "any value" if "`true`, `false`" in options else " or ".join(options)
    if "const" in entry or "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry.get("enum", [entry.get("const")]))
    kind = str(entry.get("type"))
    if kind == "array":
        several = "low and high, each" if entry.get("maxItems") == 2 else "list, each"
        return f"{several} {allowed(entry['items'])}"
    if kind == "object":
        if "properties" in entry:
            return "settings by detector"
        return "axes by setting" if "$ref" in entry["additionalProperties"] else "lists of values by setting"
    if kind == "string":
        if entry == QUOTIENT:
            return "ratio such as `8/255`"
        return f"text like `{entry['pattern']}`" if "pattern" in entry else "text"
    if kind in ("integer", "number"):
        signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        ends = ", ".join(f"{sign} {entry[name]:.10g}" for name, sign in signs.items() if name in entry)
        return f"{'whole number' if kind == 'integer' else 'number'} {ends}".strip()
    return {"boolean": "`true`, `false`", "null": "null"}[kind]


def _by_dataset(whole: Node, detector: str) -> list[str]:
    plain, found = defaults(whole, detector), [defaults(whole, detector, dataset) for dataset in DATASETS]
    rows = []
    for name, usual in plain.items():
        values = [_value(each[name]) if each[name] == usual else f"**{_value(each[name])}**" for each in found]
        if any(each[name] != usual for each in found):
            rows.append((f"`{name}`", *values))
    about = f"With `preset: {plain['preset']}`. " if "preset" in plain else ""
    about += "Bold values differ from the tables above.\n\n"
    return ["### Defaults by data set\n\n" + about + _table(("Setting", *DATASETS), rows)] if rows else []


def _by_preset(whole: Node, detector: str) -> list[str]:
    usual, blocks = str(defaults(whole, detector).get("preset")), []
    for preset in (name for name in DETECTORS[detector].Settings.PRESETS if name != usual):
        found = {name: [defaults(whole, detector, name, of) for of in (preset, usual)] for name in DATASETS}
        alike: dict[tuple[str, str, str], list[str]] = {}
        for name in (name for name in defaults(whole, detector) if name != "preset"):
            for dataset, (new, old) in found.items():
                if new[name] != old[name]:
                    alike.setdefault((name, _value(new[name]), _value(old[name])), []).append(dataset)
        rows = [
            (f"`{name}`", "all" if len(sets) == len(DATASETS) else ", ".join(sets), *values)
            for (name, *values), sets in alike.items()
        ]
        titles = ("Setting", "Data sets", f"`{preset}`", f"`{usual}`")
        blocks.append(f"### `preset: {preset}`\n\n" + _table(titles, rows))
    return blocks


def _variants(detector: str) -> list[str]:
    rows = []
    for name, layer in DETECTORS[detector].Settings.VARIANTS.items():
        fixed = ", ".join(f"`{setting}` {_value(value)}" for setting, value in layers.leaves(layer).items())
        rows.append((f"`{name}`", fixed or "none"))
    about = "The settings that a variant fixes. A study file that sets one of them to another value is refused.\n\n"
    return ["### Variants\n\n" + about + _table(("`variant`", "Settings"), rows)] if rows else []


def defaults(whole: Node, detector: str, dataset: str = "", preset: str = "") -> dict[str, Any]:
    """Return the defaults of a study of one detector, by dotted name."""
    plain = {
        f"{prefix}{key}": entry.get("default")
        for top in (whole, own(whole, detector))
        for prefix, node in sections(whole, top)
        for key, entry in node["properties"].items()
    }
    chosen = {"preset": preset} if preset else {}
    return plain | layers.leaves(layers.resolved(DETECTORS[detector].Settings, chosen, dataset))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else str(value)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n" for cells in lines)


if __name__ == "__main__":
    main()
