"""The generated pages: current, complete, and true to what a study file resolves to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from click.testing import CliRunner

from puzzle_study import config
from puzzle_study.config import docs, layers, read
from puzzle_study.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
STUDIES = sorted((ROOT / "studies").rglob("*.yaml"))
NUMBERS = {"integer", "number"}


def named(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("name", [docs.SETTINGS_FILE, docs.SCHEMA_FILE])
def test_the_committed_file_is_what_the_settings_say(name: str) -> None:
    committed = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert committed == docs.pages()[name], "run `python -m puzzle_study.config.docs` and commit docs/"


def test_the_command_writes_both_files_into_a_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(docs.main, ["--folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == docs.pages()


def test_every_setting_has_one_line() -> None:
    lines = [line for line in docs.settings_page().splitlines() if line.startswith("| `")]
    names = [line.split("`")[1] for line in lines]
    page = docs.settings_page()
    described = names[: names.index("resources.gpu") + 1]
    axes = [f"{docs.AXIS_PREFIX}{name}" for name in config.Axis.model_fields]
    assert sorted(described) == sorted([*read.setting_names(), *axes])
    assert "undefined" not in page.lower()


def test_every_number_has_a_unit() -> None:
    parts = docs.schema()["$defs"] | {"Study": docs.schema()}
    numbers = set()
    for prefix, model, _ in docs.sections():
        for key in docs.keys(model, prefix):
            entry = parts[model.__name__]["properties"][key.last]
            kinds = {option.get("type") for option in (entry, *entry.get("anyOf", []), entry.get("items", {}))}
            if kinds & NUMBERS and model is not config.Axis:
                numbers.add(key.name)
    numbers |= {"puzzle.grid", "attacks.epsilons"}
    assert set(docs.UNITS) == numbers, "give a number its unit in docs.UNITS"


@pytest.mark.parametrize("preset", get_args(config.Study.model_fields["preset"].annotation))
@pytest.mark.parametrize("dataset", get_args(config.DatasetName))
def test_the_tables_of_defaults_are_what_a_study_file_resolves_to(dataset: str, preset: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"data: {{name: {dataset}}}\npreset: {preset}\n", encoding="utf-8")
    resolved = layers.leaves(read.load(path).study.model_dump(by_alias=True))
    said = {"preset": preset} | layers.leaves(layers.preset(preset, dataset))
    for name in docs.depending():
        assert resolved[name] == said.get(name, docs.default_of(name, dataset)), name


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 512}, "whole number ≥ 1, ≤ 512"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "number > 0, < 1"),
        ({"anyOf": [{"type": "number"}, docs.QUOTIENT]}, "number or ratio such as `8/255`"),
        ({"enum": [2, 3], "type": "integer"}, "`2`, `3`"),
        ({"const": "all", "type": "string"}, "`all`"),
        ({"type": "array", "items": {"type": "integer", "minimum": 0}}, "list, each whole number ≥ 0"),
        ({"type": "array", "items": {"type": "number"}, "maxItems": 2}, "low and high, each number"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text or null"),
        ({"type": "boolean"}, "`true`, `false`"),
    ],
)
def test_what_is_allowed_is_said_in_words(entry: dict[str, Any], words: str) -> None:
    assert docs.allowed(entry) == words


# The schema


@pytest.fixture(scope="module")
def validator() -> Any:
    """A validator of study files by the committed schema; the package comes with Ray."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = docs.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def read(text: str) -> Any:
    return yaml.load(text, Loader=read.StudyLoader)  # StudyLoader derives from SafeLoader


@pytest.mark.parametrize("path", STUDIES, ids=named)
def test_every_study_file_is_valid_by_the_schema_and_so_is_its_resolved_form(path: Path, validator: Any) -> None:
    content = read(path.read_text(encoding="utf-8"))
    validator.validate(content)
    validator.validate(read(read.dump(read.load(path).study)))
    if "quick" in content:
        validator.validate(read(read.dump(read.load(path, quick=True).study)))


