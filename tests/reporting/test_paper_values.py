"""The paper's values come from the right table, row and class."""

from __future__ import annotations

import pytest

from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.reporting import paper_values
from puzzle_study.reporting.paper_values import Conditions

TWELFTH = Conditions(train_fraction=1 / 12)


@pytest.mark.parametrize(
    ("dataset", "conditions", "aggregation", "source", "normal_class", "value", "mean"),
    [
        ("mnist", Conditions(), "max", "Table 1", "8", 0.9414, 0.980),
        ("mnist", Conditions(grayscale=True), "max", "Table 1", "8", 0.9414, 0.980),
        ("mnist", Conditions(max_train_images=1200), "max", "Table 1", "8", 0.9414, 0.980),
        ("mnist", Conditions(train_fraction=0.0833), "max", "Table 9", "8", 0.8981, 0.949),
        ("cifar10", Conditions(), "avg", "Table 8, CPAE-G, avg", "8", 0.8334, 0.7247),
        ("cifar10", Conditions(variant="PAE"), "min", "Table 8, PAE, min", "0", 0.7632, 0.6951),
        ("mvtec", Conditions(), "avg", "Table 2", "bottle", 0.9424, 0.7763),
        ("mvtec", Conditions(variant="Rot-AE"), "avg", "Table 6, Rot-AE", "bottle", 0.9096, 0.7649),
    ],
)
def test_values_by_class(
    dataset: str,
    conditions: Conditions,
    aggregation: str,
    source: str,
    normal_class: str,
    value: float,
    mean: float,
) -> None:
    found = paper_values.auroc(dataset, conditions, aggregation=aggregation)
    assert found is not None
    assert (found.source, found.last20) == (source, True)
    assert found.by_class[normal_class] == pytest.approx(value)
    assert found.mean == pytest.approx(mean)


@pytest.mark.parametrize(
    ("method", "dataset", "source", "bottle", "mean"),
    [
        ("RotNet", "mvtec", "Table 6, RotNet", 0.431, 0.6187),
        ("Jigsaw", "mvtec", "Table 6, Jigsaw puzzle", 0.3841, 0.3793),
        ("GT", "mvtec", "Table 5, GT", None, 0.6706),
        ("GT", "cifar10", "Table 5, GT", None, 0.823),
    ],
)
def test_classifiers_of_transformations_have_tables_5_and_6(
    method: str, dataset: str, source: str, bottle: float | None, mean: float
) -> None:
    found = paper_values.auroc(dataset, Conditions(method=method, grid=3))
    assert found is not None
    assert found.source == source
    assert found.by_class.get("bottle") == pytest.approx(bottle)
    assert found.mean == pytest.approx(mean)
    assert paper_values.auroc(dataset, Conditions(method=method, grayscale=True)) is None
    assert paper_values.auroc("mnist", Conditions(method="RotNet")) is None


@pytest.mark.parametrize(
    ("method", "dataset", "fraction", "source", "normal_class", "value"),
    [
        ("LSA", "mnist", 1.0, "Table 1, LSA", "8", 0.953),
        ("LSA", "mnist", 1 / 12, "Table 9, LSA", "8", 0.7656),
        ("DSVDD", "cifar10", 1.0, "Table 1, DSVDD", "1", 0.659),
        ("one-class SVM", "fashion_mnist", 1.0, "Table 1, OCSVM", "1", 0.99),
        ("AE-SSIM", "mvtec", 1.0, "Table 2, AE-SSIM", "bottle", 0.88),
        ("LSA", "head_ct", 1.0, "Table 4, LSA", "0", 0.8167),
    ],
)
def test_other_detectors_have_the_rows_that_the_paper_prints_of_them(
    method: str, dataset: str, fraction: float, source: str, normal_class: str, value: float
) -> None:
    found = paper_values.auroc(dataset, Conditions(method=method, train_fraction=fraction))
    assert found is not None
    assert found.source == source
    assert found.by_class[normal_class] == pytest.approx(value)
    assert paper_values.auroc(dataset, Conditions(method="PatchCore")) is None


def test_a_row_that_cannot_be_right_says_so() -> None:
    found = paper_values.auroc("fashion_mnist", Conditions(method="DSVDD"))
    assert found is not None
    assert "OCSVM in another order" in found.source


def test_nine_parts_are_told_apart() -> None:
    four, nine = (paper_values.auroc("fashion_mnist", Conditions(grid=grid)) for grid in (2, 3))
    assert four is not None
    assert nine is not None
    assert len(four.by_class) == len(nine.by_class) == 10
    assert four != nine


def test_coil_has_a_mean_over_draws_only() -> None:
    found = paper_values.auroc("coil100")
    assert found is not None
    assert not found.by_class
    assert not found.last20
    assert found.mean == pytest.approx(0.993)


