"""The study files that come along: they load, their heads tell the truth, their settings are those of the paper."""

from __future__ import annotations

import re
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from puzzle_study import config, datasets, tune
from puzzle_study.config import layers, read
from puzzle_study.config.axes import setting_of
from puzzle_study.datasets import DATASETS, TaskSpec, protocols
from puzzle_study.datasets.records import Decoded
from puzzle_study.detectors.base import Context, Shape
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.detector import scoring_set
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.puzzle_ae.training import Trainer
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.detectors.scoring import AGGREGATIONS
from puzzle_study.errors import UserError
from puzzle_study.reporting import paper_values
from puzzle_study.reporting.paper_values import Conditions
from puzzle_study.results import Results
from puzzle_study.study import space
from puzzle_study.study.plan import Plan
from puzzle_study.trials.run import run
from puzzle_study.trials.spec import TrialSpec

from .core.tiny import own
from .datasets.conftest import SHARED, Layouts

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ROOT / "studies"
EVERY_PAPER = sorted((STUDIES / "paper").glob("*.yaml"))
OF_PEERS = [path for path in EVERY_PAPER if re.match("table05|table06_ssl", path.stem)]
"""Studies of other detectors than Puzzle-AE."""
PAPER = [path for path in EVERY_PAPER if path not in OF_PEERS]
OTHERS = [path for path in sorted(STUDIES.glob("*.yaml")) if path.stem != "digits"]
OURS = [*OTHERS, *PAPER]
OVER_DETECTORS = [path for path in OTHERS if read.load(path).form.several]
WITH_THE_PAPERS_SETTINGS = [path for path in OURS if path.stem != "folder" and path not in OVER_DETECTORS]
OF_ONE = [path for path in OURS if not read.load(path).form.several]
TASKS_OF_A_FOLDER = 1
CPU = torch.device("cpu")


named = attrgetter("stem")
each_study_of_the_papers_settings = pytest.mark.parametrize("path", WITH_THE_PAPERS_SETTINGS, ids=named)
each_study = pytest.mark.parametrize("path", [*OURS, *OF_PEERS], ids=named)
each_puzzle_study = pytest.mark.parametrize("path", OURS, ids=named)
each_paper_study = pytest.mark.parametrize("path", EVERY_PAPER, ids=named)
each_peer_study = pytest.mark.parametrize("path", OF_PEERS, ids=named)
long_and_quick = pytest.mark.parametrize("quick", [False, True], ids=["", "quick"])


def of_puzzle_ae(path: Path, assignment: str) -> str:
    """An assignment to a setting of Puzzle-AE as the study file wants it."""
    return f"detectors.puzzle_ae.{assignment}" if read.load(path).form.several else assignment


