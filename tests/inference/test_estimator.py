"""The estimators and ``puzzle_study.load`` on arrays and tensors."""

from __future__ import annotations

import csv
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import puzzle_study
from puzzle_study import PuzzleAE, cli, score
from puzzle_study.config import read
from puzzle_study.detectors.files import DESCRIPTION, WEIGHTS, load_detector
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import Calibration
from puzzle_study.inference.estimator import DetectorEstimator, estimator

from ..core import tiny
from .pictures import pixels, write_many

SMALL: dict[str, Any] = {
    "model.base_channels": 2,
    "train.epochs": 1,
    "train.batch_size": 8,
    "train.precision": "float32",
    "puzzle.permutations": "two_swapped",
}
IMAGES = tiny.images(24).numpy()
NEW = tiny.images(6, seed=9).numpy()


def small(values: Mapping[str, Any] = {}, **parameters: Any) -> PuzzleAE:
    """Puzzle-AE that is fitted in no time, with these settings."""
    return PuzzleAE(settings={**SMALL, **values}, **{"random_state": 0, **parameters})


@pytest.fixture(scope="module")
def fitted() -> DetectorEstimator:
    return small().fit(IMAGES)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_is_fitted_predicts_and_scores_alike_when_saved_or_pickled(name: str, tmp_path: Path) -> None:
    normal, noise = tiny.images(40).numpy(), np.random.default_rng(0).integers(0, 256, NEW.shape, dtype=np.uint8)
    found = estimator(name)(settings=DETECTORS[name].Settings.SMALL, random_state=0).fit(normal)
    assert isinstance(found.detector_, DETECTORS[name])
    assert set(found.predict(np.concatenate([normal, noise]))) == {-1, 1}
    assert found.predict(normal).mean() > found.predict(noise).mean()
    found.save(tmp_path / "saved")
    loaded = puzzle_study.load(tmp_path / "saved")
    assert type(loaded) is type(found) is puzzle_study.estimator(name)
    for other in (loaded, pickle.loads(pickle.dumps(found)), clone(found).fit(normal)):
        np.testing.assert_array_equal(other.score_samples(NEW), found.score_samples(NEW))
        np.testing.assert_array_equal(other.predict(noise), found.predict(noise))
    write_many(tmp_path / "images", 2)
    result = CliRunner().invoke(score.main, [str(tmp_path / "saved"), str(tmp_path / "images")])
    scores = [float(row["score"]) for row in csv.DictReader(io.StringIO(result.stdout))]
    assert scores == pytest.approx(-loaded.score_samples(np.stack([pixels(0), pixels(1)])), rel=1e-4)
    # New normal images, here darker ones, set the scale and the threshold anew.
    found.recalibrate(normal // 2).save(tmp_path / "renewed")
    renewed = puzzle_study.load(tmp_path / "renewed")
    np.testing.assert_array_equal(renewed.score_samples(NEW), found.score_samples(NEW))
    assert (renewed.predict(normal // 2) == -1).sum() == 1  # two of forty, less what so few cannot promise
    assert not np.array_equal(renewed.score_samples(NEW), loaded.score_samples(NEW))


@pytest.mark.parametrize("name", DETECTORS)
def test_its_settings_have_the_defaults_that_own_images_have_in_a_study_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"detector: {name}\ndata: {{name: folder}}\n", encoding="utf-8")
    study = read.load(tmp_path / "own.yaml").study
    assert estimator(name)().resolved(channels=3).own == study.detectors[name]


def test_settings_are_nested_or_dotted_and_numbers_of_numpy_as_a_grid_search_gives_them() -> None:
    nested = {"train": {"epochs": np.int64(3), "adversary": {"epsilon": np.float64(0.1)}}, "puzzle.per_batch": True}
    dotted = {"train.epochs": 3, "train.adversary.epsilon": 0.1, "puzzle": {"per_batch": np.bool_(True)}}
    one, other = (PuzzleAE(settings=values).resolved(channels=1) for values in (nested, dotted))
    assert one == other
    assert tiny.own(one).train.adversary.epsilon == 0.1


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"puzzle.grid": 5}, r"puzzle\.grid must be 2 or 3, got 5"),
        ({"train.epochs": -1}, r"train\.epochs must be greater than or equal to 0, got -1"),
        ({"train": {"lambda": -0.5}}, r"train\.lambda must be greater than or equal to 0, got -0\.5"),
        ({"score.permutations": 0}, "^score: permutations must be `all` or at least 1$"),
        ({"score.permutations": "few"}, r"^score\.permutations must be .*, got 'few'$"),
        ({"score.aggregation": "median"}, r"score\.aggregation must be .*'min', 'avg', 'max', got 'median'"),
        ({"epochs": 3}, r"epochs is not a setting of Puzzle-AE; did you mean train\.epochs\?"),
        ({"evaluate.every": 3}, r"evaluate\.every is not a setting of Puzzle-AE"),
    ],
)
def test_a_setting_that_is_not_right_is_named_when_fitting(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small(values).fit(IMAGES)


@pytest.mark.parametrize(("name", "value"), [("contamination", 0.7), ("validation_fraction", 1.5)])
def test_a_parameter_out_of_its_range_is_named_when_fitting(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*, got {value}"):
        small().set_params(**{name: value}).fit(IMAGES)


@pytest.mark.slow
def test_fitting_is_the_training_of_a_trial() -> None:
    """The same images and seed as a bare Trainer give the same network, to the bit."""
    estimator = small().fit(IMAGES)
    settings = estimator.resolved(channels=1)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    order = np.random.default_rng([seed, 1]).permutation(24)
    train, validation = (torch.from_numpy(IMAGES[np.sort(part)]) for part in (order[4:], order[:4]))
    trainer, losses = tiny.train(settings, train, seed=seed)
    assert isinstance(estimator.detector_, PuzzleDetector)
    assert tiny.same_state(trainer.network.state_dict(), estimator.detector_.network.state_dict())
    assert estimator.loss_curve_ == [loss.loss_rec for loss in losses]
    assert torch.equal(estimator.detector_.validation_NK, estimator.detector_.error_matrix(validation))


def test_all_forms_of_the_same_images_have_the_same_scores(fitted: DetectorEstimator) -> None:
    expected = fitted.score_samples(NEW)
    assert expected.shape == (6,)
    assert expected.dtype == np.float64
    assert (expected < 0).all()
    floats = NEW.astype(np.float32) / 255
    read_only = NEW.copy()
    read_only.flags.writeable = False
    for form in (
        torch.from_numpy(NEW),
        NEW[:, 0],
        torch.from_numpy(NEW[:, 0]),
        floats,
        floats[:, 0],
        torch.from_numpy(floats).requires_grad_(),
        NEW.reshape(6, -1),
        torch.from_numpy(NEW.reshape(6, -1)),
        floats.reshape(6, -1),
        floats.reshape(6, -1).tolist(),
        np.asfortranarray(NEW),
        NEW[:, :, ::-1][:, :, ::-1],
        floats.astype(">f4"),
        read_only,
    ):
        np.testing.assert_array_equal(fitted.score_samples(form), expected)
    np.testing.assert_allclose(fitted.score_samples(NEW / 255), expected, rtol=1e-5)


def test_scores_are_computed_in_batches_that_do_not_change_them(
    fitted: DetectorEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fitted.score_samples(NEW)
    monkeypatch.setattr("puzzle_study.inference.arrays.AT_ONCE", 4)
    np.testing.assert_allclose(fitted.score_samples(NEW), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 16, 20)])
def test_colour_and_oblong_images_are_taken_as_arrays_and_as_rows_with_a_shape(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    one = small().fit(images)
    other = small(image_shape=shape).fit(images.reshape(6, -1))
    assert one.image_shape_ == other.image_shape_ == shape
    assert one.n_features_in_ == other.n_features_in_ == np.prod(shape)
    np.testing.assert_array_equal(one.score_samples(images), other.score_samples(images))
    np.testing.assert_array_equal(one.score_samples(images), other.score_samples(images.reshape(6, -1)))


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ((20, 25), {"train.lambda": 0.02}),
        ((64, 16), {"train.lambda": 0.02}),
        ((17, 40), {"puzzle": {"grid": 3, "permutations": "auto", "count": 3}, "train.lambda": 0.02}),
        ((16, 16), {"puzzle": {"grid": 3, "permutations": "drawn", "count": 3}, "score.permutations": 2}),
        ((16, 16), {"puzzle": {"kind": "rotation", "permutations": "auto"}}),
    ],
)
def test_oblong_images_nine_pieces_and_rotations_can_be_fitted(shape: tuple[int, int], values: dict[str, Any]) -> None:
    images = np.random.default_rng(0).random((6, *shape), dtype=np.float32)
    assert np.isfinite(small(values).fit(images).score_samples(images)).all()


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((4, 8, 8), np.uint8), r"at least 16×16 pixels, got shape \(C, H, W\) = \(1, 8, 8\)"),
        (np.zeros((4, 1025, 16, 16), np.uint8), r"at most 1024 channels, got shape \(C, H, W\) = \(1025, 16, 16\)"),
        (np.zeros((4, 16, 16, 3), np.uint8), r"\[N, H, W, C\] is not supported: move the channels to the front"),
        (np.zeros((4, 300), np.uint8), r"n_features = 300 are not square images .* set image_shape=\(C, H, W\)"),
        (np.zeros((1, 16, 16), np.uint8), "at least 2 images are needed, .* n_samples = 1"),
        (np.zeros((0, 16, 16), np.uint8), "0 samples"),
        (np.full((4, 16, 16), 255.0), r"float pixels must be finite and in \[0, 1\], got 255 to 255"),
        (np.full((4, 16, 16), np.nan), "float pixels must be finite"),
        (np.zeros((4, 16, 16), np.int64), r"pixels must be uint8, or floats in \[0, 1\], got .*int64"),
        (torch.zeros(4, 16, 16, dtype=torch.bool), r"pixels must be uint8, or floats in \[0, 1\], got torch.bool"),
        (np.zeros((4, 16, 16), complex), "got complex128"),
    ],
)
def test_images_that_cannot_be_taken_are_refused_in_one_sentence(images: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small().fit(images)


def test_images_of_another_shape_than_the_fitted_are_refused(fitted: DetectorEstimator) -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 20, 20\), but PuzzleAE was fitted on \(1, 16, 16\)"):
        fitted.score_samples(np.zeros((2, 20, 20), np.uint8))
    with pytest.raises(ValueError, match="X has 400 features, but PuzzleAE is expecting 256 features"):
        fitted.score_samples(np.zeros((2, 400), np.uint8))