BAD = {
    "nothing": "{}",
    "no data set": "data: {size: 28}",
    "unknown key": "data: {name: mnist}\ntrain: {epoch: 3}",
    "unknown key under quick": "data: {name: mnist}\nquick: {train: {epoch: 3}}",
    "unknown section": "data: {name: mnist}\ntraining: {}",
    "unknown data set": "data: {name: mnits}",
    "wrong type": "data: {name: mnist}\ntrain: {epochs: many}",
    "wrong type under quick": "data: {name: mnist}\nquick: {train: {epochs: many}}",
    "out of range": "data: {name: mnist}\ntrain: {adversary: {epsilon: 2}}",
    "no ratio": "data: {name: mnist}\ntrain: {adversary: {epsilon: 8/0}}",
    "no grid": "data: {name: mnist}\npuzzle: {grid: 4}",
    "two kinds of axis": "data: {name: mnist}\nsearch: {space: {train.lambda: {uniform: [0, 1], grid: [0]}}}",
    "no kind of axis": "data: {name: mnist}\nsearch: {space: {train.lambda: {}}}",
    "axis of nothing": "data: {name: mnist}\nsearch: {space: {train.lamda: {uniform: [0, 1]}}}",
    "axis that trains nothing": "data: {name: mnist}\nsearch: {space: {data.root: {choice: [a, b]}}}",
    "condition on nothing": "data: {name: mnist}\n"
    "search: {space: {train.lambda: {uniform: [0, 1], when: {puzzle.grit: [2]}}}}",
    "empty space": "data: {name: mnist}\nsearch: {space: {}}",
}
GOOD = {
    "the least": "data: {name: digits}",
    "ratios": "data: {name: mnist, train_fraction: 1/12}\ntrain: {adversary: {epsilon: 8/255}}\n"
    "attacks: {epsilons: [8/255, 0.1]}\n"
    "search: {space: {train.adversary.epsilon: {uniform: [1/255, 8/255]},"
    " train.lambda: {uniform: [0, 1], when: {train.adversary.epsilon: [8/255]}}}}",
    "a quick section alone with its axis": "data: {name: mnist}\n"
    "search: {space: {train.adversary.epsilon: {grid: [0.1, 0.2], when: {train.adversary.method: [fgsm]}}}}\n"
    "quick: {search: {space: {train.adversary.epsilon: {grid: [0.1]}}}, data: {max_train_images: 10}}",
    "what is not": "data: {name: mnist, root: null}\nattacks: null\nquick: {attacks: null}",
}


@pytest.mark.parametrize("case", BAD)
def test_the_schema_refuses_what_the_reader_refuses(case: str, validator: Any, tmp_path: Path) -> None:
    assert list(validator.iter_errors(read(BAD[case])))
    path = tmp_path / "study.yaml"
    path.write_text(BAD[case], encoding="utf-8")
    with pytest.raises(UserError, match=str(path)):
        read.load(path, quick="quick" in BAD[case])


@pytest.mark.parametrize("case", GOOD)
def test_the_schema_accepts_what_the_reader_accepts(case: str, validator: Any, tmp_path: Path) -> None:
    validator.validate(read(GOOD[case]))
    path = tmp_path / "study.yaml"
    path.write_text(GOOD[case], encoding="utf-8")
    read.load(path, quick="quick" in GOOD[case])


# The written pages

PAGES = sorted((ROOT / "docs").glob("*.md"))
SECTIONS = {key.name for key in docs.keys(config.Study) if key.section is not None}


def prose(path: Path) -> str:
    """A page without its diagrams and examples."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", prose(path)):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_settings_that_are_named_exist(path: Path) -> None:
    sections = {"train.adversary", "evaluate.robust", "search.racing", "search.stopping"}
    known = {*read.setting_names(), *sections}
    for words in re.findall(r"`(?:--set )?([a-z_]+(?:\.[a-z_]+)+)[^`./]*`", prose(path)):
        if words.partition(".")[0] in SECTIONS and not words.endswith(".py"):
            assert words in known, words


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_modules_that_are_named_exist(path: Path) -> None:
    for name in re.findall(r"`([\w/]+\.py)\b", prose(path)):
        places = (ROOT, ROOT / "puzzle_study", ROOT / "puzzle_study" / "datasets", ROOT / "tests" / "attacks")
        assert any((place / name).is_file() for place in places), name


def test_every_study_of_the_paper_is_in_the_page_on_reproduction() -> None:
    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    named_there = set(re.findall(r"`((?:table|figure)\w+\.yaml)`", page))
    assert named_there == {path.name for path in STUDIES if path.parent.name == "paper"}


def test_the_page_on_reproduction_has_every_setting_of_the_authors_preset() -> None:
    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    layers = [layers.PRESETS["authors_code"], *layers.PRESETS_BY_DATASET["authors_code"].values()]
    for name in {leaf for layer in layers for leaf in layers.leaves(layer)}:
        assert f"`{name}`" in page
