"""Which settings name a trial: those that can change its training or its error matrices, and no others.

What is called inert is held against trainings: two settings that share a key leave bit-equal weights.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puzzle_study.config.forms import Form
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors.puzzle_ae.detector import scoring_set
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.trials.spec import TrialSpec, inert_settings

from . import tiny

Values = dict[str, Any]

NAMES = Form(("puzzle_ae",), several=False).setting_names()
NINE = {"puzzle.grid": 3}
PGD = {"train.adversary.method": "pgd"}

ONE_CYCLE, ROBUST = {"train.schedule": "one_cycle"}, {"evaluate.robust.epsilon": 0.2}
SWAPPED, NINE_SWAPPED = {"puzzle.permutations": "two_swapped"}, {**NINE, "puzzle.permutations": "two_swapped"}
WITHOUT, CALM = {"train.lambda": 0.0}, {"train.adversary.method": "none"}
CONSTANT, ROTATION = {"train.schedule": "constant"}, {"puzzle.kind": "rotation"}


def changes(base: Values, *changed: Values) -> list[tuple[Values, Values]]:
    """Each setting of each change alone, beside the same others."""
    return [(base, {name: value}) for values in changed for name, value in values.items()]


MATTER = [
    *changes({}, {
        "data.name": "mnist", "data.size": 28, "data.validation_fraction": 0.2, "data.validation_count": 20,
        "data.train_fraction": 0.5, "data.grayscale": True, "data.max_train_images": 20, "data.max_test_images": 20,
        "data.augment_to": 100, "data.augment": ["shift"], "data.split_seed": 1,
        "puzzle.kind": "rotation", "puzzle.grid": 3, "puzzle.permutations": "two_swapped", "puzzle.hide": "none",
        "puzzle.per_batch": True,
        "model.base_channels": 3, "model.discriminator_channels": 3, "model.initialisation": "he",
        "train.epochs": 3, "train.batch_size": 3, "train.learning_rate": 2e-3,
        "train.discriminator_learning_rate": 1e-3, "train.weight_decay": 0.0, "train.schedule": "one_cycle",
        "train.averaging": 0.99, "train.plateau_factor": 0.5, "train.plateau_patience": 1, "train.lambda": 0.1,
        "train.feature_loss": "elementwise", "train.convergence_epochs": 1, "train.precision": "bfloat16",
        "train.adversary.method": "none", "train.adversary.epsilon": 0.2, "train.adversary.alpha": 0.05,
        "train.adversary.noise": "twice", "train.adversary.target": "noisy",
        "evaluate.views": 5,
        "evaluate.every": 1, "evaluate.max_images": 100, "evaluate.selection": True, "evaluate.robust.epsilon": 0.2,
        "evaluate.corrupted.severity": 3,
    }),
    *changes(NINE, {"puzzle.count": 5, "puzzle.seed": 1}),
    *changes(ONE_CYCLE, {"train.warm_up": 0.3}),
    *changes(PGD, {"train.adversary.steps": 3, "train.adversary.alpha": 1.0}),
    *changes(SWAPPED, {"score.puzzle_set": "all"}),
    *changes(ROBUST, {"evaluate.robust.method": "pgd", "evaluate.robust.max_images": 10}),
    *changes({"evaluate.robust.method": "pgd"}, {"evaluate.robust.steps": 3}),
    *changes(
        {"evaluate.corrupted.severity": 3},
        {"evaluate.corrupted.kinds": ["shift"], "evaluate.corrupted.max_images": 10},
    ),
]  # fmt: skip

UNTRAINED = changes({}, {
    "preset": "fast", "variant": "CPAE", "data.root": "/elsewhere", "data.normal_classes": [3, 5], "data.repeats": 5,
    "score.error": "mse", "score.aggregation": "min", "score.permutations": 6,
})  # fmt: skip

OF_NINE = {"puzzle.count": 3, "puzzle.seed": 3}
OF_PLATEAUS = {"train.plateau_factor": 0.1, "train.plateau_patience": 1}
INERT = [
    *changes(WITHOUT, {"train.feature_loss": "elementwise", "train.discriminator_learning_rate": 0.1}),
    *changes(WITHOUT, {"model.discriminator_channels": 5}),
    *changes(CALM, {"train.adversary.epsilon": 0.3, "train.adversary.alpha": 0.01, "train.adversary.steps": 2}),
    *changes(CALM, {"train.adversary.noise": "twice", "train.adversary.target": "noisy"}),
    *changes(ROBUST, {"evaluate.robust.steps": 2}),
    *changes({}, {"train.adversary.steps": 2, "train.warm_up": 0.3}, OF_NINE),
    *changes({}, {"train.adversary.alpha": 0.5}, {"train.adversary.alpha": 0.2}),
    *changes({"train.adversary.noise": "twice"}, {"train.adversary.alpha": 0.2}),
    *changes(
        {"train.adversary.target": "noisy", "train.adversary.epsilon": "10/255"}, {"train.adversary.alpha": 20 / 255}
    ),
    *changes(ONE_CYCLE, OF_PLATEAUS),
    *changes(CONSTANT, OF_PLATEAUS, {"train.warm_up": 0.3}),
    *changes(ROTATION, {"puzzle.grid": 3, "puzzle.permutations": "two_swapped"}, OF_NINE),
    *changes(NINE_SWAPPED, OF_NINE),
]


def named(case: tuple[Values, Values]) -> str:
    return "-".join(f"{name}={value}" for part in case for name, value in part.items())


def same(base: Values, change: Values) -> bool:
    """Whether a change leaves the name of a trial and of its configuration as they are."""
    one, other = tiny.trial(base), tiny.trial(base | change)
    assert (one.key == other.key) == (one.configuration == other.configuration)
    return one.key == other.key


@pytest.mark.parametrize("case", MATTER, ids=named)
def test_a_setting_that_matters_makes_another_trial(case: tuple[Values, Values]) -> None:
    base, change = case
    assert not same(base, change)
    assert not set(change) & set(inert_settings(tiny.settings(base | change)))


@pytest.mark.parametrize("case", UNTRAINED, ids=named)
def test_what_is_no_part_of_training_makes_no_other_trial(case: tuple[Values, Values]) -> None:
    assert same(*case)


@pytest.mark.parametrize("case", INERT, ids=named)
def test_an_inert_setting_makes_no_other_trial_and_is_told_with_its_reason(case: tuple[Values, Values]) -> None:
    base, change = case
    assert same(base, change)
    inert = inert_settings(tiny.settings(base | change))
    assert all(inert.get(name) for name in change)


@pytest.mark.parametrize("case", INERT, ids=named)
def test_an_inert_setting_really_leaves_bit_equal_weights_losses_and_errors(case: tuple[Values, Values]) -> None:
    base, change = case
    data, test = tiny.images(6), tiny.images(2, seed=1)
    found = []
    for values in (base, base | change):
        settings = tiny.settings({"model.initialisation": "he", "train.epochs": 1, **values})
        trained, losses = tiny.train(settings, data)
        detector = tiny.detector(scoring_set(tiny.own(settings), tiny.puzzle_set(settings)))
        detector.network = trained.network
        found.append((trained.network.state_dict(), losses, detector.error_matrix(test)))
    assert tiny.same_state(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert torch.equal(found[0][2], found[1][2])


def test_every_setting_of_a_configuration_is_in_a_table_above() -> None:
    """A new setting needs the decision whether it names a trial."""
    decided = {name for _, change in (*MATTER, *UNTRAINED, *INERT) for name in change}
    assert set(NAMES) == decided


DECIDING: dict[str, list[Any]] = {
    "puzzle.kind": ["jigsaw", "rotation"],
    "puzzle.grid": [2, 3],
    "puzzle.permutations": ["auto", "two_swapped"],
    "train.lambda": [0.0, 0.02],
    "train.schedule": ["plateau", "one_cycle", "constant"],
    "train.adversary.method": ["none", "fgsm", "pgd"],
    "train.adversary.epsilon": [0.01, 0.1],
    "train.adversary.alpha": [0.05, 2.0],
    "puzzle.per_batch": [False, True],
    "train.averaging": [0.0, 0.5],
}


@tiny.examples(200)
@given(values=st.fixed_dictionaries({name: st.sampled_from(options) for name, options in DECIDING.items()}))
def test_what_is_inert_is_decided_by_few_settings(values: Values) -> None:
    whole = inert_settings(tiny.settings(values))
    for name in NAMES:
        deciding = PuzzleSettings.INERT_BY.get(name.rpartition(".")[0], ())
        few = {other: value for other, value in values.items() if other in deciding}
        assert inert_settings(tiny.settings(few)).get(name) == whole.get(name)


@pytest.mark.parametrize(("alpha", "epsilon"), [(0.19, 0.1), (0.1, 0.1), (0.001, 0.1)])
def test_alpha_below_two_epsilon_matters(alpha: float, epsilon: float) -> None:
    values = {"train.adversary.alpha": alpha, "train.adversary.epsilon": epsilon}
    assert "train.adversary.alpha" not in inert_settings(tiny.settings(values))
    assert tiny.trial(values).key != tiny.trial(values | {"train.adversary.alpha": 0.15}).key
    assert tiny.trial(values).key != tiny.trial(values | {"train.adversary.alpha": 2.0}).key


def test_seed_task_detector_and_images_name_a_trial() -> None:
    one = tiny.trial()
    others = [
        tiny.trial(seed=1),
        tiny.trial(kind="untrained"),
        tiny.trial(kind="pca"),
        TrialSpec(one.settings, TaskSpec("digits", "4"), one.seed, one.fingerprint),
        TrialSpec(one.settings, TaskSpec("digits", "3", 1), one.seed, one.fingerprint),
        TrialSpec(one.settings, one.task, one.seed, "1" * 16),
    ]
    assert len({spec.key for spec in (one, *others)}) == 1 + len(others)


def test_the_configuration_is_the_same_for_every_seed_and_task() -> None:
    one = tiny.trial()
    other = TrialSpec(one.settings, TaskSpec("digits", "4"), 7, one.fingerprint)
    assert one.configuration == other.configuration
    assert len({tiny.trial(kind=kind).configuration for kind in DETECTORS}) == len(DETECTORS)


def test_every_task_and_seed_trains_from_a_seed_of_its_own_that_configurations_share() -> None:
    one = tiny.trial()
    tasks = [TaskSpec("digits", "3"), TaskSpec("digits", "4"), TaskSpec("mnist", "3"), TaskSpec("digits", "3", 1)]
    seeds = {TrialSpec(one.settings, task, seed, one.fingerprint).training_seed for task in tasks for seed in range(3)}
    assert len(seeds) == 12
    assert one.training_seed == tiny.trial({"train.lambda": 0.5}).training_seed
    assert one.training_seed == tiny.trial(kind="untrained").training_seed
    # The same on every machine and in every version, or RECORD_FORMAT + 1.
    assert one.training_seed == 95378782115124650


@pytest.mark.parametrize("reference", ["pca", "nearest_neighbour", "one_class_svm"])
def test_a_reference_depends_on_the_data_section_alone(reference: str) -> None:
    base = tiny.trial(kind=reference).key
    assert base == tiny.trial({"train.epochs": 9, "puzzle.grid": 3, "model.base_channels": 5}, kind=reference).key
    assert base != tiny.trial({"data.split_seed": 1}, kind=reference).key


@pytest.mark.parametrize(("kind", "same"), [("pca", True), ("untrained", False), ("puzzle_ae", False)])
def test_fewer_views_name_trials_of_detectors_that_have_views(kind: str, same: bool) -> None:
    assert (tiny.trial(kind=kind).key == tiny.trial({"evaluate.views": 5}, kind=kind).key) == same


def test_a_trial_survives_the_way_to_a_worker() -> None:
    spec = tiny.trial({"data.normal_classes": [3, "5"], "train.adversary.epsilon": "8/255", "score.permutations": 6})
    sent = TrialSpec.from_json(spec.to_json())
    assert sent == spec
    assert sent.key == spec.key
    assert (len(spec.key), len(spec.configuration)) == (12, 8)
