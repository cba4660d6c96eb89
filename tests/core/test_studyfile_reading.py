"""Good study files: what their words mean, and which layer wins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from puzzle_study import config
from puzzle_study.config import forms, layers, read
from puzzle_study.config.axes import combinations, setting_of
from puzzle_study.config.read import StudyFile
from puzzle_study.datasets import DATASETS
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.registry import DETECTORS

from .tiny import own


def load_file(
    folder: Path, content: str, *, name: str = "study.yaml", assignments: Sequence[str] = (), quick: bool = False
) -> StudyFile:
    """A study file with this content."""
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return read.load(path, assignments=assignments, quick=quick)


def load(folder: Path, content: str, **options: Any) -> config.Study:
    """The study that a file with this content resolves to."""
    return load_file(folder, content, **options).study


def some(study: config.Study, *names: str) -> tuple[Any, ...]:
    """Some of the settings of a study's default configuration."""
    return tuple(setting_of(study.settings(), name) for name in names)


# Words of YAML


AS_TEXT = ["no", "yes", "on", "off", "y", "n", "No", "NO", "0x10", "1_000", "12:30", "2020-01-01", "=", "<<"]
AS_NUMBERS = ["1e-3", "1E-3", "1.e-3", ".001", "+1e-3", "0.001"]


@pytest.mark.parametrize(
    ("setting", "word", "value"),
    [
        *(("data.normal_classes", f"[{word}]", (word,)) for word in AS_TEXT),
        *(("data.grayscale", word, word.lower() == "true") for word in ("true", "True", "FALSE", "false")),
        *(("data.augment_to", word, None) for word in ("null", "~", "Null", "NULL", "")),
        *(("train.learning_rate", word, 1e-3) for word in AS_NUMBERS),
        ("train.learning_rate", "1", 1.0),
        ("train.learning_rate", "3e-05", 3e-5),
        *(("train.epochs", word, int(word)) for word in ("010", "08", "007", "+5", "0")),
        ("train.adversary.epsilon", "8/255", 8 / 255),
        ("train.adversary.epsilon", " 10 / 255 ", 10 / 255),
        ("train.adversary.epsilon", "0.5/255", 0.5 / 255),
        ("train.adversary.epsilon", "0/255", 0.0),
    ],
)
def test_words_and_numbers_mean_what_people_mean_by_them(setting: str, word: str, value: Any, tmp_path: Path) -> None:
    content = word
    for key in reversed(setting.split(".")):
        content = f"{{{key}: {content}}}"
    (found,) = some(load(tmp_path, content, assignments=["data.name=folder"]), setting)
    assert (found, type(found)) == (value, type(value))


def test_a_list_of_perturbations_may_be_written_in_parts_of_255(tmp_path: Path) -> None:
    study = load(tmp_path, "data: {name: digits}\nattacks: {epsilons: [8/255, 0.1]}\n")
    assert study.attacks is not None
    assert study.attacks.epsilons == (8 / 255, 0.1)


@pytest.mark.parametrize("kind", ["choice", "uniform", "log_uniform"])
def test_a_search_axis_may_be_written_in_parts_of_255(kind: str, tmp_path: Path) -> None:
    axis = f"{{train.adversary.epsilon: {{{kind}: [1/255, 8/255]}}}}"
    file = load_file(tmp_path, f"data: {{name: digits}}\nsearch: {{space: {axis}}}\n")
    assert own(file.configuration({"train.adversary.epsilon": "8/255"})).train.adversary.epsilon == 8 / 255
    assert file.study.search is not None
    assert file.study.search.space["train.adversary.epsilon"].values == (1 / 255, 8 / 255)


def test_a_condition_in_parts_of_255_holds(tmp_path: Path) -> None:
    file = load_file(
        tmp_path,
        "data: {name: digits}\ntrain: {adversary: {epsilon: 8/255}}\n"
        "search: {space: {train.lambda: {grid: [0, 1], when: {train.adversary.epsilon: [8/255]}}}}\n",
    )
    assert combinations(file, ["train.lambda"]) == [{"train.lambda": 0.0}, {"train.lambda": 1.0}]


# Names and layers


def test_a_study_without_a_name_is_called_like_its_file(tmp_path: Path) -> None:
    assert load(tmp_path, "data: {name: digits}\n", name="my-study.yaml").name == "my-study"
    assert load(tmp_path, "data: {name: digits}\nname: other\n", name="my-study.yaml").name == "other"


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_has_the_authors_defaults(name: str, tmp_path: Path) -> None:
    study = load(tmp_path, f"data: {{name: {name}}}\npreset: paper\n")
    for dotted, value in layers.leaves(PuzzleSettings.DATASETS[name] | {"preset": "paper"}).items():
        assert some(study, dotted) == (value,)


