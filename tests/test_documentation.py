"""The generated pages: current, complete, and true to what a study file resolves to."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from click.testing import CliRunner
from pydantic import Field

from puzzle_study import config
from puzzle_study.attacks.specs import AttackSpec
from puzzle_study.config import docs, forms, layers, read, text
from puzzle_study.config.forms import Form
from puzzle_study.config.types import unit
from puzzle_study.criteria.gap import Gap
from puzzle_study.datasets.catalogue import DATASETS
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.inference import rows
from puzzle_study.study import tables

ROOT = Path(__file__).resolve().parents[1]
STUDIES = sorted((ROOT / "studies").rglob("*.yaml"))
TREES = [Form((name,), several=False).tree() for name in DETECTORS]
SETTINGS = {name for tree in TREES for name in forms.leaf_names(tree)}
"""Every setting by its name in a study of one detector."""


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


@pytest.fixture(scope="module")
def whole() -> Any:
    """The schema with the defaults of the classes."""
    return docs.described()


def test_every_setting_has_one_line_with_its_meaning() -> None:
    found: set[str] = set()
    for part in re.split("^## ", docs.settings_page(), flags=re.MULTILINE):
        tables = re.findall(r"^\| Setting \| Meaning \|.*\n.*\n((?:\|.*\n)*)", part, flags=re.MULTILINE)
        rows = [line.split(" | ") for table in tables for line in table.splitlines()]
        assert all(cells[1] for cells in rows)
        names = [cells[0] for cells in rows]
        # Detectors may have settings of the same name, each in its own part.
        assert len(set(names)) == len(names)
        found |= set(names)
    axes = [f"search.space.<setting>.{name}" for name in config.Axis.model_fields]
    assert found == {f"| `{name}`" for name in [*SETTINGS, forms.SEVERAL, *axes]}


def test_every_number_has_a_unit_and_nothing_else_has(whole: Any) -> None:
    for top in (whole, *(docs.own(whole, name) for name in DETECTORS)):
        for prefix, node in docs.sections(whole, top):
            for key, entry in node["properties"].items():
                if not prefix.startswith("search.space."):  # an axis has the unit of its setting
                    assert bool(docs.unit_of(entry)) == numeric(entry), f"give {prefix}{key} its unit() in its Field"


def numeric(entry: Any) -> bool:
    """Whether a setting is a number or a list of numbers, and cannot be a name instead."""
    return set() < kinds(entry) <= {"integer", "number"}


def kinds(entry: Any) -> set[str]:
    """The types of single values that a schema allows, but null, `8/255` and fixed words."""
    inner = [*entry.get("anyOf", ()), *([entry["items"]] if "items" in entry else [])]
    if inner:
        return set().union(*map(kinds, inner))
    return set() if "const" in entry or entry.get("type") == "null" or entry == docs.QUOTIENT else {entry.get("type")}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("detector", [name for name in DETECTORS if docs.changing(name)])
def test_the_tables_of_defaults_are_what_a_study_file_resolves_to(
    detector: str, dataset: str, whole: Any, tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    for preset in DETECTORS[detector].Settings.PRESETS or [""]:
        line = f"preset: {preset}\n" if preset else ""
        path.write_text(f"detector: {detector}\ndata: {{name: {dataset}}}\n{line}", encoding="utf-8")
        found = read.load(path).study.settings().model_dump(by_alias=True)
        resolved = layers.leaves({**{name: part for name, part in found.items() if name != "own"}, **found["own"]})
        said = docs.defaults(whole, detector, dataset, preset)
        for name in docs.changing(detector):
            assert resolved[name] == said[name], name


def test_settings_of_two_detectors_that_are_the_same_are_printed_once() -> None:
    untrained = docs.settings_page().partition("## `untrained`")[2].partition("\n## ")[0]
    assert "are those of `puzzle_ae`" in untrained
    assert "### " not in untrained


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


def parsed(content: str) -> Any:
    return yaml.load(content, Loader=text.StudyLoader)  # StudyLoader derives from SafeLoader


@pytest.mark.parametrize("path", STUDIES, ids=named)
def test_every_study_file_is_valid_by_the_schema_and_so_is_its_resolved_form(path: Path, validator: Any) -> None:
    content = parsed(path.read_text(encoding="utf-8"))
    validator.validate(content)
    validator.validate(parsed(read.dump(read.load(path).study)))
    if "quick" in content:
        validator.validate(parsed(read.dump(read.load(path, quick=True).study)))


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
    "unknown detector": "data: {name: mnist}\ndetector: puzzle",
    "one detector and several": "data: {name: mnist}\ndetector: pca\ndetectors: {pca: {}}",
    "no detector": "data: {name: mnist}\ndetectors: {}",
    "unknown key of one of several": "data: {name: mnist}\ndetectors: {puzzle_ae: {train: {epoch: 3}}, pca: {}}",
    "key of another detector": "data: {name: mnist}\ndetectors: {puzzle_ae: {}, pca: {train: {epochs: 3}}}",
    "key beside several": "data: {name: mnist}\ntrain: {epochs: 3}\ndetectors: {puzzle_ae: {}, pca: {}}",
    "axis of no detector": "data: {name: mnist}\ndetectors: {puzzle_ae: {}, pca: {}}\n"
    "search: {space: {pca.train.lambda: {uniform: [0, 1]}}}",
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
    "one detector by name": "data: {name: mnist}\ndetector: nearest_neighbour",
    "several detectors": "data: {name: mnist}\ndetectors: {puzzle_ae: {train: {epochs: 3}}, pca: , one_class_svm: {}}\n"
    "search: {space: {detector: {choice: [puzzle_ae, pca]}, puzzle_ae.train.lambda: {uniform: [0, 1]}}}\n"
    "quick: {detectors: {puzzle_ae: {train: {epochs: 1}}}}",
    "what is not": "data: {name: mnist, root: null}\nattacks: null\nquick: {attacks: null}",
}


class Train(config.Section):
    """Its name is also that of a section of Puzzle-AE."""

    rounds: int = Field(3, ge=1, json_schema_extra=unit("rounds"), description="How often.")


class OtherSettings(config.DetectorSettings):
    """The settings of another detector."""

    DATASETS: ClassVar[dict[str, config.Layer]] = {"mnist": {"data": {"size": 32}, "train": {"rounds": 5}}}
    train: Train = Field(Train(), description="The training.")


class Other:
    """As much of a detector as the pages ask for."""

    title, source, Settings = "the other", "nowhere", OtherSettings


def test_another_detector_adds_its_part_to_the_page_and_its_keys_to_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    monkeypatch.setitem(DETECTORS._own, "other", f"{__name__}:Other")
    part = docs.settings_page().partition("## `other`")[2]
    assert "| `train.rounds` | How often. | rounds | whole number ≥ 1 | 3 ◦ |" in part
    assert re.search(r"\| `train.rounds` \| 3 \| \*\*5\*\* \|", part)
    valid = jsonschema.Draft202012Validator(docs.schema()).is_valid
    for train, fits in ({"rounds": 2}, True), ({"rounds": 0}, False):
        assert valid({"data": {"name": "mnist"}, "detector": "other", "train": train}) is fits
        assert valid({"data": {"name": "mnist"}, "detectors": {"other": {"train": train}, "pca": {}}}) is fits
    assert valid({"data": {"name": "mnist"}, "train": {"epochs": 2}})
    assert not valid({"data": {"name": "mnist"}, "detectors": {"other": {"train": {"epochs": 2}}}})


@pytest.mark.parametrize("case", BAD)
def test_the_schema_refuses_what_the_reader_refuses(case: str, validator: Any, tmp_path: Path) -> None:
    assert list(validator.iter_errors(parsed(BAD[case])))
    path = tmp_path / "study.yaml"
    path.write_text(BAD[case], encoding="utf-8")
    with pytest.raises(UserError, match=str(path)):
        read.load(path, quick="quick" in BAD[case])


@pytest.mark.parametrize("case", GOOD)
def test_the_schema_accepts_what_the_reader_accepts(case: str, validator: Any, tmp_path: Path) -> None:
    validator.validate(parsed(GOOD[case]))
    path = tmp_path / "study.yaml"
    path.write_text(GOOD[case], encoding="utf-8")
    study = read.load(path, quick="quick" in GOOD[case]).study
    validator.validate(parsed(read.dump(study)))


# The written pages

PAGES = sorted((ROOT / "docs").glob("*.md"))
SECTIONS = {name for tree in TREES for name, below in tree.items() if below}


def prose(path: Path) -> str:
    """A page without its diagrams and examples."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", prose(path)):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_settings_that_are_named_exist(path: Path) -> None:
    sections = {"train.adversary", "evaluate.robust", "evaluate.corrupted", "search.racing", "search.stopping"}
    sections |= {"attacks.certify"}
    known = SETTINGS | sections
    for words in re.findall(r"`(?:--set )?([a-z_]+(?:\.[a-z_]+)+)[^`./]*`", prose(path)):
        if words.partition(".")[0] in SECTIONS and not words.endswith(".py"):
            assert words in known, words


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_modules_that_are_named_exist(path: Path) -> None:
    for name in re.findall(r"`([\w/]+\.py)\b", prose(path)):
        places = (ROOT, ROOT / "puzzle_study", ROOT / "puzzle_study" / "datasets", ROOT / "tests" / "attacks")
        assert any((place / name).is_file() for place in places), name


def test_the_page_on_reproduction_has_every_study_of_the_paper_and_every_setting_of_the_authors_preset() -> None:
    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    named_there = set(re.findall(r"`((?:table|figure)\w+\.yaml)`", page))
    assert named_there == {path.name for path in STUDIES if path.parent.name == "paper"}
    changes = [PuzzleSettings.PRESETS["authors_code"], *PuzzleSettings.PRESETS_BY_DATASET["authors_code"].values()]
    for name in {leaf for layer in changes for leaf in layers.leaves(layer)}:
        assert f"`{name}`" in page


def test_the_page_on_result_files_explains_every_column_of_the_tables() -> None:
    page = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    attack = {entry.name for entry in fields(AttackSpec)} - {"seed"} | {"attack_seed"}
    columns = {
        *tables.METRICS,
        *tables.PLAIN,
        *tables.AUROC,
        *rows.COLUMNS,
        *attack,
        *(one.name for one in fields(Gap)),
    }
    assert [name for name in sorted(columns) if not name.endswith(("_low", "_high")) and f"`{name}`" not in page] == []