def head(path: Path) -> str:
    """The comment at the head of a study file, as one line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines[:first])


def trials_said(path: Path, *, quick: bool) -> tuple[int, int]:
    """How many trainings and references the head of a study file says."""
    said = re.search(r"Trials: (\d+) trainings? and (\d+) references; --quick: (\d+) and (\d+)\.", head(path))
    assert said
    trainings, references = map(int, said.groups()[2 * quick : 2 * quick + 2])
    return trainings, references


def tasks(data: config.Data) -> list[TaskSpec]:
    """What `datasets.task_specs` would return of the whole set, which need not be there."""
    info = DATASETS[data.name]
    if info.protocol == "protocol1":
        return [TaskSpec(data.name, "obj1", repeat) for repeat in range(data.repeats)]
    names = data.normal_classes or info.classes or range(TASKS_OF_A_FOLDER)
    return [TaskSpec(data.name, str(name)) for name in names]


def plan(path: Path, folder: Path, *, quick: bool) -> Plan:
    file = read.load(path, quick=quick)
    return Plan(file, tasks(file.study.data), "", Results(folder))


def test_there_is_a_file_for_every_data_set_and_every_table_and_figure_that_can_be_reproduced() -> None:
    others = {"robustness_mnist", "robustness_folder", "robustness_both_mnist"}
    others |= {"detectors_mnist", "detectors_cifar10", "detectors_folder", "selection_digits", "selection_mnist"}
    assert {path.stem for path in OTHERS} == set(DATASETS) - {"digits"} | others
    numbers = {match[0] for path in EVERY_PAPER if (match := re.match(r"(table|figure)\d\d", path.stem))}
    wanted = {f"table{number:02}" for number in range(1, 11)}
    assert numbers == wanted | {f"figure{number:02}" for number in (8, 9, 10, 13, 14, 15)}


@long_and_quick
@each_study
def test_the_head_says_how_many_trials_there_are(path: Path, quick: bool, tmp_path: Path) -> None:
    trainings, references = trials_said(path, quick=quick)
    made = plan(path, tmp_path, quick=quick)
    assert made.wanted * len(made.tasks) * len(made.study.seeds) == trainings
    assert len(made.references) == references
    assert made.total == trainings + references


@each_study
def test_the_head_has_the_command_that_runs_it_and_the_schema_that_checks_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"python -m puzzle_study.tune {path.relative_to(ROOT).as_posix()}" in head(path)
    schema = re.search(r"# yaml-language-server: \$schema=(\S+)", text)
    assert schema
    assert (path.parent / schema[1]).resolve() == ROOT / "docs" / "study.schema.json"
    assert max(map(len, text.splitlines())) <= 120


@each_study
def test_the_head_says_where_the_files_go(path: Path) -> None:
    name = read.load(path).study.data.name
    if name == "folder":
        assert "data/mine/train/good" in head(path)
    elif name == "digits":
        assert "nothing to fetch" in head(path)
    elif DATASETS[name].downloads:
        assert f"python -m puzzle_study.data fetch {name}" in head(path)
    else:
        assert "python -m puzzle_study.data list" in head(path)
        assert f"data/{name}" in head(path)


@each_paper_study
def test_a_file_of_the_paper_names_its_table_first(path: Path) -> None:
    match = re.match(r"(table|figure)(\d\d)", path.stem)
    assert match
    assert head(path).startswith(f"{match[1].title()} {int(match[2])} of the paper")
    assert re.search(r"The paper (reports|shows|draws)", head(path))


@each_study
def test_its_classes_exist(path: Path) -> None:
    for quick in (False, True):
        data = read.load(path, quick=quick).study.data
        info = DATASETS[data.name]
        for name in data.normal_classes or ():
            assert info.classes
            assert name in (range(len(info.classes)) if isinstance(name, int) else info.classes)


@long_and_quick
@each_study
def test_no_axis_is_searched_in_vain(path: Path, quick: bool) -> None:
    assert space.inert_axes(read.load(path, quick=quick)) == {}


@each_puzzle_study
def test_quick_is_small(path: Path) -> None:
    study = read.load(path, quick=True).study
    puzzle_ae = own(study.settings())
    side = study.data.size or DATASETS[study.data.name].size
    images = study.data.max_train_images or round(6742 / 12 if study.data.train_fraction < 1 else 58)
    assert puzzle_ae.model.base_channels <= 8
    assert side <= 64
    assert puzzle_ae.train.epochs * max(images, study.data.augment_to or 0) * (side / 28) ** 2 <= 12_000
    if DATASETS[study.data.name].protocol != "protocol1":
        assert (study.data.max_test_images or 0) in range(2, 501)
    if study.attacks is not None:
        assert len(study.attacks.methods) <= 2
        assert (study.attacks.max_images or 500) <= 500


# The numbers in the heads


def row(path: Path) -> paper_values.PaperValues | None:
    """What the report holds beside the default configuration of a study."""
    study = read.load(path).study
    puzzle_ae = own(study.settings())
    conditions = Conditions(
        variant=puzzle_ae.variant,
        grid=puzzle_ae.puzzle.grid,
        train_fraction=study.data.train_fraction,
        max_train_images=study.data.max_train_images,
        grayscale=study.data.grayscale,
    )
    return paper_values.auroc(study.data.name, conditions, aggregation=puzzle_ae.score.aggregation)


TABLES_OF_AUROC = [path for path in PAPER if re.match("table0[1-689]", path.stem)]


@pytest.mark.parametrize("path", TABLES_OF_AUROC, ids=named)
def test_the_head_has_the_mean_and_the_extremes_that_the_paper_prints(path: Path) -> None:
    paper = row(path)
    assert paper
    digits = 1 if "table03" in path.stem else 2
    assert f"{100 * paper.mean:.{digits}f}" in head(path)
    assert int(re.findall(r"\d+", path.stem)[0]) == int(re.findall(r"\d+", paper.source)[0]) or "cifar10" in path.stem
    if paper.by_class and "table08" not in path.stem:
        for value in (min(paper.by_class.values()), max(paper.by_class.values())):
            assert f"{100 * value:.2f}" in head(path)


@each_peer_study
def test_the_head_has_what_the_paper_prints_of_each_detector(path: Path) -> None:
    study = read.load(path).study
    for name in study.detectors:
        paper = paper_values.auroc(study.data.name, Conditions(method=DETECTORS[name].title))
        assert paper
        assert int(path.stem[5:7]) == int(re.findall(r"\d+", paper.source)[0])
        for value in (paper.mean, *(end(paper.by_class.values()) for end in (min, max) if paper.by_class)):
            assert f"{100 * value:.2f}" in head(path)


@each_peer_study
def test_a_peer_has_the_settings_of_its_own_paper_in_float32_and_a_quick_training(path: Path) -> None:
    for quick in (False, True):
        study = read.load(path, quick=quick).study
        for name, found in study.detectors.items():
            default = DETECTORS[name].Settings()
            assert setting_of(study.settings(name), "preset") == ("fast" if quick else "paper")
            assert setting_of(study.settings(name), "train.precision") == "float32"
            if not quick:
                assert found.model_dump() == layers.merge(default.model_dump(), {"train": {"precision": "float32"}})
        if quick:
            assert (study.data.size or 32) <= 64
            assert max(study.data.max_train_images or 500, study.data.max_test_images or 500) <= 200


def test_the_head_of_table_8_is_table_8() -> None:
    text = head(STUDIES / "paper" / "table08_ablation_cifar10.yaml")
    for variant in ("PAE", "CPAE", "CPAE-G"):
        by_way = {
            way: paper_values.auroc("cifar10", Conditions(variant=variant), aggregation=way) for way in AGGREGATIONS
        }
        printed = [f"{100 * paper.mean:.2f}" for way in ("min", "max", "avg") if (paper := by_way[way])]
        assert re.search(rf" {variant} +{' +'.join(printed)} ", text)


def test_the_heads_of_tables_9_and_10_have_the_papers_means() -> None:
    nine = head(STUDIES / "paper" / "table09_data_efficiency_mnist.yaml")
    for method, mean in paper_values.data_efficiency("mnist", Conditions(train_fraction=1 / 12)).items():
        assert f"{100 * mean:.2f}" in nine, method
    ten = head(STUDIES / "paper" / "table10_fpr_mnist.yaml")
    for percent in (99, 99.5):
        values = paper_values.fpr_at_tpr("mnist", percent).values()
        mean = sum(values) / len(values)
        assert any(abs(mean - float(number)) < 2e-4 for number in re.findall(r"0\.\d{4}", ten))
        assert all(f"{value:.4f}" in ten for value in (min(values), max(values)))


def test_table_10_is_of_the_trainings_of_table_1() -> None:
    one, ten = (read.load(STUDIES / "paper" / f"{name}.yaml") for name in ("table01_mnist", "table10_fpr_mnist"))
    detectors = {"puzzle_ae": ten.study.detectors["puzzle_ae"]}
    assert ten.study.model_copy(update={"name": "table01_mnist", "detectors": detectors}) == one.study


# The settings

PAPER_SETTINGS: dict[str, dict[str, Any]] = {
    "mnist": {"train.epochs": 600, "train.adversary.epsilon": 0.1, "score.aggregation": "max"},
    "fashion_mnist": {"train.epochs": 600, "train.adversary.epsilon": 0.07, "score.aggregation": "max"},
    "cifar10": {"train.epochs": 2000, "train.adversary.epsilon": 10 / 255, "score.aggregation": "avg"},
    "coil100": {"train.adversary.epsilon": 10 / 255, "score.aggregation": "avg", "data.repeats": 30},
    "mvtec": {"train.epochs": 3000, "train.adversary.epsilon": 0.01, "score.aggregation": "avg"},
    "head_ct": {"train.adversary.epsilon": 0.07, "score.aggregation": "avg"},
    "brain_mri": {"train.adversary.epsilon": 0.07, "score.aggregation": "avg"},
}
SMALL_BATCHES = ("mvtec", "head_ct", "brain_mri")
EVERYWHERE = {
    "model.base_channels": 64,
    "model.initialisation": "default",
    "train.learning_rate": 1e-3,
    "train.discriminator_learning_rate": 2e-4,
    "train.weight_decay": 1e-5,
    "train.schedule": "plateau",
    "train.plateau_factor": 0.8,
    "train.plateau_patience": 50,
    "train.lambda": 0.02,
    "train.feature_loss": "batch_mean",
    "train.adversary.method": "fgsm",
    "train.adversary.alpha": 2.0,
    "train.adversary.noise": "once",
    "train.adversary.target": "clean",
    "puzzle.per_batch": False,
    "score.error": "l2",
    "score.puzzle_set": "training",
    "score.permutations": "all",
    "data.validation_fraction": 0.15,
    "data.validation_count": None,
    "data.size": None,
}


def differing(study: config.Study, expected: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a study that are not as expected."""
    found = {name: setting_of(study.settings(), name) for name in expected}
    return {name: value for name, value in found.items() if value != expected[name]}


