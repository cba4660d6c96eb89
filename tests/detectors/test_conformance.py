"""What every detector of the registry must do; a new entry is tested here without a line of test code.

Shape legend: N images, K views, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from puzzle_study import config
from puzzle_study.config import layers
from puzzle_study.detectors import files, scoring
from puzzle_study.detectors.base import Context, Detector, Run, Shape, Viewed
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.statistics import metrics

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SIDE = 16


def normal(count: int, *, channels: int = 1, seed: int = 0) -> Tensor:
    """Smooth bright blobs in the middle, uint8 [N, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    centre = 0.2 * (torch.rand(count, 2, 1, 1, generator=generator) - 0.5)
    width = 0.2 + 0.1 * torch.rand(count, 1, 1, generator=generator)
    blob = torch.exp(-((y - centre[:, 0]).square() + (x - centre[:, 1]).square()) / width)
    return (230 * blob[:, None]).round().byte().repeat(1, channels, 1, 1)


def anomalous(count: int, *, channels: int = 1, seed: int = 1) -> Tensor:
    """Noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, SIDE, SIDE), generator=generator, dtype=torch.uint8)


def upright(images_NCHW: Tensor) -> Tensor:
    """The same, darker towards the bottom: a blob looks the same turned, and some detectors learn from turns alone."""
    return (images_NCHW * torch.linspace(1, 0, SIDE)[:, None]).byte()


def settings(name: str, changed: config.Layer | None = None) -> config.DetectorSettings:
    kind = DETECTORS[name].Settings
    return kind.model_validate(layers.merge(layers.resolved(kind, {}, "digits"), kind.SMALL, changed or {}))


def built(name: str, *, channels: int = 1, seed: int = 0, changed: config.Layer | None = None) -> Detector:
    return DETECTORS[name].build(
        settings(name, changed), Context(Shape(channels, SIDE, SIDE), seed, CPU, "float32", "digits", "3")
    )


def fitted(
    name: str, *, channels: int = 1, seed: int = 0, run: Run | None = None, changed: config.Layer | None = None
) -> Detector:
    detector = built(name, channels=channels, seed=seed, changed=changed)
    if isinstance(run, StoppedRun):
        run.detector = detector
    detector.fit(normal(24, channels=channels), run or Run())
    detector.calibrate(normal(8, channels=channels, seed=2))
    return detector


@pytest.fixture(params=list(DETECTORS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


_kept: dict[tuple[str, int], Detector] = {}


def kept(name: str, channels: int = 1) -> Detector:
    """A fitted detector that no test changes."""
    if (name, channels) not in _kept:
        _kept[name, channels] = fitted(name, channels=channels)
    return _kept[name, channels]


def test_it_says_what_it_is(name: str) -> None:
    kind = DETECTORS[name]
    assert kind.name == name
    assert kind.title
    assert kind.source
    assert kind.__doc__
    for key, entry in kind.Settings.model_fields.items():
        assert entry.description, key
    assert isinstance(built(name), Viewed) == kind.traits.views


def test_its_settings_do_not_take_the_name_of_a_section_that_all_share(name: str) -> None:
    assert not set(DETECTORS[name].Settings.model_fields) & {*config.Study.model_fields, "detector", "quick"}


@pytest.mark.parametrize("channels", [1, 3])
def test_errors_have_a_row_for_each_image_and_a_column_for_each_view(name: str, channels: int) -> None:
    detector = kept(name, channels)
    error_NK = detector.error_matrix(anomalous(5, channels=channels))
    assert error_NK.shape == (5, detector.views)
    assert error_NK.dtype == torch.float32
    assert bool((error_NK >= 0).all())
    assert detector.validation_NK.shape == (8, detector.views)


def test_a_typical_normal_image_scores_about_one(name: str) -> None:
    score_N = kept(name).scores(kept(name).error_matrix(normal(16, seed=3)))
    assert 0.5 < float(score_N.median()) < 2


def test_it_learns_something(name: str) -> None:
    detector = built(name)
    detector.fit(upright(normal(24)), Run())
    detector.calibrate(upright(normal(8, seed=2)))
    images = torch.cat((upright(normal(16, seed=3)), anomalous(16)))
    labels = torch.arange(32) >= 16
    auroc = metrics.auroc(detector.scores(detector.error_matrix(images)).numpy(), labels.numpy())
    assert auroc > (0.95 if type(detector).traits.epochs or detector.views == 1 else 0.5)


def test_it_does_not_collapse(name: str) -> None:
    score_N = kept(name).scores(kept(name).error_matrix(normal(8, seed=5)))
    assert len(score_N.unique()) > 1


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_random_state_alone(name: str) -> None:
    images = anomalous(4)
    expected = kept(name).error_matrix(images)
    torch.rand(1)
    before = torch.get_rng_state()
    assert torch.equal(fitted(name).error_matrix(images), expected)
    assert torch.equal(torch.get_rng_state(), before)


class Stopped(Exception):
    """Stands for a killed process."""


class StoppedRun(Run):
    """Evaluates the detector after each epoch, as a trial does, keeps the state, and stops after one of the epochs."""

    detector: Detector

    def __init__(self, after: int | None = None, state: dict[str, Any] | None = None) -> None:
        self.after, self.state = after, state
        self.epochs: list[float] = []
        self.lasts: list[bool] = []
        self.asked: list[float] = []

    def resumed(self) -> dict[str, Any] | None:
        return self.state

    def images(self, images_NCHW: Tensor, epoch: int) -> Tensor:
        self.asked.append(epoch)
        return images_NCHW

    def epoch(self, row: dict[str, float], state: Callable[[], dict[str, Any]], *, last: bool) -> None:
        self.epochs.append(row["epoch"])
        self.lasts.append(last)
        self.detector.calibrate(normal(8, seed=2))
        if row["epoch"] == self.after:
            from io import BytesIO

            written = BytesIO()
            torch.save(state(), written)
            written.seek(0)
            self.state = torch.load(written, weights_only=True)
            raise Stopped


def test_what_is_trained_in_epochs_resumes_at_any_epoch_to_the_bit(name: str) -> None:
    if not DETECTORS[name].traits.epochs:
        run = StoppedRun()
        fitted(name, run=run)
        assert run.epochs == []
        return
    whole = StoppedRun()
    expected = fitted(name, run=whole).error_matrix(anomalous(4))
    assert whole.lasts == [*[False] * (len(whole.epochs) - 1), True]
    for after in {1, len(whole.epochs) - 1}:
        stopped = StoppedRun(after)
        with pytest.raises(Stopped):
            fitted(name, run=stopped)
        rest = StoppedRun(state=stopped.state)
        assert torch.equal(fitted(name, run=rest).error_matrix(anomalous(4)), expected)
        assert [*stopped.epochs, *rest.epochs] == whole.epochs == [*stopped.asked, *rest.asked]


def test_a_prefix_of_a_training_that_it_says_to_meet_has_the_bits_of_the_separate_training(name: str) -> None:
    """The state after some epochs is handed to a detector that is to have no more."""
    whole = settings(name)
    if whole.EPOCHS not in whole.along():
        return
    fewer = layers.nested(whole.EPOCHS, 2)
    epochs = settings(name, fewer).epochs_wanted
    assert 0 < epochs < whole.epochs_wanted
    training = StoppedRun(after=epochs)
    with pytest.raises(Stopped):
        fitted(name, run=training)
    handed, separate = StoppedRun(state=training.state), StoppedRun()
    expected = fitted(name, run=separate, changed=fewer)
    assert torch.equal(
        fitted(name, run=handed, changed=fewer).error_matrix(anomalous(4)), expected.error_matrix(anomalous(4))
    )
    assert handed.epochs == []
    assert training.epochs == separate.epochs


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_saved_and_loaded_to_the_bit(name: str, channels: int, tmp_path: Path) -> None:
    detector = kept(name, channels)
    files.save(detector, tmp_path, {"seed": 3})
    loaded = files.load_detector(tmp_path, device=CPU)
    images = anomalous(4, channels=channels)
    assert type(loaded) is type(detector)
    assert torch.equal(loaded.error_matrix(images), detector.error_matrix(images))
    assert torch.equal(loaded(images.float() / 255), detector(images.float() / 255))
    assert (loaded.shape, loaded.reading, loaded.precision) == (detector.shape, detector.reading, detector.precision)
    assert files.read_description(tmp_path)["seed"] == 3


def test_weights_of_another_size_are_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    files.save(kept(name), tmp_path, {})
    path = tmp_path / files.DESCRIPTION
    path.write_text(path.read_text().replace('"channels": 1', '"channels": 3'))
    with pytest.raises(UserError, match="holds a damaged detector"):
        files.load_detector(tmp_path, device=CPU)


def test_bytes_and_floats_of_the_same_images_score_the_same(name: str) -> None:
    images = anomalous(3)
    detector = kept(name)
    assert torch.equal(detector.error_matrix(images), detector.error_matrix(images.float() / 255))


def test_scores_do_not_depend_on_the_batch(name: str) -> None:
    images, detector = anomalous(5), kept(name)
    together = detector.error_matrix(images)
    alone = torch.cat([detector.error_matrix(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=2e-4, atol=1e-6)


def test_the_module_gives_the_scores_of_its_error_matrix(name: str) -> None:
    images, detector = anomalous(3), kept(name)
    with torch.no_grad():
        torch.testing.assert_close(detector(images.float() / 255), detector.scores(detector.error_matrix(images)))


def test_every_tensor_it_needs_is_a_parameter_or_a_buffer(name: str) -> None:
    """As a module in float64 it still gives scores: nothing was left behind on another device or type."""
    held = {id(tensor) for tensor in (*kept(name).parameters(), *kept(name).buffers())}
    loose = [key for key, value in vars(kept(name)).items() if isinstance(value, Tensor) and id(value) not in held]
    assert loose == []


def test_the_gradient_equals_a_finite_difference(name: str) -> None:
    detector = kept(name)
    if not detector.traits.differentiable:
        return
    generator = torch.Generator().manual_seed(0)
    x_1CHW = 0.2 + 0.6 * torch.rand(1, 1, SIDE, SIDE, generator=generator)
    leaf = x_1CHW.clone().requires_grad_()
    (slope,) = torch.autograd.grad(detector(leaf).sum(), leaf)
    direction = slope / slope.norm()
    step = 1e-3
    with torch.no_grad():
        rise = detector(x_1CHW + step * direction) - detector(x_1CHW - step * direction)
    assert float(rise) / (2 * step) == pytest.approx(float(slope.norm()), rel=0.1)


@pytest.mark.parametrize(
    "images",
    [
        normal(1),
        torch.zeros(4, 1, SIDE, SIDE, dtype=torch.uint8),
        torch.full((4, 1, SIDE, SIDE), 255, dtype=torch.uint8),
        normal(1).repeat(3, 1, 1, 1),
    ],
    ids=["one", "black", "white", "equal"],
)
def test_one_image_and_constant_images_are_survived(name: str, images: Tensor) -> None:
    detector = built(name)
    detector.fit(images, Run())
    detector.calibrate(images[:1])
    with torch.no_grad():
        score_N = detector.scores(detector.error_matrix(torch.cat((images, anomalous(2)))))
    assert not bool(score_N.isnan().any())


def test_views_can_be_undone(name: str) -> None:
    detector = kept(name)
    if not isinstance(detector, Viewed):
        return
    prepared = detector.prepare(normal(2).float() / 255)
    every = detector.every_view(prepared)
    assert every.shape[:2] == (2, detector.views)
    torch.testing.assert_close(detector.undo(every), prepared[:, None].expand_as(every))
    k_P = torch.tensor([0, detector.views - 1])
    assert torch.equal(detector.view(prepared, k_P), every[torch.arange(2), k_P])


def test_fewer_views_have_the_columns_of_all_and_leave_the_detector_as_it_is(name: str) -> None:
    detector, images = kept(name), anomalous(3)
    validation_NK, error_NK = detector.validation_NK.clone(), detector.error_matrix(images)
    count = max(1, detector.views // 2)
    fewer = detector.of_views(count)
    chosen = scoring.chosen_views(detector.views, count)
    torch.testing.assert_close(fewer.error_matrix(images), error_NK[:, chosen])
    assert torch.equal(fewer.validation_NK, validation_NK[:, chosen])
    assert detector.of_views(None) is detector.of_views(detector.views) is detector
    assert (fewer is detector) == (detector.views == 1)
    if detector.views > 1:
        fewer.calibrate(normal(4, seed=3))
        assert fewer.validation_NK.shape == (4, count)
        assert torch.equal(detector.validation_NK, validation_NK)
        assert torch.equal(detector.error_matrix(images), error_NK)


def test_maps_are_there_or_are_refused_in_a_sentence(name: str) -> None:
    detector, images = kept(name), anomalous(3)
    if not detector.traits.maps:
        with pytest.raises(UserError, match="has no anomaly maps"):
            detector.maps(images)
        return
    error_NK, map_NHW = detector.maps(images)
    torch.testing.assert_close(error_NK, detector.error_matrix(images))
    assert map_NHW.shape == (3, SIDE, SIDE)
    assert bool(map_NHW.isfinite().all())


def test_another_reading_shares_the_tensors(name: str) -> None:
    detector = kept(name)
    other = detector.read_by(config.Reading("mse", "min"))
    assert other.validation_NK is detector.validation_NK
    assert detector.reading == settings(name).reading
    assert isinstance(other, nn.Module)
