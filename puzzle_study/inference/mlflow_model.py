"""A detector as an MLflow model (``mlflow.pyfunc``), from images to anomaly scores.

MLflow loads it through :func:`_load_pyfunc`: the model holds the detector's own two files, which are read as data, and
no pickle.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from puzzle_study import __version__
from puzzle_study.detectors.base import Detector
from puzzle_study.detectors.devices import chosen_device
from puzzle_study.detectors.files import DESCRIPTION, WEIGHTS, load_detector
from puzzle_study.detectors.memory import first_line
from puzzle_study.errors import UserError
from puzzle_study.inference import arrays
from puzzle_study.inference.calibration import Calibration

FILES = "detector"
GRAY = 128


class DetectorModel:
    """A loaded detector, with the method that MLflow calls."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    def predict(self, images: Any, params: Mapping[str, Any] | None = None) -> arrays.Floats:
        """Return the anomaly score of each image, float64 [N]; 1 is a typical normal image, higher is more anomalous.

        Args:
            images: uint8 [N, C, H, W] of the detector's own size.
            params: unused; MLflow passes it.

        Raises:
            ValueError: the pixels are not uint8.
        """
        return arrays.anomaly_scores(self.detector, images)


def _load_pyfunc(data_path: str) -> DetectorModel:
    """Load a model; MLflow looks for this name."""
    return DetectorModel(load_detector(Path(data_path), device=chosen_device("auto")))


def write_mlflow(
    detector: Detector, folder: Path, target: Path, *, rate: float = 0.05, task: Mapping[str, Any] | None = None
) -> None:
    """Write a saved detector as a folder for ``mlflow.pyfunc.load_model`` and ``mlflow models serve``.

    Its signature is uint8 [N, C, H, W] to float64 [N], the batch N free; its input example is one gray image. Whoever
    loads it needs this package.

    Args:
        detector: the detector as it was loaded from ``folder``, on any device.
        folder: its files, such as ``results/NAME/best/CLASS``.
        target: the new folder; it must not exist.
        rate: false-positive rate of the threshold in the metadata, see :meth:`Calibration.threshold`.
        task: further metadata, such as data set and normal class.

    Raises:
        UserError: MLflow is missing, or the target exists or cannot be written.
    """
    # MLflow reports its use to its makers unless it is told not to before it is imported.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow.pyfunc
    except ImportError:
        raise UserError(
            "--export-mlflow needs the package mlflow-skinny or mlflow; install it in the checkout of puzzle_study "
            "with: pip install '.[mlflow]'"
        ) from None
    if target.exists():
        raise UserError(f"{target} exists; name a new folder for --export-mlflow")
    # It says at each saving that it checks the input example.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staged:
            (files := Path(staged, FILES)).mkdir()
            for name in (WEIGHTS, DESCRIPTION):
                shutil.copy(folder / name, files / name)
            model = Path(staged, "model")
            mlflow.pyfunc.save_model(
                path=model,
                loader_module=__name__,
                data_path=files,
                signature=_signature(detector),
                input_example=np.full((1, *_sides(detector)), GRAY, dtype=np.uint8),
                pip_requirements=[f"puzzle-study=={__version__}"],
                metadata=_metadata(detector, rate, task or {}),
            )
            model.rename(target)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror or first_line(error)}); choose another"
        ) from error


def _sides(detector: Detector) -> tuple[int, int, int]:
    return detector.shape.channels, detector.shape.height, detector.shape.width


def _signature(detector: Detector) -> Any:
    """Return MLflow's signature: what goes in and what comes out."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    images = TensorSpec(np.dtype(np.uint8), (-1, *_sides(detector)))
    return ModelSignature(Schema([images]), Schema([TensorSpec(np.dtype(np.float64), (-1,))]))


def _metadata(detector: Detector, rate: float, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a user of the scores needs to know."""
    calibration = Calibration.of(detector)
    return {
        "detector": detector.name,
        "score": "1 is a typical normal image; higher is more anomalous",
        "threshold": calibration.threshold(rate),
        "false_positive_rate": rate,
        "validation_images": len(calibration),
        **{name: str(value) for name, value in task.items()},
    }