@each_study_of_the_papers_settings
def test_its_settings_are_the_papers(path: Path) -> None:
    study = read.load(path).study
    name = study.data.name
    expected = EVERYWHERE | {"train.batch_size": 8 if name in SMALL_BATCHES else 128} | PAPER_SETTINGS[name]
    expected |= {
        "data.augment_to": 800 if name == "mvtec" else None,
        "data.train_fraction": 1 / 12 if "table09" in path.stem else 1,
        "puzzle.grid": 3 if path.stem.endswith("_9") else 2,
        "preset": "paper",
        "train.precision": "float32" if path in PAPER else "auto",
    }
    assert not differing(study, expected)
    assert study.selection == "pseudo_anomalies"
    assert DATASETS[name].size == {"mnist": 28, "fashion_mnist": 28, "cifar10": 32, "brain_mri": 256}.get(name, 128)


AUTHORS = {
    "train.feature_loss": "elementwise",
    "train.adversary.noise": "twice",
    "train.adversary.target": "noisy",
    "train.adversary.alpha": 2.0,
    "puzzle.per_batch": True,
    "score.error": "mse",
    "score.puzzle_set": "all",
}
AUTHORS_COUNT = {"mnist": 851, "fashion_mnist": 851, "cifar10": 851, "mvtec": 25}


