"""``python -m puzzle_study.config.docs``: writes the pages that follow from the settings' own classes.

``docs/settings.md`` names every setting of a study file with its meaning, unit, range and default;
``docs/study.schema.json`` is the same as a JSON Schema, by which editors complete and check study files. A test
holds both against :mod:`puzzle_study.config` and :mod:`puzzle_study.config.layers`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from puzzle_study import config
from puzzle_study.cli import command
from puzzle_study.config import check, layers
from puzzle_study.results import write_text

SETTINGS_FILE, SCHEMA_FILE = "settings.md", "study.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
QUOTIENT = {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*/\s*[1-9]\d*\s*$"}
AXIS_PREFIX = "search.space.<setting>."

UNITS: dict[str, str] = {
    "seeds": "seed",
    "max_concurrent": "trials",
    "data.size": "pixels",
    "data.validation_fraction": "share",
    "data.validation_count": "images",
    "data.train_fraction": "share",
    "data.max_train_images": "images",
    "data.max_test_images": "images",
    "data.augment_to": "images",
    "data.repeats": "draws",
    "data.split_seed": "seed",
    "puzzle.grid": "pieces a side",
    "puzzle.count": "permutations",
    "puzzle.seed": "seed",
    "model.base_channels": "channels",
    "model.discriminator_channels": "channels",
    "train.epochs": "epochs",
    "train.batch_size": "images",
    "train.learning_rate": "–",
    "train.discriminator_learning_rate": "–",
    "train.weight_decay": "–",
    "train.warm_up": "share",
    "train.averaging": "a step",
    "train.plateau_factor": "–",
    "train.plateau_patience": "epochs",
    "train.lambda": "–",
    "train.convergence_epochs": "epochs",
    "train.adversary.epsilon": "pixel value",
    "train.adversary.alpha": "pixel value",
    "train.adversary.steps": "steps",
    "score.permutations": "permutations",
    "evaluate.every": "epochs",
    "evaluate.max_images": "images",
    "evaluate.robust.epsilon": "pixel value",
    "evaluate.robust.steps": "steps",
    "evaluate.robust.max_images": "images",
    "search.racing.p": "–",
    "search.racing.start": "trials",
    "search.stopping.grace_epochs": "epochs",
    "search.stopping.reduction": "trials",
    "search.configurations": "configurations",
    "search.lookahead": "configurations",
    "search.startup": "configurations",
    "search.seed": "seed",
    "attacks.top": "configurations",
    "attacks.epsilons": "pixel value",
    "attacks.steps": "steps",
    "attacks.step_size": "share of ε",
    "attacks.restarts": "runs",
    "attacks.queries": "scores",
    "attacks.max_images": "images",
    "attacks.seed": "seed",
    "resources.cpu": "cores",
    "resources.gpu": "GPUs",
}
"""What the numbers of a setting count; – where they have no unit."""


@command()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("docs"),
    show_default=True,
    help="Where the two files go.",
)
def main(folder: Path) -> None:
    """Write settings.md and study.schema.json from the settings' own classes."""
    for name, text in pages().items():
        write_text(folder / name, text)
        click.echo(str(folder / name))


def pages() -> dict[str, str]:
    """Return the generated files by name."""
    return {SETTINGS_FILE: settings_page(), SCHEMA_FILE: json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"}


@dataclass(frozen=True)
class Key:
    """One key of a section: its dotted name, what it means, its default, its own section class where it has one."""

    name: str
    meaning: str
    default: Any
    required: bool
    section: type[BaseModel] | None

    @property
    def last(self) -> str:
        """The key as it stands in its section."""
        return self.name.rsplit(".", 1)[-1]


def keys(model: type[BaseModel], prefix: str = "") -> list[Key]:
    """Return the keys of a section in the order of its class."""
    found = []
    for name, entry in model.model_fields.items():
        parts = () if get_origin(entry.annotation) is dict else (entry.annotation, *get_args(entry.annotation))
        section = next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)
        dotted = f"{prefix}{entry.alias or name}"
        found.append(Key(dotted, entry.description or "", entry.default, entry.is_required(), section))
    return found


def sections(
    model: type[BaseModel] = config.Study, prefix: str = "", about: str = ""
) -> Iterator[tuple[str, type[BaseModel], str]]:
    """Yield every section, the study first: the prefix of its settings' names, its class, what it is."""
    yield prefix, model, about or (model.__doc__ or "")
    for key in keys(model, prefix):
        if key.section is not None:
            optional = f" Optional: {key.meaning[0].lower()}{key.meaning[1:]}" if key.default is None else ""
            yield from sections(key.section, f"{key.name}.", f"{key.section.__doc__}{optional}")
    if model is config.Search:
        yield AXIS_PREFIX, config.Axis, config.Axis.__doc__ or ""


