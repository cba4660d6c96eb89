"""The MLflow model and the detector give the same scores, and the model holds nothing but data."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from puzzle_study.detectors.files import load_detector
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import Calibration
from puzzle_study.inference.mlflow_model import write_mlflow
from puzzle_study.score import main

from ..core import tiny


@pytest.mark.slow
def test_the_model_is_loaded_by_mlflow_and_gives_the_detectors_scores(best: Path, tmp_path: Path) -> None:
    pyfunc = pytest.importorskip("mlflow.pyfunc", reason="needs mlflow-skinny")
    target = tmp_path / "models" / "three"
    result = CliRunner().invoke(main, ["--export-mlflow", str(target), str(best), "--fpr", "0.25"])
    assert result.exit_code == 0, result.output
    assert result.stderr == f"{target}: MLflow model of {best / '3'}; mlflow.pyfunc.load_model('{target}') loads it\n"
    assert [path.name for path in target.parent.iterdir()] == ["three"]

    model, detector = pyfunc.load_model(str(target)), load_detector(best / "3", device=tiny.CPU)
    images = tiny.images(5, seed=3)
    expected = detector.scores(detector.error_matrix(images)).double().numpy()
    np.testing.assert_array_equal(model.predict(images.numpy()), expected)
    assert expected.std() > 0
    example = model.input_example
    assert (example.dtype, example.shape) == (np.dtype("uint8"), (1, 1, tiny.SIDE, tiny.SIDE))
    assert model.predict(example).shape == (1,)
    with pytest.raises(Exception, match="uint8"):
        model.predict(images.numpy().astype("float32"))

    said = model.metadata.metadata
    assert said["threshold"] == Calibration.of(detector).threshold(0.25)
    assert (said["detector"], said["normal_class"], said["false_positive_rate"]) == ("puzzle_ae", "3", 0.25)
    written = {path.name for path in target.rglob("*") if path.is_file()}
    assert {"weights.safetensors", "detector.json"} <= written
    assert not any(name.endswith((".pkl", ".py", ".pickle")) for name in written)


def test_a_folder_that_exists_and_a_missing_mlflow_are_one_sentence(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = load_detector(best / "3", device=tiny.CPU)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.pyfunc", None)
    with pytest.raises(UserError, match=r"mlflow-skinny or mlflow; .* pip install '\.\[mlflow\]'"):
        write_mlflow(detector, best / "3", tmp_path / "new")
    monkeypatch.undo()
    pytest.importorskip("mlflow.pyfunc", reason="needs mlflow-skinny")
    with pytest.raises(UserError, match="exists; name a new folder for --export-mlflow"):
        write_mlflow(detector, best / "3", tmp_path)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        write_mlflow(detector, best / "3", tmp_path / "taken" / "new")