@each_study_of_the_papers_settings
def test_no_study_file_stands_in_the_way_of_the_authors_preset(path: Path) -> None:
    study = read.load(path, assignments=[of_puzzle_ae(path, "preset=authors_code")]).study
    name = study.data.name
    plateau = (0.5, 30) if name == "mnist" else (0.8, 50)
    expected = AUTHORS | {
        # A preset of one of several detectors does not change the images, which are those of all.
        "data.validation_count": AUTHORS_COUNT.get(name, 5) if path in OF_ONE else None,
        "data.size": 128 if name == "brain_mri" else None,
        "train.batch_size": 8 if name in SMALL_BATCHES else 64,
        "train.plateau_factor": plateau[0],
        "train.plateau_patience": plateau[1],
        "train.precision": "float32",
    }
    assert not differing(study, expected)


@long_and_quick
@pytest.mark.parametrize(
    "path", [path for path in PAPER if path in OF_ONE and ("mnist" in path.stem or "cifar" in path.stem)], ids=named
)
def test_the_authors_count_of_validation_images_fits_or_gives_way(path: Path, quick: bool) -> None:
    """5,000 images of a class, as CIFAR-10 has and MNIST at least."""
    study = read.load(path, quick=quick, assignments=[of_puzzle_ae(path, "preset=authors_code")]).study
    axis = study.search.space.get("data.train_fraction") if study.search else None
    fraction = min(axis.values) if axis else study.data.train_fraction
    few = min(round(5000 * fraction), study.data.max_train_images or 5000)
    found = Decoded(
        images_NCHW=np.zeros((5002, 1, 1, 1), dtype=np.uint8),
        names=tuple(map(str, range(5002))),
        classes=(*["8"] * 5001, "0"),
        parts=(*["train"] * 5000, "test", "test"),
        groups=np.arange(5002),
    )
    data = study.data.model_copy(update={"train_fraction": fraction})
    chosen = protocols.split(found, TaskSpec(data.name, "8"), data, protocol="official", where="somewhere")
    gives_way = fraction < 1 or few <= 851
    assert len(chosen.train) + len(chosen.validation) == few
    if not quick:
        assert len(chosen.validation) == (round(0.15 * few) if gives_way else 851)
    assert (space.validation_note(study) is not None) is gives_way