def test_predictions_flag_what_is_below_the_offset(fitted: DetectorEstimator) -> None:
    images = np.concatenate([NEW, np.random.default_rng(0).integers(0, 256, (6, 1, 16, 16), dtype=np.uint8)])
    decision = fitted.decision_function(images)
    np.testing.assert_array_equal(decision, fitted.score_samples(images) - fitted.offset_)
    np.testing.assert_array_equal(fitted.predict(images), np.where(decision < 0, -1, 1))
    assert set(fitted.predict(images)) == {-1, 1}
    assert -fitted.offset_ == Calibration.of(fitted.detector_).threshold(0.05)


def test_contamination_norm_and_aggregation_need_no_training(fitted: DetectorEstimator) -> None:
    estimator = clone(fitted).fit(IMAGES)
    weights = {name: tensor.clone() for name, tensor in estimator.detector_.network.state_dict().items()}
    before, offset = estimator.score_samples(NEW), estimator.offset_
    estimator.set_params(contamination=0.5)
    assert estimator.offset_ > offset
    estimator.set_params(settings={**SMALL, "score.aggregation": "min"})
    assert (estimator.score_samples(NEW) > before).all()
    estimator.set_params(settings={**SMALL, "score": {"aggregation": "max", "error": "mse"}})
    assert not np.allclose(estimator.score_samples(NEW), before)
    assert tiny.same_state(weights, estimator.detector_.network.state_dict())
    with pytest.raises(ValueError, match=r"score\.aggregation must be .*, got 'median'"):
        estimator.set_params(settings={**SMALL, "score.aggregation": "median"}).score_samples(NEW)


