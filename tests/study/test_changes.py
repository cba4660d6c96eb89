"""A study file that changed: what of the results the new one can use is kept, and no change loses all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from puzzle_study.config import layers, read
from puzzle_study.datasets import TaskSpec
from puzzle_study.io import write_text
from puzzle_study.results import Results
from puzzle_study.study.changes import Changes, compare
from puzzle_study.study.plan import Plan
from puzzle_study.trials.record import Record, records
from tests.study.conftest import carry_out, finished

STUDY: dict[str, Any] = {
    "name": "one",
    "data": {"name": "digits", "normal_classes": [3]},
    "train": {"epochs": 4},
    "references": ["pca"],
    "seeds": [0],
    "search": {
        "configurations": 2,
        "space": {"train.lambda": {"uniform": [0.01, 0.1]}, "score.aggregation": {"choice": ["min", "max"]}},
    },
    "attacks": {"methods": ["fgsm"]},
}
FINGERPRINT = "0" * 16


def load(folder: Path, changes: Mapping[str, Any] | None = None) -> read.StudyFile:
    path = folder / "one.yaml"
    changed = layers.merge(STUDY, *(layers.nested(name, value) for name, value in (changes or {}).items()))
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")
    return read.load(path)


def tasks(file: read.StudyFile) -> list[TaskSpec]:
    return [TaskSpec(file.study.data.name, str(name)) for name in file.study.data.normal_classes or ()]


def make_done(folder: Path) -> Results:
    """Finish the study."""
    results, file = Results(folder / "results"), load(folder)
    carry_out(Plan(file, tasks(file), FINGERPRINT, results), finished, write=True)
    write_text(results.study_file, read.dump(file.study))
    return results


@pytest.fixture
def done(tmp_path: Path) -> Results:
    """A finished study: a reference, the default and two configurations."""
    return make_done(tmp_path)


def compared(folder: Path, results: Results, changes: Mapping[str, Any], *, fingerprint: str = FINGERPRINT) -> Changes:
    file = load(folder, changes)
    found = compare(results, file, tasks(file), fingerprint)
    assert found is not None
    return found


KEPT: dict[str, tuple[dict[str, Any], int]] = {
    "more configurations": ({"search.configurations": 9}, 3),
    "fewer configurations": ({"search.configurations": 1}, 3),
    "more seeds": ({"seeds": [0, 1, 2]}, 3),
    "more classes": ({"data.normal_classes": [3, 8]}, 3),
    "other attacks": ({"attacks.methods": ["pgd", "noise"], "attacks.max_images": 50}, 3),
    "no attacks": ({"attacks": None}, 3),
    "another selection": ({"selection": "oracle"}, 3),
    "other references": ({"references": ["nearest_neighbour", "untrained"]}, 3),
    "other resources": ({"resources": {"cpu": 2.0}, "max_concurrent": 1}, 3),
    "another aggregation": ({"score.aggregation": "avg", "score.error": "mse"}, 3),
    "another seed of the search": ({"search.seed": 5}, 3),
    "another algorithm": ({"search.algorithm": "random"}, 3),
    "a wider axis": ({"search.space": {"train.lambda": {"uniform": [0.001, 1.0]}}}, 3),
    "an axis elsewhere": ({"search.space": {"train.lambda": {"uniform": [0.5, 1.0]}}}, 1),
    "one more axis": ({"search.space": {"train.adversary.epsilon": {"uniform": [0.0, 0.5]}}}, 3),
    "no search": ({"search": None}, 1),
    "another default of a searched setting": ({"train.lambda": 0.05}, 3),
}
LOST: dict[str, dict[str, Any]] = {
    "other epochs": {"train.epochs": 5},
    "another width": {"model.base_channels": 4},
    "other classes": {"data.normal_classes": [8]},
    "other seeds": {"seeds": [7]},
    "another data set": {"data.name": "mnist"},
}


@pytest.mark.parametrize("name", KEPT)
def test_what_a_change_does_not_touch_is_kept(name: str, done: Results, tmp_path: Path) -> None:
    changes, usable = KEPT[name]
    found = compared(tmp_path, done, changes)
    assert found.settings
    assert (found.finished, found.usable) == (3, usable)
    assert found.refusal("results/one", resume=True) is None
    refused = found.refusal("results/one", resume=False)
    assert refused is not None
    assert f"keep {usable} of 3 trained detectors and train the rest with --resume" in refused


def test_what_is_trained_is_kept_if_another_detector_is_added(done: Results, tmp_path: Path) -> None:
    several = {name: value for name, value in STUDY.items() if name not in ("train", "search")}
    space = {f"puzzle_ae.{name}": axis for name, axis in STUDY["search"]["space"].items()}
    detectors = {"nearest_neighbour": {}, "puzzle_ae": {"train": STUDY["train"]}}
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(several | {"detectors": detectors, "search": {"space": space}}), encoding="utf-8")
    file = read.load(path)
    found = compare(done, file, tasks(file), FINGERPRINT)
    assert found is not None
    assert (found.finished, found.usable) == (3, 3)


def test_points_of_an_axis_in_parts_of_255_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"train.adversary.epsilon": {"grid": ["2/255", "4/255", "8/255"]}}
    monkeypatch.setitem(STUDY, "search", {"algorithm": "grid", "space": space})
    found = compared(tmp_path, make_done(tmp_path), {"train.adversary.epsilon": 0.2})
    assert (found.finished, found.usable) == (4, 3)


@pytest.mark.parametrize(("cpu", "told"), [(1.5, False), (2.0, True)])
def test_another_number_of_threads_is_told(cpu: float, told: bool, done: Results, tmp_path: Path) -> None:
    found = compared(tmp_path, done, {"resources.cpu": cpu})
    assert f"resources.cpu was 1.0, is {cpu}" in found.settings
    assert any("a trial had 1 threads, has 2" in phrase for phrase in found.settings) is told
    assert found.usable == 3


@pytest.mark.parametrize("name", LOST)
def test_a_change_that_would_lose_every_trained_detector_is_refused_with_what_changed(
    name: str, done: Results, tmp_path: Path
) -> None:
    found = compared(tmp_path, done, LOST[name])
    refused = found.refusal("results/one", resume=True)
    assert refused is not None
    assert "none of its 3 trained detectors can be kept; choose another place" in refused
    assert next(iter(LOST[name])) + " was " in refused
    assert found.refusal("results/one", resume=False) == refused


@pytest.mark.parametrize("changes", [{}, {"seeds": [0, 1]}])
@pytest.mark.parametrize("resume", [True, False])
def test_other_images_below_the_same_data_section_are_refused(
    changes: dict[str, Any], resume: bool, done: Results, tmp_path: Path
) -> None:
    found = compared(tmp_path, done, changes, fingerprint="1" * 16)
    assert (found.finished, found.usable) == (3, 0)
    refused = found.refusal("results/one", resume=resume)
    assert refused is not None
    assert re.search("data.root.* changed since results/one .* 3 trained detectors .*--results", refused)


@pytest.mark.parametrize("name", LOST)
def test_nothing_is_refused_where_nothing_was_trained_yet(name: str, done: Results, tmp_path: Path) -> None:
    for record in records(done):
        if record.spec.detector != "pca":
            done.remove_record(record.spec.key)
    assert compared(tmp_path, done, LOST[name]).refusal("results/one", resume=True) is None


def test_an_equal_file_goes_on_with_resume_and_is_named_unfinished_without(done: Results, tmp_path: Path) -> None:
    found = compared(tmp_path, done, {})
    assert (found.settings, found.images, found.finished, found.usable) == ((), False, 3, 3)
    assert found.refusal("results/one", resume=True) is None
    refused = found.refusal("results/one", resume=False)
    assert refused is not None
    assert refused.startswith("results/one has an unfinished study; continue with --resume")


def test_where_the_images_are_is_not_a_change_if_they_are_the_same(done: Results, tmp_path: Path) -> None:
    found = compared(tmp_path, done, {"data.root": "elsewhere"})
    assert (found.settings, found.images, found.usable) == ((), False, 3)
    assert found.refusal("results/one", resume=True) is None
    others = compared(tmp_path, done, {"data.root": "elsewhere"}, fingerprint="1" * 16)
    assert "images in data.root have changed" in (others.refusal("results/one", resume=True) or "")


@pytest.mark.parametrize("changes", [{}, {"train.epochs": 5}])
def test_a_study_of_which_nothing_but_failures_is_left_is_begun_anew(
    changes: dict[str, Any], done: Results, tmp_path: Path
) -> None:
    for record in records(done):
        done.write_record(record.spec.key, Record(record.spec, "failed", "diverged").to_json())
    file = load(tmp_path, changes)
    assert compare(done, file, tasks(file), FINGERPRINT) is None
    write_text(done.checkpoints("key") / "epoch-000001.pt", "there is something to go on with")
    assert compare(done, file, tasks(file), FINGERPRINT) is not None


def test_an_empty_folder_has_nothing_to_compare(tmp_path: Path) -> None:
    file = load(tmp_path)
    assert compare(Results(tmp_path / "nothing"), file, tasks(file), FINGERPRINT) is None


def test_changes_are_told_by_name_with_both_values_and_many_are_counted(done: Results, tmp_path: Path) -> None:
    found = compared(tmp_path, done, {"max_concurrent": 3, "seeds": [0, 1], "selection": "oracle", "train.epochs": 9})
    assert "max_concurrent was null, is 3" in found.settings
    assert "seeds was [0], is [0, 1]" in found.settings
    assert str(found).endswith("; 0 of 3 trained detectors can be kept")
    refused = found.refusal("results/one", resume=True)
    assert refused is not None
    assert "; and 1 more)" in refused


def test_a_record_of_another_version_is_of_no_use_and_breaks_nothing(done: Results, tmp_path: Path) -> None:
    content = next(content for content in done.records() if content["detector"] == "puzzle_ae")
    content["settings"]["own"]["train"]["a_setting_of_tomorrow"] = 1
    done.write_record(content["trial"], content)
    found = compared(tmp_path, done, {})
    assert (found.finished, found.usable) == (2, 2)