@pytest.mark.parametrize("name", ["table02_mvtec", "table06_rot_ae"])
def test_a_table_over_all_categories_refuses_a_folder_that_lacks_one(name: str, images: Path) -> None:
    study = read.load(STUDIES / "paper" / f"{name}.yaml", assignments=[f"data.root={images}"]).study
    assert len(study.data.normal_classes or ()) == 15
    with pytest.raises(UserError, match="folder of category 'capsule' is not there"):
        datasets.task_specs(study.data)


@each_paper_study
def test_a_table_is_evaluated_at_every_epoch_so_that_the_last_20_evaluations_are_the_last_20_epochs(path: Path) -> None:
    study = read.load(path).study
    if path.stem.startswith("table") and study.data.name != "coil100":  # whose table has no deviation
        assert study.evaluate.every == 1
    assert study.evaluate.max_images in (None, 1000)


def test_the_robustness_study_is_figure_10_over_training_adversaries(tmp_path: Path) -> None:
    file = read.load(STUDIES / "robustness_mnist.yaml")
    figure = read.load(STUDIES / "paper" / "figure10_mnist.yaml").study
    made = plan(STUDIES / "robustness_mnist.yaml", tmp_path, quick=False)
    assert file.study.search
    found = set()
    for values in space.grid(file, file.study.search):
        adversary = own(file.configuration(values)).train.adversary
        found.add((adversary.method, adversary.epsilon if adversary.method != "none" else 0, adversary.alpha))
    assert found == {
        ("none", 0, 2.0),
        *(("fgsm", epsilon, 2.0) for epsilon in (0.05, 0.1, 0.2)),
        *(("pgd", epsilon, 0.04) for epsilon in (0.05, 0.1, 0.2)),
    }
    assert made.wanted == 7
    assert len(file.study.seeds) >= 3
    assert file.study.attacks
    assert figure.attacks
    assert file.study.data.normal_classes == figure.data.normal_classes == (8,)
    for name in ("attacks", "epsilons", "target"):
        assert getattr(file.study.attacks, name) == getattr(figure.attacks, name)
    assert figure.attacks.epsilons == (0.05, 0.1, 0.2)
    assert {"fgsm", "pgd", "noise"} == set(figure.attacks.methods) < set(file.study.attacks.methods)


# Variants and puzzle sets, down to what is trained


def resolved(text: str, tmp_path: Path) -> PuzzleSettings:
    path = tmp_path / "study.yaml"
    path.write_text(text + "\nmodel: {base_channels: 1}\n", encoding="utf-8")
    return own(read.load(path).study.settings())


@pytest.mark.parametrize(
    ("variant", "hidden", "discriminates", "transformations"),
    [("PAE", None, False, 23), ("CPAE", "gray", False, 23), ("CPAE-G", "gray", True, 23), ("Rot-AE", "gray", True, 3)],
)
def test_a_variant_trains_what_the_paper_says(
    variant: str, hidden: str | None, discriminates: bool, transformations: int, tmp_path: Path
) -> None:
    settings = resolved(f"data: {{name: cifar10}}\nvariant: {variant}", tmp_path)
    trainer = Trainer(settings, Context(Shape(3, 32, 32), 0, CPU, "float32", "cifar10", "ship"))
    made = trainer.puzzler.puzzles
    assert trainer.hide == hidden
    assert (trainer.discriminator is not None) is discriminates
    assert len(made) == transformations
    assert (made.kind == "rotation") is (variant == "Rot-AE")
    assert settings.train.adversary.method == "fgsm"


@pytest.mark.parametrize(
    ("preset", "category", "training", "scoring"),
    [
        ("paper", "carpet", 6, 6),
        ("paper", "bottle", 23, 23),
        ("authors_code", "carpet", 6, 23),
        ("authors_code", "bottle", 23, 23),
    ],
)
def test_textures_have_six_permutations_and_the_authors_score_them_with_all(
    preset: str, category: str, training: int, scoring: int, tmp_path: Path
) -> None:
    settings = resolved(f"data: {{name: mvtec}}\npreset: {preset}", tmp_path)
    made = puzzles.puzzle_set(settings.puzzle, normal_class=category, dataset="mvtec")
    assert (len(made), len(scoring_set(settings, made))) == (training, scoring)