EPSILON = {"mnist": 0.1, "cifar10": 10 / 255, "coil100": 10 / 255, "mvtec": 0.01}
EPSILON |= dict.fromkeys(("fashion_mnist", "head_ct", "brain_mri"), 0.07)
PAPER: dict[str, Any] = {
    "train.adversary.alpha": 2,
    "train.adversary.noise": "once",
    "train.adversary.target": "clean",
    "train.lambda": 0.02,
    "train.learning_rate": 1e-3,
    "train.discriminator_learning_rate": 2e-4,
    "train.weight_decay": 1e-5,
    "train.plateau_factor": 0.8,
    "train.plateau_patience": 50,
    "train.feature_loss": "batch_mean",
    "data.validation_fraction": 0.15,
    "data.validation_count": None,
    "score.error": "l2",
    "model.base_channels": 64,
    "puzzle.per_batch": False,
}
EPOCHS = {"mnist": 600, "fashion_mnist": 600, "cifar10": 2000, "mvtec": 3000}


@pytest.mark.parametrize("name", EPSILON)
def test_the_papers_defaults_are_those_of_the_design(name: str, tmp_path: Path) -> None:
    study = load(tmp_path, f"data: {{name: {name}}}\n")
    expected = PAPER | {
        "train.adversary.epsilon": EPSILON[name],
        "train.batch_size": 8 if name in ("mvtec", "head_ct", "brain_mri") else 128,
        "score.aggregation": "max" if name in ("mnist", "fashion_mnist") else "avg",
    }
    expected |= {"train.epochs": EPOCHS[name]} if name in EPOCHS else {}
    assert dict(zip(expected, some(study, *expected), strict=True)) == expected
    assert study.selection == "pseudo_anomalies"


AUTHORS = {
    "puzzle.per_batch": True,
    "train.feature_loss": "elementwise",
    "train.adversary.noise": "twice",
    "train.adversary.target": "noisy",
    "score.error": "mse",
    "score.puzzle_set": "all",
    "train.plateau_factor": 0.5,
    "train.plateau_patience": 30,
    "data.validation_count": 851,
    "train.batch_size": 64,
}


def test_the_authors_preset_sets_every_known_disagreement(tmp_path: Path) -> None:
    study = load(tmp_path, "data: {name: mnist}\npreset: authors_code\n")
    assert dict(zip(AUTHORS, some(study, *AUTHORS), strict=True)) == AUTHORS


def test_variants_are_the_papers_ablations(tmp_path: Path) -> None:
    found = {
        variant: some(
            load(tmp_path, f"data: {{name: mnist}}\nvariant: {variant}\n"), "puzzle.kind", "puzzle.hide", "train.lambda"
        )
        for variant in ("PAE", "CPAE", "CPAE-G", "Rot-AE")
    }
    assert found == {
        "PAE": ("jigsaw", "none", 0.0),
        "CPAE": ("jigsaw", "auto", 0.0),
        "CPAE-G": ("jigsaw", "auto", 0.02),
        "Rot-AE": ("rotation", "auto", 0.02),
    }


def test_a_variant_and_the_same_setting_with_the_same_value_agree(tmp_path: Path) -> None:
    study = load(tmp_path, "data: {name: mnist}\nvariant: PAE\ntrain: {lambda: 0}\npuzzle: {hide: none}\n")
    assert some(study, "train.lambda") == (0,)


def test_own_images_start_with_a_short_training_and_the_papers_is_asked_for(tmp_path: Path) -> None:
    names = ("preset", "train.epochs", "model.base_channels", "model.initialisation")
    assert some(load(tmp_path, "data: {name: folder}\n"), *names) == ("fast", 50, 8, "he")
    assert some(load(tmp_path, "data: {name: folder}\npreset: paper\n"), *names) == ("paper", 3000, 64, "default")
    assert some(load(tmp_path, "data: {name: mnist}\n"), "preset") == ("paper",)


@pytest.mark.parametrize("preset", ["", "preset: paper\n", "preset: fast\n"])
def test_own_images_are_not_multiplied_unless_the_study_says_so(preset: str, tmp_path: Path) -> None:
    assert load(tmp_path, f"data: {{name: folder}}\n{preset}").data.augment_to is None
    assert load(tmp_path, f"data: {{name: folder, augment_to: 800}}\n{preset}").data.augment_to == 800