def depending() -> set[str]:
    """Return the settings whose default depends on the data set or the preset."""
    layers = [*layers.DATASETS.values(), *layers.PRESETS.values()]
    layers += [layer for by_dataset in layers.PRESETS_BY_DATASET.values() for layer in by_dataset.values()]
    return {name for layer in layers for name in layers.leaves(layer)}


# The schema


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with quotients such as 8/255 where numbers may be written so."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """Return what a number is before it is read."""
        return {"anyOf": [super().function_before_schema(schema), QUOTIENT]}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a study file, its ``quick`` section included."""
    study = config.Study.model_json_schema(by_alias=True, schema_generator=_Generator)
    parts: dict[str, Any] = study.pop("$defs") | {"Study": study}
    study["required"].remove("name")  # left out, it is the file's
    parts["Search"]["properties"]["space"]["propertyNames"] = {"enum": check.searchable()}
    parts["Axis"]["properties"]["when"]["anyOf"][0]["propertyNames"] = {"enum": check.conditions()}
    several = depending()
    for prefix, model, _ in sections():
        parts[model.__name__].pop("title")
        for key in keys(model, prefix):
            entry = parts[model.__name__]["properties"][key.last]
            entry.pop("title", None)
            if key.section is not None:
                entry.pop("default", None)
            elif key.name in several:
                entry.pop("default", None)
                entry["description"] += f" The default depends on data set and preset, see {SETTINGS_FILE}."
    for kind in ("uniform", "log_uniform"):  # read as the setting is that the axis varies
        ends = parts["Axis"]["properties"][kind]["anyOf"][0]
        ends["items"] = {"anyOf": [ends["items"], QUOTIENT]}
    quick = {f"Quick{name}": _partial(part) for name, part in parts.items()}
    parts["Axis"]["oneOf"] = [
        {"required": [kind], "properties": {kind: {"type": "array"}}} for kind in config.AXIS_KINDS
    ]
    del parts["Study"]
    study["properties"]["quick"] = {
        "$ref": "#/$defs/QuickStudy",
        "description": "What `--quick` changes: any settings of the file, so that it is done in minutes.",
    }
    return {"$schema": DIALECT, "title": "A study file of puzzle_study", **study, "$defs": parts | quick}


def _partial(part: dict[str, Any]) -> dict[str, Any]:
    """Return a section's schema in which nothing is required, as it stands under ``quick``."""
    shortened: dict[str, Any] = json.loads(json.dumps(part).replace("#/$defs/", "#/$defs/Quick"))
    shortened.pop("required", None)
    for entry in shortened["properties"].values():
        entry.pop("default", None)
    return shortened


# The page

INTRODUCTION = """\
<!-- Written by `python -m puzzle_study.config.docs` from puzzle_study/config.py and layers.py; do not edit. -->
# Settings

Every setting of a study file, by its dotted name: `train.adversary.epsilon` is `epsilon` in the section `adversary` of
the section `train`, and `--set train.adversary.epsilon=8/255` on the command line. A key that is not here is refused,
with the nearest right one. Numbers and booleans are those of YAML 1.2: `1e-3` is a number, `no` is a word. Editors read
the same from [study.schema.json](study.schema.json).

What wins, weakest first: the defaults of these tables, what the data set changes, what the preset changes, the study
file, its section `quick` (with `--quick`), `--set`, the values that a search tries, the settings that a variant is made
of. `python -m puzzle_study.tune STUDY.yaml --dry-run --verbose` prints the result and starts nothing.

Pixel values are in [0, 1]; ε and α refer to that scale. Data sets or presets change the defaults that are marked ◦: see
[by data set](#defaults-by-data-set), [authors_code](#preset-authors_code) and [fast](#preset-fast).
"""
DATASETS_TEXT = """\
Under `preset: paper`; the line `preset` is what a study file has that names none; bold: not the default of the tables
above. Your own images (`folder`) start from `fast`, minutes of training on a laptop; `preset: paper` takes days on a
CPU. No preset multiplies them: `data.augment_to` does, if you set it. The paper names batch sizes, the zoom
augmentation, and max for toy sets, avg for real-world ones. What it leaves open is the authors' configuration (every ε,
the epochs of MNIST, Fashion-MNIST, CIFAR-10 and MVTec AD, and λ and α above) or ours (the other epochs, the aggregation
of COIL-100, and all of digits and folder).
"""
PRESET_TEXTS = {
    "authors_code": "The choices of the authors' published code where they contradict the paper.\n",
    "fast": "An initialisation and a schedule that need far fewer epochs; neither the paper's nor the authors'.\n",
}
VARIANT_TEXT = "What a variant is made of. A study file that sets one of these to something else is refused.\n"


