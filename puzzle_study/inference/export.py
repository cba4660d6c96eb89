"""A detector as an ONNX model, from images to anomaly scores, for any runtime that reads ONNX.

Shape legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from puzzle_study import __version__
from puzzle_study.detectors.base import Detector
from puzzle_study.detectors.memory import first_line
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import Calibration
from puzzle_study.io import replacing

OPSET, IR_VERSION = 18, 8
"""Supported by every runtime since the end of 2022, and the oldest that PyTorch writes without converting."""


def write_onnx(detector: Detector, path: Path, *, rate: float = 0.05, task: Mapping[str, Any] | None = None) -> None:
    """Write a detector as an ONNX model with input ``image`` and output ``score``.

    ``image``: float32 [N, C, H, W] in [0, 1], the batch N free; ``score``: float32 [N], 1 is a typical normal image.
    The model computes in float32, whatever the detector was calibrated in, and keeps all N × K views in memory at
    once. Its metadata describe the score and give a threshold.

    Args:
        detector: a calibrated detector.
        path: the file, written atomically.
        rate: false-positive rate of the threshold in the metadata, see :meth:`Calibration.threshold`.
        task: further metadata, such as data set and normal class.

    Raises:
        UserError: the package onnx or onnxscript is missing, ONNX lacks one of the detector's steps, or the file
            cannot be written.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError:
        raise UserError(
            "--export needs the packages onnx and onnxscript; install them in the checkout of puzzle_study with: "
            "pip install '.[export]'"
        ) from None
    calibration = Calibration.of(detector)
    properties = {
        "error": detector.reading.error,
        "aggregation": detector.reading.aggregation,
        "calibration_precision": detector.precision,
        "validation_images": len(calibration),
        "false_positive_rate": rate,
        "threshold": calibration.threshold(rate),
        **(task or {}),
    }
    try:
        with replacing(path) as temporary:
            model = _exported(detector)
            onnx.helper.set_model_props(model, {name: str(value) for name, value in properties.items()})
            onnx.checker.check_model(model, full_check=True)
            onnx.save(model, temporary)
    except torch.onnx.OnnxExporterError as error:
        raise UserError(
            f"{detector.title} cannot be exported: ONNX lacks one of its steps ({first_line(error)}); score with "
            f"puzzle_study, or export another detector"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); choose another --export") from error


def _exported(detector: Detector) -> Any:
    """Return the ONNX model of :meth:`Detector.forward` in float32."""
    module = copy.copy(detector).eval()
    module.precision = "float32"
    shape = detector.shape
    image_NCHW = torch.zeros(2, shape.channels, shape.height, shape.width, device=detector.device)
    with torch.no_grad():
        # Tables created at first use become constants of the model; during tracing they would become nodes.
        module(image_NCHW)
    with _silence():
        program = torch.onnx.export(
            module,
            (image_NCHW,),
            dynamo=True,
            input_names=["image"],
            output_names=["score"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "puzzle_study", __version__
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        # PyTorch notes each node's source line and folder on this machine.
        del part.metadata_props[:]
    return model


@contextmanager
def _silence() -> Iterator[None]:
    """Silence the exporter's irrelevant warnings, such as that torchvision is missing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