LAYERS = ["", "preset: fast\n", "train: {batch_size: 50}\n", "quick: {train: {batch_size: 20}}\n"]


def test_assignments_beat_quick_beats_the_file_beats_the_preset_beats_the_data_set(tmp_path: Path) -> None:
    content = "data: {name: mnist}\n"
    found: list[int] = []
    for layer in LAYERS:
        content += layer
        found += some(load(tmp_path, content, quick="quick" in content), "train.batch_size")
    found += some(load(tmp_path, content, quick=True, assignments=["train.batch_size=10"]), "train.batch_size")
    assert found == [128, 32, 50, 20, 10]


def test_a_quick_section_counts_only_with_quick(tmp_path: Path) -> None:
    text = "data: {name: mnist}\nquick: {train: {epochs: 2}, seeds: [5], data: {max_test_images: 50}}\n"
    slow, fast = load(tmp_path, text), load(tmp_path, text, quick=True)
    names = ("train.epochs", "data.max_test_images")
    assert (some(slow, *names), slow.seeds) == ((600, None), (0,))
    assert (some(fast, *names), fast.seeds) == ((2, 50), (5,))


def test_an_assignment_may_set_a_list_a_text_and_a_section(tmp_path: Path) -> None:
    wanted = ["seeds=[1, 2]", "data.normal_classes=[no]", "train.adversary={epsilon: 8/255}", "train.lambda=1e-3"]
    study = load(tmp_path, "data: {name: folder}\n", assignments=wanted)
    assert study.seeds == (1, 2)
    assert study.data.normal_classes == ("no",)
    assert some(study, "train.adversary.epsilon", "train.lambda") == (8 / 255, 1e-3)


def test_the_last_of_two_assignments_wins(tmp_path: Path) -> None:
    assignments = ["train.epochs=1", "train.epochs=2"]
    assert some(load(tmp_path, "data: {name: digits}\n", assignments=assignments), "train.epochs") == (2,)


def test_a_configuration_has_the_values_of_its_axes_and_the_studys_otherwise(tmp_path: Path) -> None:
    file = load_file(
        tmp_path,
        "data: {name: digits}\ntrain: {epochs: 7}\n"
        "search: {space: {train.lambda: {uniform: [0, 1]}, variant: {choice: [PAE, CPAE-G]}}}\n",
    )
    chosen = own(file.configuration({"train.lambda": 0.5})).train
    assert (chosen.lambda_, chosen.epochs, chosen.batch_size) == (0.5, 7, 32)
    assert file.configuration({}) == file.study.settings()
    pae = own(file.configuration({"variant": "PAE", "train.lambda": 0.5}))
    assert (pae.train.lambda_, pae.puzzle.hide) == (0.0, "none")


def test_settings_are_frozen(tmp_path: Path) -> None:
    study = load(tmp_path, "data: {name: digits}\n")
    with pytest.raises(ValueError, match="frozen"):
        study.name = "other"  # type: ignore[misc]


SECTIONS = [config.Study, config.Settings, config.Axis, *(kind.Settings for kind in DETECTORS.values())]


@pytest.mark.parametrize("model", SECTIONS)
def test_every_setting_is_documented(model: type[BaseModel]) -> None:
    for name, entry in model.model_fields.items():
        assert entry.description, f"{model.__name__}.{name}"
    for section in forms.section_keys(model).values():
        if section is not None:
            test_every_setting_is_documented(section)


# Paths


@pytest.mark.parametrize("name", ["mnist", "folder"])
@pytest.mark.parametrize(("root", "absolute"), [("", "data"), ("a/b", "a/b"), ("../x", "../x"), ("~/x", "home/x")])
def test_paths_are_taken_from_the_current_folder_once(
    name: str, root: str, absolute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("deep").mkdir()
    Path("deep/one.yaml").write_text(f"data: {{name: {name}, root: {root}}}\nstorage: shared\n", encoding="utf-8")
    file = read.load(Path("deep/one.yaml"))
    assert file.study.data.root == str(tmp_path / absolute)
    assert file.study.storage == str(tmp_path / "shared")
    assert read.load(Path("deep/one.yaml"), assignments=[f"data.root={root}"]).study == file.study
    monkeypatch.chdir("deep")
    assert file.configuration({"train.epochs": 3}).data.root == str(tmp_path / absolute)


def test_what_is_not_a_folder_is_not_made_one(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("data: {name: digits}\nstorage: s3://bucket/x\n", encoding="utf-8")
    study = read.load(path).study
    assert (study.data.root, study.storage) == (None, "s3://bucket/x")
