"""Puzzle-AE in the manner of scikit-learn's outlier detectors, on arrays and tensors of images."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import OutlierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from puzzle_study import config
from puzzle_study.detectors.devices import resolve_precision
from puzzle_study.detectors.puzzle_ae import detector, puzzles
from puzzle_study.detectors.puzzle_ae.detector import DESCRIPTION, WEIGHTS, PuzzleDetector
from puzzle_study.detectors.puzzle_ae.training import Trainer
from puzzle_study.errors import UserError
from puzzle_study.inference import arrays, parameters
from puzzle_study.inference.calibration import Calibration
from puzzle_study.inference.constructor import Parameters
from puzzle_study.inference.device import chosen_device
from puzzle_study.inference.locating import find_detector
from puzzle_study.inference.progress import Bar
from puzzle_study.trials.run import scoring_set

Floats = npt.NDArray[np.float64]


class PuzzleAE(OutlierMixin, Parameters):  # type: ignore[misc]
    """One-class novelty detector: a network learns to solve puzzles of normal images, and fails on others.

    X is an array or tensor of images [N, C, H, W] or [N, H, W], or of rows [N, C·H·W]; of uint8, or of floats in
    [0, 1]; of at least 16×16 pixels. All images of ``fit`` are normal: some train the network, the others
    (``validation_fraction``) set the scale of the scores and the threshold.

    ``contamination``, ``error`` and ``aggregation`` can be set after ``fit`` and count at once: they need no training.

    Attributes:
        detector_: the :class:`PuzzleDetector`.
        image_shape_: (C, H, W) of the images.
        n_features_in_: C·H·W.
        loss_curve_: mean reconstruction loss of each epoch; empty for a detector that was loaded.

    The parameters are those of :class:`puzzle_study.inference.constructor.Parameters`: the settings of a study file
    under flat names, and ``contamination``, ``image_shape``, ``device``, ``random_state`` and ``verbose``.
    """

    def fit(self, X: Any, y: object = None) -> PuzzleAE:
        """Train on normal images and measure the validation errors.

        Args:
            X: at least two images, all normal.
            y: ignored.

        Raises:
            ValueError: the images or a parameter are not right.
            UserError: settings that do not go together, such as a grid and its permutations.
            TrainingDiverged: a loss was not finite.
        """
        images = self._images(X, reset=True)
        if len(images) < 2:
            raise ValueError(
                f"at least 2 images are needed, one to train and one to validate; got n_samples = {len(images)}"
            )
        _, channels, height, width = images.shape
        arrays.check_shape((channels, height, width))
        _check_contamination(self.contamination)
        settings = parameters.to_settings(self.get_params(deep=False), channels=channels)
        device = chosen_device(self.device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        train, validation = (part.to(device) for part in _split(images, settings.data.validation_fraction, seed))
        in_training = puzzles.puzzle_set(settings.puzzle, normal_class="", dataset=settings.data.name)
        precision = resolve_precision(settings.train.precision, device)
        trainer = Trainer(
            settings,
            in_training,
            channels=channels,
            height=height,
            width=width,
            seed=seed,
            device=device,
            precision=precision,
        )
        losses = []
        with Bar("training", settings.train.epochs, shown=bool(self.verbose)) as bar:
            while not trainer.finished:
                losses.append(trainer.epoch(train).loss_rec)
                bar.advance()
        detector = PuzzleDetector(
            trainer.solver,
            scoring_set(settings, in_training),
            shape=detector.Shape(channels, height, width, settings.model.base_channels),
            score=settings.score,
            precision=precision,
        ).to(device)
        detector.calibrate(validation)
        self._adopt(detector, losses, {"settings": settings.model_dump(mode="json", by_alias=True), "seed": seed})
        return self

    def score_samples(self, X: Any) -> Floats:
        """Return minus the anomaly score of each image, float64 [N]; higher is more normal, -1 is typical.

        Raises:
            NotFittedError: there is nothing fitted yet.
            ValueError: the images are not of the shape or kind of those of ``fit``.
        """
        detector = self._detector()
        parts = [detector.error_matrix(part) for part in arrays.batches(self._images(X, reset=False))]
        return -np.concatenate([detector.scores(error_NK).double().cpu().numpy() for error_NK in parts])

    def decision_function(self, X: Any) -> Floats:
        """Return ``score_samples(X) - offset_``, float64 [N]; negative for novelties."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Return +1 for normal images and -1 for novelties, [N]."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    @property
    def offset_(self) -> float:
        """Minus the threshold that ``contamination`` gives (:meth:`Calibration.threshold`)."""
        detector = self._detector()
        _check_contamination(self.contamination)
        return -Calibration.of(detector).threshold(self.contamination)

    def save(self, folder: str | Path) -> None:
        """Write the detector into a folder that :func:`load` and ``python -m puzzle_study.score`` read.

        Only its own two files are replaced; each is written whole or not at all.

        Raises:
            NotFittedError: there is nothing fitted yet.
            UserError: the folder cannot be written.
        """
        detector, folder = self._detector(), Path(folder)
        own = {"contamination": float(self.contamination), "image_shape": self.image_shape}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as staged:
                detector.save(Path(staged), {**self._description, "estimator": own})
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

    def _detector(self) -> PuzzleDetector:
        """Return the fitted detector with the present norm and aggregation."""
        check_is_fitted(self)
        detector: PuzzleDetector = self.detector_
        score = {**detector.score.model_dump(), "error": self.error, "aggregation": self.aggregation}
        try:
            return detector.with_score(config.Score.model_validate(score))
        except ValueError:
            raise ValueError(
                f"error must be l2 or mse and aggregation min, avg or max; got {self.error!r} and {self.aggregation!r}"
            ) from None

    def _adopt(self, detector: PuzzleDetector, losses: list[float], description: dict[str, Any]) -> None:
        """Become a fitted estimator."""
        shape = detector.shape
        self.detector_ = detector
        self.image_shape_ = (shape.channels, shape.height, shape.width)
        self.loss_curve_ = losses
        self._description = description

    def _images(self, X: Any, *, reset: bool) -> Any:
        """Return X as an array or tensor [N, C, H, W], its pixels not looked at yet."""
        if arrays.is_image_array(X):
            images = arrays.with_channels(X)
            if not len(images):
                raise ValueError("found an array with 0 samples; at least 1 image is needed")
            if reset:
                self.__dict__.pop("feature_names_in_", None)
                self.n_features_in_ = math.prod(images.shape[1:])
            elif tuple(images.shape[1:]) != self.image_shape_:
                raise ValueError(
                    f"X has images of shape {tuple(images.shape[1:])}, but PuzzleAE was fitted on {self.image_shape_}"
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


def load(folder: str | Path, *, device: str = "auto") -> PuzzleAE:
    """Load a finished detector: a folder like results/NAME/best/CLASS, or one that ``save`` wrote.

    Weights are read as data, never as code.

    Args:
        folder: the detector's folder, or one that holds no more than one detector.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: there is no detector, or it is damaged.
    """
    place = find_detector(Path(folder))
    detector = detector.load(place, device=chosen_device(device))
    description = detector.read_description(place)
    try:
        settings = config.Settings.model_validate(description["settings"])
        seed, own = int(description["seed"]), description.get("estimator", {})
        shape = own.get("image_shape")
        values = parameters.from_settings(settings) | {"contamination": float(own.get("contamination", 0.05))}
        values["image_shape"] = None if shape is None else tuple(int(side) for side in shape)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{place / DESCRIPTION} is damaged ({(str(error).splitlines() or ['?'])[0]}); restore it or train again"
        ) from error
    values |= {"error": detector.score.error, "aggregation": detector.score.aggregation}
    estimator = PuzzleAE(**values, device=device, random_state=seed)
    estimator.n_features_in_ = detector.shape.channels * detector.shape.height * detector.shape.width
    estimator._adopt(detector, [], {name: value for name, value in description.items() if name not in _WRITTEN})
    return estimator


_WRITTEN = ("format", "channels", "height", "width", "base_channels", "puzzles", "score", "precision", "estimator")
"""What :meth:`PuzzleDetector.save` and :meth:`PuzzleAE.save` write themselves."""


def _split(images: Any, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw validation images, at least one, and leave at least one to train."""
    whole = torch.cat(list(arrays.batches(images)))
    count = min(max(1, round(fraction * len(whole))), len(whole) - 1)
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(whole))).to(whole.device)
    return whole[order[count:].sort().values], whole[order[:count].sort().values]


def _check_contamination(value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value <= 0.5:
        raise ValueError(f"contamination must be in (0, 0.5], got {value!r}")
