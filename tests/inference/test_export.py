"""The ONNX model and the detector give the same scores."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from puzzle_study import config
from puzzle_study.detectors.base import Context, Detector, Run, Shape
from puzzle_study.detectors.files import DESCRIPTION
from puzzle_study.detectors.puzzle_ae.puzzles import PuzzleSet, all_permutations, drawn_permutations, transpositions
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import Calibration
from puzzle_study.inference.export import write_onnx
from puzzle_study.score import main

from ..core import tiny

NINE = PuzzleSet("jigsaw", 3, drawn_permutations(4, 0))
CASES: dict[str, tuple[PuzzleSet, int, int, str, str]] = {
    "grid 2": (PuzzleSet("jigsaw", 2, all_permutations()), 1, 16, "l2", "min"),
    "grid 2, odd pieces in the network": (PuzzleSet("jigsaw", 2, transpositions(4)), 1, 46, "l2", "avg"),
    "grid 2, padded, colour": (PuzzleSet("jigsaw", 2, transpositions(4)), 3, 21, "l2", "max"),
    "grid 3, padded": (NINE, 1, 28, "mse", "min"),
    "grid 3, colour": (NINE, 3, 18, "mse", "avg"),
    "rotation": (PuzzleSet("rotation", 1, ((1,), (2,), (3,))), 1, 19, "mse", "max"),
}
"""Puzzles, channels, side, norm, aggregation: each norm with each aggregation once."""


def calibrated(
    in_play: PuzzleSet,
    channels: int = 1,
    side: int = 16,
    error: str = "l2",
    aggregation: str = "max",
) -> Detector:
    """A detector with validation errors."""
    reading = config.Reading(error, aggregation)
    detector = tiny.detector(in_play, channels=channels, side=side, reading=reading).eval()
    detector.calibrate(tiny.images(4, channels=channels, side=side, seed=1))
    return detector


def session(path: Path) -> Any:
    """A runtime of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(model: Any, x_NCHW: Tensor) -> Tensor:
    """Scores by the runtime."""
    return torch.from_numpy(model.run(["score"], {"image": x_NCHW.numpy()})[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_the_model_of_every_detector_gives_its_scores(name: str, tmp_path: Path) -> None:
    kind = DETECTORS[name]
    context = Context(Shape(3, 17, 20), 0, tiny.CPU, "float32", "folder")
    detector = kind.build(kind.Settings.model_validate(kind.Settings.SMALL), context)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 3, 17, 20), dtype=np.uint8))
    detector.fit(images[:10], Run())
    detector.calibrate(images[10:14])
    write_onnx(detector, tmp_path / "model.onnx")
    found = run(session(tmp_path / "model.onnx"), images[14:] / 255)
    torch.testing.assert_close(found, detector.scores(detector.error_matrix(images[14:])), rtol=1e-4, atol=1e-5)
    assert found.std() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_model_scores_batches_of_any_size_as_the_detector_does(case: str, tmp_path: Path) -> None:
    _, channels, side, *_ = CASES[case]
    detector = calibrated(*CASES[case])
    images = tiny.float_images(7, channels=channels, side=side, seed=2)
    with torch.no_grad():
        expected = detector(images)
    # The model computes in float32 all the same.
    detector.precision = "bfloat16"
    write_onnx(detector, tmp_path / "model.onnx")
    assert detector.precision == "bfloat16"
    model = session(tmp_path / "model.onnx")
    assert expected.std() > 0.01
    for count in (1, 2, 7):
        found = run(model, images[:count])
        assert found.shape == (count,)
        torch.testing.assert_close(found, expected[:count], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_model_says_what_its_score_is_and_gives_a_threshold_and_the_same_bytes_again(tmp_path: Path) -> None:
    detector = calibrated(NINE)
    for name in ("model.onnx", "again.onnx"):
        write_onnx(detector, tmp_path / name, rate=0.25, task={"dataset": "digits", "normal_class": "3"})
    model = session(tmp_path / "model.onnx")
    (image,), (score,) = model.get_inputs(), model.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["N", 1, 16, 16])
    assert (score.name, score.type, score.shape) == ("score", "tensor(float)", ["N"])
    found = model.get_modelmeta().custom_metadata_map
    assert float(found["threshold"]) == Calibration.of(detector).threshold(0.25)
    assert {name: found[name] for name in ("normal_class", "error", "aggregation", "false_positive_rate")} == {
        "normal_class": "3",
        "error": "l2",
        "aggregation": "max",
        "false_positive_rate": "0.25",
    }
    content = (tmp_path / "model.onnx").read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == content
    assert str(Path(__file__).parents[2]).encode() not in content, "no path of this machine"
    assert onnx.load(tmp_path / "model.onnx").ir_version <= 8


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_a_package_the_sentence_says_what_to_install(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"onnx and onnxscript; .* checkout .*: pip install '\.\[export\]'"):
        write_onnx(calibrated(NINE), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"model\.onnx cannot be written \(.*\); choose another --export"):
        write_onnx(calibrated(NINE), tmp_path / "taken" / "model.onnx")


def test_a_task_that_is_none_is_a_sentence_and_nothing_is_written(best: Path, tmp_path: Path) -> None:
    description = best / "3" / DESCRIPTION
    description.write_text(json.dumps(json.loads(description.read_text()) | {"task": [1]}))
    result = CliRunner().invoke(main, ["--export", str(tmp_path / "model.onnx"), str(best)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {description} does not say what it was trained for; restore it or train")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_the_command_says_one_line_and_its_file_serves_the_example_of_the_page(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a planted torchvision that cannot be imported without a trace."""
    planted, marker = tmp_path / "planted" / "torchvision", tmp_path / "imported"
    planted.mkdir(parents=True)
    (planted / "__init__.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    code = (
        "import sys; from puzzle_study.score import main\n"
        f"main(['--export', {str(tmp_path / 'model.onnx')!r}, {str(best)!r}])"
    )
    environment = os.environ | {"PYTHONPATH": str(planted.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"{tmp_path / 'model.onnx'}: scores of {best / '3'}\n"
    scores = run(session(tmp_path / "model.onnx"), tiny.float_images(2))
    assert np.isfinite(scores.numpy()).all()
    assert not marker.exists()
    shutil.move(tmp_path / "model.onnx", tmp_path / "parts.onnx")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    example: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], example)
    assert example["flagged"].shape == example["scores"].shape == (4,)