def test_the_same_seed_gives_the_same_detector_and_another_seed_another(fitted: DetectorEstimator) -> None:
    np.testing.assert_array_equal(small().fit(IMAGES).score_samples(NEW), fitted.score_samples(NEW))
    other = small(random_state=1).fit(IMAGES)
    assert not np.allclose(other.score_samples(NEW), fitted.score_samples(NEW))


def test_fitting_and_scoring_leave_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.get_rng_state(), np.random.random_sample()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    small().fit(IMAGES).predict(NEW)
    assert torch.equal(torch.get_rng_state(), expected[0])
    assert np.random.random_sample() == expected[1]  # noqa: NPY002


def test_before_fitting_there_are_no_scores() -> None:
    estimator = PuzzleAE()
    for method in (estimator.score_samples, estimator.decision_function, estimator.predict):
        with pytest.raises(NotFittedError):
            method(NEW)
    with pytest.raises(NotFittedError):
        estimator.save("nowhere")
    assert not hasattr(estimator, "offset_")


def test_a_saved_estimator_is_the_same_after_loading(fitted: DetectorEstimator, tmp_path: Path) -> None:
    estimator = clone(fitted).fit(IMAGES)
    estimator.set_params(contamination=0.3, settings={**SMALL, "score.aggregation": "min"})
    estimator.save(tmp_path / "models" / "mine")
    assert sorted(path.name for path in (tmp_path / "models" / "mine").iterdir()) == [DESCRIPTION, WEIGHTS]
    loaded = puzzle_study.load(tmp_path / "models" / "mine")
    np.testing.assert_array_equal(loaded.score_samples(NEW), estimator.score_samples(NEW))
    np.testing.assert_array_equal(loaded.predict(NEW), estimator.predict(NEW))
    assert loaded.resolved(channels=1) == estimator.resolved(channels=1)
    assert (loaded.contamination, loaded.image_shape) == (0.3, None)
    loaded.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / DESCRIPTION).read_text()) == json.loads(
        (tmp_path / "models" / "mine" / DESCRIPTION).read_text()
    )
    clone(loaded).fit(IMAGES)


