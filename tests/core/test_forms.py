"""The two forms of a study file: one detector with its sections at the top, or several below ``detectors``."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from puzzle_study.attacks.methods import METHODS
from puzzle_study.config import layers, read, text
from puzzle_study.config.axes import combinations, setting_of
from puzzle_study.config.check import searchable
from puzzle_study.config.forms import Form
from puzzle_study.datasets import DATASETS, TaskSpec
from puzzle_study.detectors.puzzle_ae.settings import Variant
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study import space
from puzzle_study.study.plan import Plan
from puzzle_study.trials.record import Record

from .tiny import examples

DATA = "data: {name: digits}\n"
BOTH = DATA + "detectors:\n  pca:\n  puzzle_ae: {train: {epochs: 2}}\n"
SPACE = BOTH + "search:\n  algorithm: grid\n  space:\n"
LAMBDA = "puzzle_ae.train.lambda"


def load(folder: Path, content: str, **options: Any) -> read.StudyFile:
    """A study file with this content."""
    path = folder / "study.yaml"
    path.write_text(content, encoding="utf-8")
    return read.load(path, **options)


def planned(folder: Path, content: str) -> Plan:
    """The plan of a study, asked for everything; each trial fails."""
    plan = Plan(load(folder, content), [TaskSpec("digits", "3")], "", Results(folder))
    while (spec := plan.take()) is not None:
        plan.done(spec.key, Record(spec, "failed", "for the test"))
    return plan


# Names


@pytest.mark.parametrize(
    ("names", "several", "expected"),
    [
        (("puzzle_ae",), False, {"train.lambda", "score.error", "data.size"}),
        (("puzzle_ae",), True, {LAMBDA, "puzzle_ae.score.error", "data.size", "detector"}),
        (("pca",), False, {"data.size"}),
        (("pca", "puzzle_ae", "untrained"), True, {LAMBDA, "untrained.train.lambda", "data.size", "detector"}),
    ],
)
def test_a_setting_has_its_detectors_name_in_front_if_several_are_listed(
    names: tuple[str, ...], several: bool, expected: set[str]
) -> None:
    form = Form(names, several)
    found = searchable(form)
    assert expected <= set(found)
    assert len(found) == len(set(found))
    assert several == ("detector" in found)
    assert {name.partition(".")[0] for name in found} <= (
        {"data", "detector", *names} if several else {"data", *DETECTORS[names[0]].Settings.model_fields}
    )


@pytest.mark.parametrize("first", ["detector: puzzle_ae\n", "", "detectors: {puzzle_ae: {OWN}}\n"])
def test_the_same_settings_in_either_form_are_the_same_study(first: str, tmp_path: Path) -> None:
    own = "train: {lambda: 0.5}, variant: Rot-AE"
    content = first.replace("OWN", own) if "OWN" in first else first + own.replace(", ", "\n") + "\n"
    study = load(tmp_path, DATA + content).study
    assert setting_of(study.settings(), "train.lambda") == setting_of(study.settings(), LAMBDA) == 0.5
    assert setting_of(study.settings(), "puzzle.kind") == "rotation"
    assert (setting_of(study.settings(), "detector"), study.first) == ("puzzle_ae", "puzzle_ae")


def test_a_setting_of_another_detector_is_none(tmp_path: Path) -> None:
    study = load(tmp_path, BOTH).study
    found = [setting_of(study.settings(name), "puzzle_ae.train.epochs") for name in study.detectors]
    assert found == [None, 2]


# Layers


def test_a_preset_and_a_data_set_give_each_detector_its_own_defaults_and_leave_the_images_alone(tmp_path: Path) -> None:
    preset = "preset: authors_code"
    alone = load(tmp_path, f"data: {{name: mvtec}}\n{preset}\n").study
    beside = load(tmp_path, f"data: {{name: mvtec}}\ndetectors:\n  pca: {{}}\n  puzzle_ae: {{{preset}}}\n").study
    assert alone.detectors["puzzle_ae"] == beside.detectors["puzzle_ae"]
    assert (alone.data.augment_to, alone.data.validation_count) == (800, 25)
    assert beside.data == load(tmp_path, "data: {name: mvtec}\ndetector: pca\n").study.data


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({}, 2),
        ({"quick": True}, 1),
        ({"quick": True, "assignments": ["detectors.puzzle_ae.train.epochs=5"]}, 5),
    ],
)
def test_quick_and_assignments_reach_below_detectors(options: Mapping[str, Any], epochs: int, tmp_path: Path) -> None:
    content = BOTH + "quick: {detectors: {puzzle_ae: {train: {epochs: 1}}}}\n"
    assert load(tmp_path, content, **options).study.detectors["puzzle_ae"].epochs_wanted == epochs


# Search


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (DATA, ["puzzle_ae"]),
        (DATA + "detector: pca\n", ["pca"]),
        (BOTH, ["pca", "puzzle_ae"]),
        (SPACE + f"    {LAMBDA}: {{grid: [0.5]}}\n", ["pca", "puzzle_ae"]),
    ],
)
def test_each_detectors_default_is_a_configuration(content: str, names: list[str], tmp_path: Path) -> None:
    plan = planned(tmp_path, content)
    defaults = [entry for entry in plan.configurations if entry.default]
    assert [entry.settings for entry in defaults] == [plan.study.settings(name) for name in names]
    assert plan.wanted == len(plan.configurations) == len(names) + ("search" in content)


def test_the_detector_is_an_axis_and_an_axis_of_one_is_searched_under_it_alone(tmp_path: Path) -> None:
    content = SPACE.replace("  pca:\n", "  pca:\n  untrained: {model: {base_channels: 3}}\n")
    content += f"    {LAMBDA}: {{grid: [0.1, 0.2]}}\n    untrained.model.base_channels: {{choice: [3, 4]}}\n"
    content += "    puzzle_ae.score.aggregation: {choice: [min, max]}\n"
    plan = planned(tmp_path, content)
    assert [entry.values for entry in plan.configurations] == [
        {"detector": "pca"},
        {"detector": "untrained"},
        {"detector": "puzzle_ae"},
        {"detector": "untrained", "untrained.model.base_channels": 4},
        {"detector": "puzzle_ae", LAMBDA: 0.1},
        {"detector": "puzzle_ae", LAMBDA: 0.2},
    ]
    assert [len(plan.readings(entry)) for entry in plan.configurations] == [1, 1, 2, 1, 2, 2]
    assert plan.wanted == 6


@pytest.mark.parametrize("algorithm", ["optuna", "random", "nsga2"])
def test_a_sampler_asks_for_settings_of_the_chosen_detector_alone(algorithm: str, tmp_path: Path) -> None:
    content = SPACE.replace("grid", f"{algorithm}\n  configurations: 12") + "    data.size: {choice: [16, 24]}\n"
    content += f"    {LAMBDA}: {{uniform: [0.1, 1]}}\n"
    plan = planned(tmp_path, content)
    for entry in plan.configurations[2:]:
        assert set(entry.values) == {"detector", "data.size"} | (
            {LAMBDA} if entry.values["detector"] != "pca" else set()
        )
        assert entry.settings.detector == entry.values["detector"]
        assert setting_of(entry.settings, "data.size") == entry.values["data.size"]
    assert {entry.settings.detector for entry in plan.configurations[2:]} == {"pca", "puzzle_ae"}


def test_a_condition_on_a_fixed_setting_of_a_detector_that_is_not_the_first_holds(tmp_path: Path) -> None:
    when = "{puzzle_ae.train.schedule: [plateau]}"
    file = load(tmp_path, SPACE + f"    puzzle_ae.train.plateau_factor: {{grid: [0.5], when: {when}}}\n")
    values = {"detector": "puzzle_ae", "puzzle_ae.train.plateau_factor": 0.5}
    assert values in (combinations(file, ["puzzle_ae.train.plateau_factor"]) or [])
    assert planned(tmp_path, (tmp_path / "study.yaml").read_text()).configurations[-1].values == values


def test_an_axis_that_cannot_matter_is_told_by_its_name_in_the_file(tmp_path: Path) -> None:
    file = load(tmp_path, SPACE + "    puzzle_ae.train.adversary.steps: {grid: [3, 4]}\n")
    assert list(space.inert_axes(file)) == ["puzzle_ae.train.adversary.steps"]


@pytest.mark.parametrize("form", ["detector: pca\n", "detectors: {pca: {}}\n", "detectors: {puzzle_ae: {}, pca: {}}\n"])
def test_a_reference_that_is_one_of_the_detectors_is_not_trained_twice(form: str, tmp_path: Path) -> None:
    plan = planned(tmp_path, DATA + form + "references: [pca, nearest_neighbour]\n")
    assert [spec.detector for spec in plan.references] == ["nearest_neighbour"]
    names = [record.spec.detector for record in plan.records.values()]
    assert sorted(names) == sorted({*plan.study.detectors, "nearest_neighbour"})


# The way back

WORDS = ["no", "yes", "08", "010", "1e-3", "1e5", "-1", "null", "true", "~", "ü", "3", "2020-01-01", ".5", "8/255", "'"]
WORDS += ["a: b", "# c", "", " x "]
texts = st.one_of(st.sampled_from(WORDS), st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=8))
study_names = st.sampled_from(["08", "1e3", "no", "1", "1.5", "a.b"]) | st.from_regex(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True
)
parts = st.floats(0, 1, exclude_min=True)

SHARED: dict[str, st.SearchStrategy[Any]] = {
    "seeds": st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3, unique=True),
    "data.root": texts,
    "data.normal_classes": st.lists(st.one_of(texts, st.integers(-3, 100)), min_size=1, max_size=4, unique_by=str),
    "data.augment_to": st.none() | st.integers(1, 900),
    "data.validation_fraction": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "data.validation_count": st.none() | st.integers(1, 900),
    "attacks.epsilons": st.lists(st.one_of(st.floats(0, 1), st.just("8/255")), min_size=1, max_size=3),
    "attacks.methods": st.lists(st.sampled_from(list(METHODS)), min_size=1, max_size=3),
    "attacks": st.none(),
    "references": st.lists(st.sampled_from(list(DETECTORS)), max_size=3, unique=True),
    "resources.cpu": st.floats(0.1, 64),
}
OWN: dict[str, st.SearchStrategy[Any]] = {
    "preset": st.sampled_from(["paper", "fast", "authors_code"]),
    "variant": st.sampled_from(get_args(Variant)),
    "puzzle.grid": st.sampled_from([2, 3]),
    "puzzle.per_batch": st.booleans(),
    "model.base_channels": st.integers(1, 9),
    "model.discriminator_channels": st.none() | st.integers(1, 256),
    "train.epochs": st.integers(0, 9),
    "train.learning_rate": parts,
    "train.adversary.epsilon": st.one_of(st.floats(0, 1), st.sampled_from(["8/255", "10/255"])),
    "score.permutations": st.one_of(st.just("all"), st.integers(1, 3)),
}
AXES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "train.learning_rate": st.floats(1e-5, 1e-3).map(lambda low: {"log_uniform": [low, 0.01]}),
    "train.epochs": st.tuples(st.integers(0, 5), st.integers(6, 100)).map(lambda ends: {"int_uniform": list(ends)}),
    "train.plateau_factor": st.just({"uniform": [0.1, 0.9]}),
    "train.adversary.alpha": st.lists(st.floats(0.01, 10), min_size=1, max_size=3).map(lambda values: {"grid": values}),
    "train.adversary.epsilon": st.just({"choice": ["8/255", 0.1], "when": {"train.adversary.method": ["fgsm"]}}),
    "score.error": st.just({"choice": ["l2", "mse"]}),
}
WITH_SETTINGS = ("puzzle_ae", "untrained")


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A study file's content in one form or the other, with settings of every type and axes of its detectors."""

    def some(options: Mapping[str, st.SearchStrategy[Any]]) -> dict[str, Any]:
        return {name: draw(options[name]) for name in draw(st.lists(st.sampled_from(list(options)), unique=True))}

    several = draw(st.booleans())
    names = draw(st.lists(st.sampled_from(list(DETECTORS)), min_size=1, max_size=3 if several else 1, unique=True))
    document: dict[str, Any] = {"name": draw(study_names), "data": {"name": draw(st.sampled_from(list(DATASETS)))}}
    document |= {"detectors": dict.fromkeys(names)} if several else {"detector": names[0]}
    chosen, searched = some(SHARED), dict[str, Any]()
    for name in filter(WITH_SETTINGS.__contains__, names):
        front = f"{name}." if several else ""
        chosen |= {f"detectors.{front}{key}" if several else key: value for key, value in some(OWN).items()}
        for key, axis in deepcopy(some(AXES)).items():  # YAML would write a list that is used twice as an alias
            when = {f"{front}{other}": values for other, values in axis.get("when", {}).items()}
            searched[f"{front}{key}"] = axis | ({"when": when} if when else {})
    document = layers.merge(document, *(layers.nested(name, value) for name, value in chosen.items()))
    if several and draw(st.booleans()):
        searched["detector"] = {"choice": names}
    if searched:
        document["search"] = {"algorithm": "random", "space": searched}
    return document