# With images


@pytest.fixture
def images(layouts_root: Path) -> Path:
    """Small sets in the original layouts."""
    layouts = Layouts(layouts_root)
    layouts.mnist()
    layouts.mnist("fashion_mnist")
    layouts.cifar_python()
    layouts.coil(angles=range(0, 360, 30))
    layouts.categories(categories=("bottle", "carpet", "hazelnut", "toothbrush", "transistor"))
    layouts.head_ct()
    layouts.brain_mri()
    layouts.category(layouts_root / "mine")
    return layouts_root


@pytest.fixture
def layouts_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, with a cache of its own."""
    monkeypatch.setenv("PUZZLE_STUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


TINY: Mapping[str, Any] = {
    "train.epochs": 1,
    "train.precision": "float32",
    "model.base_channels": 4,
    "evaluate.views": 3,
    "data.size": 32,
    "data.max_train_images": 4,
    "data.max_test_images": 6,
    "data.augment_to": "null",
}


@pytest.mark.slow
def test_every_quick_section_trains_and_scores_images_in_the_sets_own_layout(images: Path, tmp_path: Path) -> None:
    seen = set()
    for path in OF_ONE:
        root = images / "mine" if path.stem == "folder" else images
        assignments = [f"{name}={value}" for name, value in {**TINY, "data.root": root}.items()]
        if "coil100" in path.stem:
            assignments.append("data.normal_classes=[1, 2]")  # of a hundred, three are here
        file = read.load(path, quick=True, assignments=assignments)
        puzzle_ae = own(file.study.settings())
        kind = (file.study.data.name, puzzle_ae.variant, puzzle_ae.puzzle)
        if kind in seen:
            continue
        seen.add(kind)
        spec = datasets.task_specs(file.study.data)[0]
        trial = TrialSpec(file.study.settings(), spec, 0, datasets.fingerprint(file.study.data))
        record = run(trial, Results(tmp_path / path.stem), device=CPU)
        assert record.finished, (path, record.error)
        assert (record.value(puzzle_ae.reading, "n") or 0) > 0
    assert len(seen) == 10  # eight sets and folder make eight, Rot-AE and nine pieces two more


@pytest.mark.slow
@pytest.mark.parametrize("path", OVER_DETECTORS, ids=named)
def test_every_detector_of_a_study_over_detectors_trains_in_its_quick_form(
    path: Path, images: Path, tmp_path: Path
) -> None:
    root = images / "mine" if "folder" in path.stem else images
    few = {name: value for name, value in TINY.items() if name.startswith("data.")} | {"data.root": root}
    file = read.load(path, quick=True, assignments=[f"{name}={value}" for name, value in few.items()])
    task = datasets.task_specs(file.study.data)[0]
    for name in file.study.detectors:
        trial = TrialSpec(file.study.settings(name), task, 0, datasets.fingerprint(file.study.data))
        record = run(trial, Results(tmp_path / name), device=CPU)
        assert record.finished, (name, record.error)


@long_and_quick
@pytest.mark.parametrize(
    "name", ["mnist", "paper/table01_mnist", "robustness_mnist", "cifar10", "paper/figure08_cifar10"]
)
def test_a_dry_run_on_the_real_set_prints_what_the_head_says(
    name: str, quick: bool, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = STUDIES / f"{name}.yaml"
    root = SHARED / ("cifar10/cifar-10-batches-py-200" if "cifar" in name else "mnist")
    if not root.is_dir():
        pytest.skip(f"needs real images, which are not at {root}")
    monkeypatch.setenv("PUZZLE_STUDY_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-studies"))
    monkeypatch.setattr("puzzle_study.study.forecast.MEASURED_SECONDS", 0.01)
    result = CliRunner().invoke(
        tune.main,
        [
            *(str(path), "--dry-run", *(["--quick"] if quick else [])),
            *("--set", f"data.root={root}", "--set", of_puzzle_ae(path, "model.base_channels=4")),
        ],
    )
    assert result.exit_code == 0, result.output
    trainings, references = trials_said(path, quick=quick)
    assert re.search(rf"^{trainings} trainings?: .* and {references} references$", result.output, re.M)
    assert "cannot matter" not in result.output
    assert re.search(r"^time: about \d", result.output, re.M)