def settings_page() -> str:
    """Return settings.md."""
    whole = schema()
    parts = whole["$defs"] | {"Study": whole}
    several = depending()
    blocks = [INTRODUCTION]
    for prefix, model, about in sections():
        rows = [
            (
                f"`{key.name}`",
                key.meaning,
                UNITS.get(key.name, ""),
                allowed(parts[model.__name__]["properties"][key.last]),
                _default(key) + (" ◦" if key.name in several else ""),
            )
            for key in keys(model, prefix)
            if key.section is None
        ]
        title = f"`{prefix[:-1]}`" if prefix else "The study"
        blocks.append(f"## {title}\n\n{about}\n\n" + _table(("Setting", "Meaning", "Unit", "Allowed", "Default"), rows))
    blocks.append(_by_dataset())
    blocks += [_by_preset(preset, text) for preset, text in PRESET_TEXTS.items()]
    variants = [(f"`{name}`", _assignments(layer) or "the defaults") for name, layer in layers.VARIANTS.items()]
    blocks.append(f"## Variants\n\n{VARIANT_TEXT}\n" + _table(("`variant`", "Settings"), variants))
    return "\n".join(blocks)


def allowed(entry: dict[str, Any]) -> str:
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
        return "axes by setting" if "$ref" in entry["additionalProperties"] else "lists of values by setting"
    if kind == "string":
        return f"text like `{entry['pattern']}`" if "pattern" in entry and entry != QUOTIENT else _text(entry)
    if kind in ("integer", "number"):
        return f"{'whole number' if kind == 'integer' else 'number'} {_range(entry)}".strip()
    return {"boolean": "`true`, `false`", "null": "null"}[kind]


def _text(entry: dict[str, Any]) -> str:
    return "ratio such as `8/255`" if entry == QUOTIENT else "text"


def _range(entry: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ", ".join(f"{sign} {entry[name]:.10g}" for name, sign in signs.items() if name in entry)


def _by_dataset() -> str:
    names = get_args(config.DatasetName)
    settings = dict.fromkeys(leaf for name in names for leaf in layers.leaves(layers.DATASETS[name]))
    rows = []
    for setting in settings:
        plain = _value(_plain_default(setting))
        values = [_value(default_of(setting, name)) for name in names]
        rows.append((f"`{setting}`", *(value if value == plain else f"**{value}**" for value in values)))
    return f"## Defaults by data set\n\n{DATASETS_TEXT}\n" + _table(("Setting", *names), rows)


def _by_preset(preset: str, text: str) -> str:
    names, by_dataset = get_args(config.DatasetName), layers.PRESETS_BY_DATASET[preset]
    rows = []
    for name, value in layers.leaves(layers.PRESETS[preset]).items():
        papers = {_value(default_of(name, dataset)) for dataset in names}
        others = [dataset for dataset, layer in by_dataset.items() if name in layers.leaves(layer)]
        sets = f"all but {', '.join(others)}" if others else "all"
        rows.append((f"`{name}`", sets, _value(value), papers.pop() if len(papers) == 1 else "by data set"))
    by_values: dict[tuple[str, str, str], list[str]] = {}
    for dataset, layer in by_dataset.items():
        for name, value in layers.leaves(layer).items():
            by_values.setdefault((name, _value(value), _value(default_of(name, dataset))), []).append(dataset)
    rows += [(f"`{name}`", ", ".join(sets), value, paper) for (name, value, paper), sets in sorted(by_values.items())]
    return f"## `preset: {preset}`\n\n{text}\n" + _table(("Setting", "Data sets", f"`{preset}`", "`paper`"), rows)


def default_of(setting: str, dataset: str) -> Any:
    """Return a setting's default for a data set under ``preset: paper``."""
    return layers.leaves(layers.DATASETS[dataset]).get(setting, _plain_default(setting))


def _plain_default(setting: str) -> Any:
    return next(key.default for prefix, model, _ in sections() for key in keys(model, prefix) if key.name == setting)


def _default(key: Key) -> str:
    if key.name == "name":
        return "the file's name"
    return "required" if key.required else _value(key.default)


def _assignments(layer: layers.Layer) -> str:
    return ", ".join(f"`{name}` {_value(value)}" for name, value in layers.leaves(layer).items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else str(value)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n" for cells in lines)


if __name__ == "__main__":
    main()
