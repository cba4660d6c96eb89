"""Detectors as scikit-learn outlier detectors, on arrays and tensors of images."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from puzzle_study import config
from puzzle_study.config import forms, layers
from puzzle_study.detectors.base import Context, Detector, Run, Shape
from puzzle_study.detectors.devices import chosen_device, resolve_precision
from puzzle_study.detectors.files import DESCRIPTION, WEIGHTS, load_detector, read_description, save
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError, nearest_setting
from puzzle_study.inference import arrays
from puzzle_study.inference.calibration import Calibration
from puzzle_study.inference.drift import Appearance
from puzzle_study.inference.locating import find_detector
from puzzle_study.inference.progress import Bar
from puzzle_study.inference.recalibration import recalibrate

KEPT = ("settings", "seed", "task", "appearance", "recalibrated")
"""What a detector that was loaded records again if it is saved."""
OWN_IMAGES = "folder"
"""The data set whose defaults an estimator uses: the user's own images."""


class DetectorEstimator(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """One-class novelty detector, which is fitted on normal images and finds others.

    X is an array or tensor of images [N, C, H, W] or [N, H, W], or of rows [N, C·H·W], with uint8 or floats in
    [0, 1] and at least 16×16 pixels. All images of ``fit`` are normal: some fit the detector, the others
    (``validation_fraction``) set the scale of the scores and the threshold.

    ``contamination``, and settings that need no training, such as ``score.aggregation``, can be set after ``fit`` and
    take effect at once.

    Args:
        preset: the detector's settings to start from, such as ``fast`` or ``paper``; None: those for the user's own
            images.
        settings: settings as in a study file that differ from these, nested or by dotted name, such as
            ``{"train.epochs": 10}``.
        validation_fraction: share of the images kept for validation, in (0, 1).
        contamination: share of new normal images that ``predict`` may flag, in (0, 0.5]; the validation scores give
            the threshold, so it is not a share of the training images.
        image_shape: (C, H, W) of rows; None: squares with one channel.
        device: ``auto``, ``cpu`` or ``cuda``.
        random_state: seed of the split, the weights, the order of images and the noise.
        verbose: show a progress bar on a terminal, or a line that counts epochs in a notebook.

    Attributes:
        detector_: the fitted :class:`~puzzle_study.detectors.base.Detector`.
        image_shape_: (C, H, W) of the images.
        n_features_in_: C·H·W.
        loss_curve_: first loss of each epoch; empty for a loaded detector or one that is fitted at once.
    """

    name: ClassVar[str]
    _description: dict[str, Any]

    def __init__(
        self,
        *,
        preset: str | None = None,
        settings: Mapping[str, Any] | None = None,
        validation_fraction: float = 0.15,
        contamination: float = 0.05,
        image_shape: tuple[int, int, int] | None = None,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.preset = preset
        self.settings = settings
        self.validation_fraction = validation_fraction
        self.contamination = contamination
        self.image_shape = image_shape
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: object = None) -> DetectorEstimator:
        """Fit on normal images and measure the validation errors.

        Args:
            X: at least two images, all normal.
            y: ignored.

        Raises:
            ValueError: the images or a parameter are invalid.
            UserError: settings that cannot be combined, such as a grid and its permutations.
            TrainingDiverged: a loss was not finite.
        """
        images = self._images(X, reset=True)
        if len(images) < 2:
            raise ValueError(
                f"at least 2 images are needed, one to train and one to validate; got n_samples = {len(images)}"
            )
        arrays.check_shape(tuple(images.shape[1:]))
        _check_contamination(self.contamination)
        settings = self.resolved(channels=images.shape[1])
        device = chosen_device(self.device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        train, validation = (part.to(device) for part in _split(images, settings.data.validation_fraction, seed))
        context = Context(
            Shape(*images.shape[1:]),
            seed=seed,
            device=device,
            precision=resolve_precision(settings.own.precision_wanted, device),
            dataset=OWN_IMAGES,
        )
        detector = DETECTORS[self.name].build(settings.own, context)
        with Bar("training", settings.own.epochs_wanted, shown=bool(self.verbose)) as bar:
            run = _Watched(bar)
            detector.fit(train, run)
        detector.calibrate(validation)
        description = {
            "settings": settings.model_dump(mode="json", by_alias=True),
            "seed": seed,
            "appearance": asdict(Appearance.of(validation)),
        }
        self._adopt(detector, run.losses, description)
        return self

    def score_samples(self, X: Any) -> arrays.Floats:
        """Return minus the anomaly score of each image, float64 [N]; higher is more normal, -1 is typical.

        Raises:
            NotFittedError: the estimator is not fitted.
            ValueError: the images differ in shape or kind from those of ``fit``.
        """
        return -arrays.anomaly_scores(self._detector(), self._images(X, reset=False))

    def decision_function(self, X: Any) -> arrays.Floats:
        """Return ``score_samples(X) - offset_``, float64 [N]; negative for novelties."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Return +1 for normal images and -1 for novelties, [N]."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    @property
    def offset_(self) -> float:
        """Minus the threshold for ``contamination`` (:meth:`Calibration.threshold`)."""
        detector = self._detector()
        _check_contamination(self.contamination)
        return -Calibration.of(detector).threshold(self.contamination)

    def recalibrate(self, X: Any) -> DetectorEstimator:
        """Set the scale of the scores and the threshold anew by a few normal images, without training.

        For a new lamp, camera or focus. A detector that was loaded keeps its folder as it is until :meth:`save`.

        Args:
            X: normal images as for :meth:`fit`, 1 / ``contamination`` - 1 at least, none a copy of another.

        Raises:
            NotFittedError: there is nothing fitted yet.
            ValueError: the images are not of the shape or kind of those of ``fit``.
            UserError: so few images cannot hold ``contamination``, or their scores are all the same.
        """
        detector = self.detector_ = self._detector()
        _check_contamination(self.contamination)
        images = torch.cat(list(arrays.batches(self._images(X, reset=False)))).to(detector.device)
        done = recalibrate(detector, images, float(self.contamination))
        self._description = {**self._description, **done.description()}
        return self

    def save(self, folder: str | Path) -> None:
        """Write the detector into a folder for :func:`load` and ``python -m puzzle_study.score``.

        Only its own two files are replaced, each atomically.

        Raises:
            NotFittedError: the estimator is not fitted.
            UserError: the folder cannot be written.
        """
        detector, folder = self._detector(), Path(folder)
        own = {"contamination": float(self.contamination), "image_shape": self.image_shape}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as staged:
                save(detector, Path(staged), {**self._description, "estimator": own})
                for name in (WEIGHTS, DESCRIPTION):
                    Path(staged, name).replace(folder / name)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror or error}); save elsewhere") from error

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "detector_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.positive_only = True
        return tags

    def resolved(self, *, channels: int) -> config.Settings:
        """Return the configuration of the parameters, with defaults filled in.

        Args:
            channels: of the images.

        Raises:
            ValueError: a value is of the wrong type or out of its range.
        """
        kind = DETECTORS[self.name].Settings
        flat = {name: _plain(value) for name, value in layers.leaves(dict(self.settings or {})).items()}
        if self.preset is not None:
            flat = {"preset": self.preset, **flat}
        known = forms.leaf_names(forms.key_tree(kind))
        for name in flat:
            if name not in known:
                near = nearest_setting(name, known, known)
                raise ValueError(f"settings: {name} is not a setting of {DETECTORS[self.name].title}{near}")
        merged = layers.resolved(kind, layers.merge(*(layers.nested(*pair) for pair in flat.items())), OWN_IMAGES)
        images = {
            "name": OWN_IMAGES,
            "grayscale": channels == 1,
            "validation_fraction": _plain(self.validation_fraction),
        }
        try:
            # The defaults also contain sections of a study, which an estimator does not have.
            own = kind.model_validate(forms.own_part(kind, merged))
            data = config.Data.model_validate(images)
        except ValidationError as error:
            first = error.errors()[0]
            loc = ".".join(map(str, first["loc"]))
            # pydantic's location ends with members of a union.
            place = next((name for name in known if f"{loc}.".startswith(f"{name}.")), loc)
            if first["type"] == "value_error":
                raise ValueError(f"{place}: {first['ctx']['error']}") from error
            reason = first["msg"].removeprefix("Input should be ")
            raise ValueError(f"{place} must be {reason}, got {first['input']!r}") from error
        return config.Settings(detector=self.name, data=data, own=own)

    def _detector(self) -> Detector:
        """Return the fitted detector with the current reading."""
        check_is_fitted(self)
        detector: Detector = self.detector_
        return detector.read_by(self.resolved(channels=self.image_shape_[0]).own.reading)

    def _adopt(self, detector: Detector, losses: list[float], description: dict[str, Any]) -> None:
        """Become a fitted estimator."""
        shape = detector.shape
        self.detector_ = detector
        self.image_shape_ = (shape.channels, shape.height, shape.width)
        self.loss_curve_ = losses
        self._description = description

    def _images(self, X: Any, *, reset: bool) -> Any:
        """Return X as an array or tensor [N, C, H, W], without checking its pixels."""
        if arrays.is_image_array(X):
            images = arrays.with_channels(X)
            if not len(images):
                raise ValueError("found an array with 0 samples; at least 1 image is needed")
            if reset:
                self.__dict__.pop("feature_names_in_", None)
                self.n_features_in_ = math.prod(images.shape[1:])
            elif tuple(images.shape[1:]) != self.image_shape_:
                raise ValueError(
                    f"X has images of shape {tuple(images.shape[1:])}, but {type(self).__name__} was fitted on "
                    f"{self.image_shape_}"
                )
            return images
        rows = X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else X
        rows_ND = validate_data(self, rows, reset=reset, ensure_min_samples=2 if reset else 1)
        return self._arranged(rows_ND, reset=reset)

    def _arranged(self, rows_ND: npt.NDArray[Any], *, reset: bool) -> npt.NDArray[Any]:
        """Return rows of pixels as images [N, C, H, W]."""
        check_non_negative(rows_ND, type(self).__name__)
        shape = arrays.row_shape(rows_ND.shape[1], self.image_shape) if reset else self.image_shape_
        return rows_ND.reshape(len(rows_ND), *shape)


class PuzzleAE(DetectorEstimator):
    """Puzzle-AE: a network learns to solve puzzles of normal images, and fails on others."""

    name = DETECTORS.default


@cache
def estimator(name: str) -> type[DetectorEstimator]:
    """Return the estimator of a detector by its registry name.

    >>> estimator("pca")().get_params()["contamination"]
    0.05

    Raises:
        UserError: the detector does not exist.
    """
    kind = DETECTORS[name]
    if name == PuzzleAE.name:
        return PuzzleAE
    content = {"name": name, "__doc__": kind.__doc__, "__module__": __name__, "__reduce__": _reduced}
    return type(kind.__name__, (DetectorEstimator,), content)


def _reduced(self: DetectorEstimator) -> tuple[Any, ...]:
    """Tell pickle how to restore an estimator whose class comes from :func:`estimator`."""
    return _blank, (self.name,), self.__getstate__()


def _blank(name: str) -> DetectorEstimator:
    return estimator(name).__new__(estimator(name))


class _Watched(Run):
    """A training that shows a progress bar and keeps its losses."""

    def __init__(self, bar: Bar) -> None:
        self.bar, self.losses = bar, list[float]()

    def epoch(self, row: dict[str, float], state: object, *, last: bool) -> None:
        """Record an epoch."""
        self.losses.append(next(value for name, value in row.items() if name.startswith("loss")))
        self.bar.step()


def load(folder: str | Path, *, device: str = "auto") -> DetectorEstimator:
    """Load a finished detector from a folder like results/NAME/best/CLASS, or from one that ``save`` wrote.

    Weights are read only as data.

    Args:
        folder: the detector's folder, or one with a single detector in it.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: the folder has no detector, or it is damaged.
    """
    place = find_detector(Path(folder))
    detector = load_detector(place, device=chosen_device(device))
    description = read_description(place)
    try:
        settings = config.Settings.from_json(description["settings"])
        seed, own = int(description["seed"]), description.get("estimator", {})
        shape = own.get("image_shape")
        contamination = float(own.get("contamination", 0.05))
        image_shape = None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2]))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{place / DESCRIPTION} is damaged ({(str(error).splitlines() or ['?'])[0]}); restore it or train again"
        ) from error
    values = settings.own.model_dump(mode="json", by_alias=True)
    for free in settings.own.FREE:
        values = layers.merge(values, layers.nested(free, detector.reading.settings[free.rpartition(".")[2]]))
    found = estimator(settings.detector)(
        settings=values,
        validation_fraction=settings.data.validation_fraction,
        contamination=contamination,
        image_shape=image_shape,
        device=device,
        random_state=seed,
    )
    found.n_features_in_ = math.prod((detector.shape.channels, detector.shape.height, detector.shape.width))
    kept: dict[str, Any] = {name: description[name] for name in KEPT if name in description}
    found._adopt(detector, [], kept)
    return found


def _plain(value: Any) -> Any:
    """Return a NumPy number as Python's: a grid search gives the former, strict settings need the latter."""
    return value.item() if isinstance(value, np.generic) else value


def _split(images: Any, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw validation images, at least one, and leave at least one to train."""
    whole = torch.cat(list(arrays.batches(images)))
    count = min(max(1, round(fraction * len(whole))), len(whole) - 1)
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(whole))).to(whole.device)
    return whole[order[count:].sort().values], whole[order[:count].sort().values]


def _check_contamination(value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value <= 0.5:
        raise ValueError(f"contamination must be in (0, 0.5], got {value!r}")