def test_saving_replaces_its_own_files_and_no_others(fitted: DetectorEstimator, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    fitted.save(tmp_path)
    fitted.save(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [DESCRIPTION, "notes.txt", WEIGHTS]
    with pytest.raises(UserError, match=r"notes\.txt cannot be written \(.*\); save elsewhere"):
        fitted.save(tmp_path / "notes.txt")


def test_a_detector_of_a_study_is_loaded_with_its_settings(best: Path) -> None:
    loaded = puzzle_study.load(best)
    detector = load_detector(best / "3", device=tiny.CPU)
    expected = detector.scores(detector.error_matrix(torch.from_numpy(NEW))).double().numpy()
    np.testing.assert_array_equal(loaded.score_samples(NEW), -expected)
    own = tiny.own(loaded.resolved(channels=1))
    assert (own.model.base_channels, own.train.epochs, loaded.random_state, loaded.n_features_in_) == (2, 2, 0, 256)
    np.testing.assert_array_equal(loaded.score_samples(NEW.reshape(6, -1)), -expected)


@pytest.mark.parametrize("name", ["settings", "seed"])
def test_a_description_without_its_settings_is_damaged(name: str, best: Path) -> None:
    path = best / "3" / DESCRIPTION
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"detector\.json is damaged \(.*\); restore it or train again"):
        puzzle_study.load(best)


@pytest.mark.parametrize(
    ("device", "sentence"),
    [("tpu", "device tpu is unknown"), ("meta", "device meta is not supported"), ("cuda", "device cuda is missing")],
)
def test_a_device_that_is_not_there_is_one_sentence(
    device: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=f"{sentence}.*; use auto"):
        small(device=device).fit(IMAGES)


@pytest.mark.slow
def test_importing_the_package_is_light_and_lists_the_estimator() -> None:
    code = (
        "import sys, puzzle_study\n"
        "assert {'PuzzleAE', 'estimator', 'load'} <= set(dir(puzzle_study))\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'pydantic', 'click'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "try:\n    puzzle_study.nothing\n"
        "except AttributeError as error:\n    assert 'nothing' in str(error)\n"
        "assert puzzle_study.PuzzleAE().settings is None\n"
        "assert not {'ray', 'torchvision', 'seaborn'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_notebook_shows_one_line_that_counts_epochs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where rich finds a notebook: it would otherwise need ipywidgets, or make an output area for each line."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    small({"train.epochs": 2}, verbose=True).fit(IMAGES)
    assert capsys.readouterr().out == "\rtraining 1/2\rtraining 2/2\n"
    small().fit(IMAGES)
    assert capsys.readouterr().out == ""
    assert not cli.console().is_jupyter
    cli.console(quiet=True).print("trials 1/2")
    assert capsys.readouterr().out == ""


def test_a_preset_is_where_the_settings_start_from_and_every_detector_has_its_class() -> None:
    def own(**arguments: Any) -> PuzzleSettings:
        return cast(PuzzleSettings, puzzle_study.PuzzleAE(**arguments).resolved(channels=1).own)

    paper, fast = own(preset="paper", settings={"train.epochs": 7}), own(preset="fast")
    assert (paper.preset, paper.train.epochs, fast.preset) == ("paper", 7, "fast")
    assert paper.model.base_channels > fast.model.base_channels
    with pytest.raises(ValueError, match=r"preset must be .*'fast', got 'fasst'"):
        puzzle_study.PuzzleAE(preset="fasst").fit(IMAGES)
    with pytest.raises(ValueError, match="preset is not a setting of PatchCore"):
        puzzle_study.PatchCore(preset="fast").fit(IMAGES)
    for name, kind in DETECTORS.items():
        if name != DETECTORS.default:
            assert getattr(puzzle_study, kind.__name__) is puzzle_study.estimator(name)
            assert kind.__name__ in dir(puzzle_study)
    with pytest.raises(AttributeError, match="no attribute 'PatchCoer'"):
        _ = puzzle_study.PatchCoer
