"""A detector in a folder: weights as data (safetensors) and a JSON description."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from puzzle_study.config.types import Reading
from puzzle_study.detectors.base import Detector, Shape
from puzzle_study.detectors.checkpoint import UNREADABLE
from puzzle_study.detectors.devices import known_precision
from puzzle_study.detectors.memory import first_line, is_out_of_memory
from puzzle_study.detectors.registry import COMPOSED, DETECTORS
from puzzle_study.detectors.scoring import is_known
from puzzle_study.errors import MissingPackage, UserError
from puzzle_study.io import replacing, write_text

FORMAT = 2
WEIGHTS, DESCRIPTION = "weights.safetensors", "detector.json"


def save(detector: Detector, folder: Path, description: Mapping[str, Any]) -> None:
    """Write a detector's two files into an existing folder.

    Args:
        detector: fitted and calibrated.
        folder: where to write; its two files are replaced.
        description: further values to record (settings, task, seed).
    """
    tensors = {name: tensor.cpu().contiguous() for name, tensor in detector.state_dict().items()}
    with replacing(folder / WEIGHTS, lasting=True) as temporary:
        save_file(tensors, temporary)
        digest = _digest(temporary.read_bytes())
    content = {
        **description,
        "format": FORMAT,
        "detector": detector.name,
        "image": asdict(detector.shape),
        "reading": asdict(detector.reading),
        "precision": detector.precision,
        "described": detector.describe(),
        "weights": digest,
    }
    write_text(folder / DESCRIPTION, json.dumps(content, indent=2) + "\n")


def load_detector(folder: Path, *, device: torch.device) -> Detector:
    """Load a saved detector, reading weights only as data.

    Raises:
        UserError: the folder has no detector, its package is not installed, a file is damaged, or the detector does
            not fit into memory.
    """
    try:
        return _restored(folder).placed(device).eval()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"the detector in {folder} does not fit into memory ({first_line(error)}); end other programs that use it, "
            f"or compute on the CPU"
        ) from error


def _restored(folder: Path) -> Detector:
    content = read_description(folder)
    name = str(content.get("detector"))
    kind = COMPOSED[name] if name in COMPOSED else DETECTORS[name]
    try:
        shape = Shape(**{name: int(size) for name, size in content["image"].items()})
        reading = Reading(**content["reading"])
        precision = known_precision(content["precision"])
        if not is_known(reading):
            raise ValueError(f"reading {reading.error}, {reading.aggregation} is unknown")
        raw = (folder / WEIGHTS).read_bytes()
        if _digest(raw) != content["weights"]:
            raise ValueError(f"{WEIGHTS} has changed since it was written")
        tensors, described = load(raw), (content["described"], shape, reading, precision)
        # A description cannot ask for more memory than the weights fill.
        with torch.device("meta"):
            _check_sizes(kind.restore(*described), tensors)
        detector = kind.restore(*described)
        detector.load_state_dict(tensors)
        return detector
    except MissingPackage:
        raise
    except (*UNREADABLE, SafetensorError, UserError, OverflowError, MemoryError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"{folder} holds a damaged detector ({first_line(error)}); train it again or restore {WEIGHTS} and "
            f"{DESCRIPTION}"
        ) from error


def _check_sizes(described: Detector, tensors: Mapping[str, torch.Tensor]) -> None:
    """Compare the sizes in a description with the file's; any number of validation images is allowed."""
    validation_NK = tensors["validation_NK"]
    if len(validation_NK) == 0 or not validation_NK.isfinite().all():
        raise ValueError("its validation errors are missing or not finite")
    wanted = {name: tuple(tensor.shape) for name, tensor in described.state_dict().items()}
    wanted["validation_NK"] = (len(validation_NK), described.views)
    read = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := [name for name in {**wanted, **read} if wanted.get(name) != read.get(name)]:
        raise ValueError(f"{DESCRIPTION} needs {wrong[0]} of size {wanted.get(wrong[0])}, not {read.get(wrong[0])}")


def read_description(folder: Path) -> dict[str, Any]:
    """Return the content of ``detector.json``; UserError if it is missing, not JSON, or from another version."""
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no detector ({DESCRIPTION} is missing); give a folder like best/CLASS"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); restore it or train again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of puzzle_study; this one reads format {FORMAT}")
    return content


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