@pytest.mark.slow
@examples(80)
@given(document=documents())
def test_a_study_of_either_form_is_dumped_and_read_back_as_the_same(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    study = load(folder, yaml.dump(document, Dumper=text.StudyDumper, sort_keys=False)).study
    again = load(folder, read.dump(study))
    assert again.study == study
    assert list(again.study.detectors) == list(study.detectors)
    assert read.dump(again.study) == read.dump(study)
    for name in study.detectors:
        assert again.configuration({"detector": name}) == study.settings(name)


# Wrong forms

WRONG: dict[str, tuple[str, int, str]] = {
    "both": (DATA + "detector: pca\ndetectors: {pca: {}}\n", 3, "`detector` .*`detectors`.* remove one"),
    "list": (DATA + "detectors: [pca]\n", 2, "`detectors` must be a section"),
    "none": (DATA + "detectors: {}\n", 2, "`detectors` must be a section"),
    "nothing": (DATA + "detectors:\n", 2, "`detectors` must be a section"),
    "two as one": (DATA + "detector: [pca, puzzle_ae]\n", 2, "`detector` must be one detector's name.*`detectors`"),
    "no name": (DATA + "detector:\n", 2, "`detector` must be one detector's name"),
    "near": (DATA + "detector: pcaa\n", 2, "no detector 'pcaa'; did you mean pca.*one_class_svm"),
    "far": (DATA + "detector: xyz\n", 2, "no detector 'xyz'; there are puzzle_ae"),
    "near one of several": (BOTH + "  one_class_swm: {}\n", 5, "did you mean one_class_svm"),
    "number": (DATA + "detectors: {3: {}}\n", 2, "no detector '3'"),
    "near in quick": (DATA + "quick:\n  detector: pcaa\n", 3, "did you mean pca"),
    "near reference": (DATA + "references: [pcaa]\n", 2, r"references\[0\].*'pcaa'; did you mean pca"),
    "no section": (DATA + "detectors:\n  pca: false\n", 3, r"`detectors\.pca` must be a section.*got False"),
    "no section below": (DATA + "detectors: {puzzle_ae: {train: 3}}\n", 2, r"puzzle_ae\.train` must be"),
    "unknown": (
        DATA + "detectors:\n  puzzle_ae:\n    train: {epoch: 3}\n", 4,
        r"`detectors\.puzzle_ae\.train\.epoch` .* mean detectors\.puzzle_ae\.train\.epochs\?",
    ),
    "range": (DATA + "detectors:\n  puzzle_ae:\n    train: {epochs: -1}\n", 4, r"puzzle_ae\.train\.epochs` must"),
    "no settings": (BOTH.replace("pca:", "pca: {components: 3}"), 3, r"pca\.components`.*allowed.*nothing"),
    "shared": (DATA + "detectors: {pca: {data: {size: 16}}}\n", 2, r"`detectors\.pca\.data` is not a setting"),
    "at the top": (BOTH + "train: {epochs: 3}\n", 5, r"`train` is not .*below.*detectors\.puzzle_ae\.train"),
    "of the other": (DATA + "detector: pca\ntrain: {}\n", 3, "`train` is not a setting of pca, but of puzzle_ae"),
    "variant": (BOTH + "  untrained: {variant: PAE, train: {lambda: 0.5}}\n", 5, r"PAE means train\.lambda = 0\.0"),
    "rule": (BOTH + "  untrained: {puzzle: {permutations: drawn}}\n", 5, "`drawn` needs puzzle.grid 3"),
    "axis without name": (SPACE + "    train.lambda: {grid: [1]}\n", 8, rf"`train\.lambda`.* mean {LAMBDA}\?"),
    "axis of a detector": (SPACE + "    puzzle_ae: {grid: [1]}\n", 8, "`puzzle_ae` is not a setting"),
    "axis with name": (DATA + f"search: {{space: {{{LAMBDA}: {{grid: [1]}}}}}}\n", 2, rf"`{LAMBDA}`.* mean train\.lam"),
    "axis out of range": (SPACE + f"    {LAMBDA}: {{grid: [1000]}}\n", 8, f"`{LAMBDA}` .*less .*1000"),
    "axis under the other": (
        SPACE + f"    {LAMBDA}: {{grid: [1], when: {{detector: [pca]}}}}\n", 8,
        f"`{LAMBDA}` is searched only with puzzle_ae; remove `detector`",
    ),
    "axis of one detector": (
        DATA + "detector: pca\nsearch: {space: {detector: {choice: [pca]}}}\n", 3, "`detector` is not a setting",
    ),
    "axis of an unlisted detector": (
        SPACE + "    detector: {choice: [pca, untrained]}\n", 8, "the detector 'untrained'.*has pca, puzzle_ae",
    ),
    "condition on an unlisted detector": (
        SPACE + "    data.size: {grid: [16], when: {detector: [pcaa]}}\n", 8, "`data.size` .* 'pcaa'; did you mean pca",
    ),
    "axis of numbers": (SPACE + "    detector: {grid: [0.5]}\n", 8, "`detector` names the detector 0.5"),
    "axis never searched": (
        SPACE + f"    detector: {{choice: [pca]}}\n    {LAMBDA}: {{grid: [1]}}\n", 9,
        f"`{LAMBDA}` is never searched: .*detector puzzle_ae.*detector is pca",
    ),
    "axes not together": (
        SPACE + "    puzzle_ae.puzzle.grid: {grid: [2, 3]}\n    puzzle_ae.puzzle.permutations: {grid: [auto, all]}\n",
        9, r"`puzzle_ae\.puzzle\.grid` 3 and .*`when: \{puzzle_ae\.puzzle\.grid: \[2\]\}`",
    ),
    "shared axis against a later detector": (
        SPACE.replace("digits", "cifar10").replace("epochs: 2}", "epochs: 2}, puzzle: {hide: gray}")
        + "    data.grayscale: {grid: [true, false]}\n", 8, "`data.grayscale` True is not possible: puzzle.hide `gray`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_form_is_refused_in_one_sentence_with_file_and_line(case: str, tmp_path: Path) -> None:
    content, line, pattern = WRONG[case]
    with pytest.raises(UserError, match=pattern) as caught:
        load(tmp_path, content)
    assert str(caught.value).endswith(f"({tmp_path / 'study.yaml'}, line {line})")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "pattern"),
    [
        ("detector=pcaa", r"did you mean pca\?.*\(--set detector\)$"),
        ("detectors=3", r"`detectors` must be a section.*\(--set detectors\)$"),
        ("detectors.puzzle_ae.train.epochs=-1", r"must be greater.*\(--set detectors\.puzzle_ae\.train\.epochs\)$"),
    ],
)
def test_a_wrong_assignment_is_named(assignment: str, pattern: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=pattern):
        load(tmp_path, DATA, assignments=[assignment])


def test_a_shared_axis_may_be_searched_under_one_detector_alone(tmp_path: Path) -> None:
    content = SPACE + "    data.train_fraction: {grid: [0.5, 1.0], when: {detector: [pca]}}\n"
    found = {
        (one.settings.detector, one.settings.data.train_fraction) for one in planned(tmp_path, content).configurations
    }
    assert found == {("pca", 0.5), ("pca", 1.0), ("puzzle_ae", 1.0)}