@pytest.mark.parametrize(
    ("dataset", "mean", "spread", "fpr"), [("head_ct", 0.8643, 0.0004, 0.7), ("brain_mri", 0.9634, 0.00031, 0.5)]
)
def test_table_4_has_its_spread_and_an_fpr_whose_tpr_it_does_not_state(
    dataset: str, mean: float, spread: float, fpr: float
) -> None:
    found, number = paper_values.auroc(dataset), paper_values.class_number(dataset, "normal")
    assert found is not None
    assert found.last20
    assert found.by_class == pytest.approx({number: mean})
    assert found.spread == pytest.approx({number: spread})
    assert paper_values.fpr_at_unstated_tpr(dataset) == {number: fpr}
    assert paper_values.fpr_at_tpr(dataset, 99) == paper_values.fpr_at_unstated_tpr("mnist") == {}


def test_fewer_images_epochs_channels_or_pixels_are_a_fraction_of_the_budget() -> None:
    whole = {"train.epochs": 600, "model.base_channels": 64}
    assert paper_values.fraction_of_budget(PuzzleSettings, "mnist", whole.get) == ""
    less = {"train.epochs": 6, "model.base_channels": 8, "data.size": 16, "data.max_train_images": 1200}
    assert paper_values.fraction_of_budget(PuzzleSettings, "mnist", less.get) == (
        "6 of 600 epochs, 8 of 64 base channels, 16 of 28 pixels a side, at most 1200 training images"
    )


@pytest.mark.parametrize(("dataset", "variant"), [("digits", "CPAE-G"), ("folder", "CPAE-G"), ("mnist", "PAE")])
def test_nothing_where_the_paper_has_nothing(dataset: str, variant: str) -> None:
    assert paper_values.auroc(dataset, Conditions(variant=variant)) is None


@pytest.mark.parametrize(
    ("dataset", "conditions", "text"),
    [
        ("mnist", Conditions(grid=3), "puzzle.grid 3"),
        ("cifar10", Conditions(grid=3), "puzzle.grid 3"),
        ("cifar10", TWELFTH, "data.train_fraction 0.0833"),
        ("cifar10", Conditions(grayscale=True), "data.grayscale"),
        ("mnist", Conditions(train_fraction=1 / 12, grid=3), "puzzle.grid 3, data.train_fraction 0.0833"),
        ("fashion_mnist", Conditions(max_train_images=500, variant="PAE"), "variant PAE"),
        ("mnist", Conditions(variant="PAE"), "variant PAE"),
    ],
)
def test_nothing_where_the_settings_are_not_the_papers(dataset: str, conditions: Conditions, text: str) -> None:
    assert paper_values.auroc(dataset, conditions) is None
    assert paper_values.missing_auroc(dataset, conditions) == f"The paper has no AUROC for {dataset} with {text}."
    assert paper_values.fpr_at_tpr(dataset, 99, conditions) == {}


def test_nothing_is_missing_where_the_paper_has_a_value_or_none_of_the_set() -> None:
    assert paper_values.missing_auroc("mnist", TWELFTH) == ""
    assert paper_values.missing_auroc("digits", Conditions(grid=3)) == ""
    assert paper_values.missing_fpr("cifar10", Conditions(grid=3)) == ""
    missing = paper_values.missing_fpr("mnist", Conditions(variant="PAE"))
    assert missing == "The paper has no FPR for mnist with variant PAE."


@pytest.mark.parametrize(
    ("dataset", "name", "number"),
    [
        *(("cifar10", "ship", "8"), ("fashion_mnist", "Sandal", "5"), ("mnist", "3", "3")),
        *(("mvtec", "bottle", "bottle"), ("unknown", "x", "x")),
    ],
)
def test_classes_by_name_and_by_number(dataset: str, name: str, number: str) -> None:
    assert paper_values.class_number(dataset, name) == number


def test_operating_points_and_data_efficiency() -> None:
    assert paper_values.fpr_at_tpr("mnist", 99)["8"] == pytest.approx(0.7156)
    assert paper_values.fpr_at_tpr("mnist", 99.5)["0"] == pytest.approx(0.0694)
    assert paper_values.fpr_at_tpr("mnist", 95) == {}
    assert paper_values.fpr_at_tpr("digits", 99) == {}
    means = {"LSA": 0.8889, "DSVDD": 0.9261, "Puzzle-AE": 0.949}
    assert paper_values.data_efficiency("mnist", TWELFTH) == pytest.approx(means)
    assert paper_values.data_efficiency("mnist", Conditions()) == {}
    assert paper_values.data_efficiency("digits", TWELFTH) == {}


def test_deviations_are_those_printed_for_the_same_row() -> None:
    """Table 1 prints CIFAR-10's avg again, with its ±; Table 8 prints none."""
    avg, largest = (paper_values.auroc("cifar10", aggregation=way) for way in ("avg", "max"))
    twelfth = paper_values.auroc("mnist", TWELFTH)
    assert avg
    assert largest
    assert twelfth
    assert len(avg.spread) == 10
    assert not largest.spread
    assert twelfth.spread["3"] == pytest.approx(0.01056)
