"""Detectors on features, held against slow and obvious twins; the cache of features; sentences."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from puzzle_study import config
from puzzle_study.config.read import load
from puzzle_study.detectors import feature_cache, feature_networks, files
from puzzle_study.detectors.base import Context, Run, Shape
from puzzle_study.detectors.feature_networks import Lite0, open_network
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.inference.export import write_onnx

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def images(count: int, seed: int = 0, *, channels: int = 3, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


def built(name: str, shape: Shape | None = None, **settings: Any) -> Any:
    kind = DETECTORS[name]
    return kind.build(kind.Settings.model_validate(settings), Context(shape or Shape(3, 32, 32), 0, CPU, "float32"))


def fitted(name: str, training: Tensor, **settings: Any) -> Any:
    detector = built(name, Shape(*training.shape[1:]), **settings)
    detector.fit(training, Run())
    detector.calibrate(training[:2])
    return detector


def test_the_network_is_the_published_one() -> None:
    """Lite0 has 4.65 M weights; the last layer and the classifier are behind its last block."""
    network = open_network(None, (15,))
    last, classifier = 320 * 1280 + 2 * 1280, 1280 * 1000 + 1000
    assert sum(weights.numel() for weights in network.parameters()) == 4_652_008 - last - classifier
    assert [tuple(found.shape) for found in open_network(None, (2, 4, 10, 15))(torch.zeros(1, 3, 96, 96))] == [
        (1, 24, 24, 24),
        (1, 40, 12, 12),
        (1, 112, 6, 6),
        (1, 320, 3, 3),
    ]


def test_neighbours_are_those_of_scikit_learn() -> None:
    training, others = images(20), images(5, 1)
    detector = fitted("feature_knn", training, neighbours=3)
    with torch.no_grad():
        known, new = (detector.network(part.float() / 255)[-1].mean((2, 3)).numpy() for part in (training, others))
    distance, _ = NearestNeighbors(n_neighbors=3, metric="cosine", algorithm="brute").fit(known).kneighbors(new)
    np.testing.assert_allclose(detector.error_matrix(others)[:, 0], distance.mean(1), rtol=1e-3, atol=1e-6)


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An empty cache, and how many images went through the network each time."""
    monkeypatch.setenv("PUZZLE_STUDY_CACHE", str(tmp_path))
    seen: list[int] = []
    forward = Lite0.forward

    def counting(self: Lite0, x_NCHW: Tensor) -> list[Tensor]:
        seen.append(len(x_NCHW))
        return forward(self, x_NCHW)

    monkeypatch.setattr(Lite0, "forward", counting)
    return seen


def test_features_are_computed_once_for_all_trials_that_use_them(counted: list[int]) -> None:
    first = fitted("patchcore", images(40), coreset=0.1)
    assert sum(counted) >= 40
    for coreset in (0.1, 0.2):
        counted.clear()
        again = fitted("patchcore", images(40), coreset=coreset)
        assert sum(counted) < 10  # the trial run and the calibration
    again = fitted("patchcore", images(40), coreset=0.1)
    assert torch.equal(again.bank_BD, first.bank_BD)


@pytest.mark.parametrize(
    ("training", "settings"), [(images(40, 1), {}), (images(40), {"input_size": 48})], ids=["images", "size"]
)
def test_other_images_or_sizes_have_other_features(
    training: Tensor, settings: dict[str, int], counted: list[int]
) -> None:
    fitted("patchcore", images(40))
    counted.clear()
    fitted("patchcore", training, **settings)
    assert sum(counted) >= 40


def test_a_damaged_entry_is_computed_again(counted: list[int]) -> None:
    whole = fitted("feature_knn", images(40))
    (entry,) = feature_cache.folder().glob("*.safetensors")
    entry.write_bytes(entry.read_bytes()[:100])
    assert torch.equal(fitted("feature_knn", images(40)).train_MD, whole.train_MD)
    assert entry.stat().st_size > 100


def test_the_cache_keeps_to_its_size(counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "MOST_BYTES", 250)
    for number in range(3):
        feature_cache.kept({"number": number}, lambda: [torch.zeros(25)])
    assert len(list(feature_cache.folder().glob("*.safetensors"))) <= 2
    again: list[int] = []
    feature_cache.kept({"number": 2}, lambda: again.append(2) or [torch.zeros(25)])  # type: ignore[func-returns-value]
    assert again == []
    feature_cache.kept({"number": 3}, lambda: [torch.zeros(100)])
    assert len(list(feature_cache.folder().glob("*.safetensors"))) <= 2


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PUZZLE_STUDY_CACHE", str(tmp_path / "file"))
    assert fitted("feature_knn", images(4)).train_MD.shape == (4, 320)


def test_defaults_follow_the_data_set() -> None:
    def own(name: str, dataset: str) -> Any:
        kind = DETECTORS[name].Settings
        return kind.model_validate(config.layers.resolved(kind, {}, dataset))

    assert [own("feature_knn", dataset).input_size for dataset in ("mnist", "cifar10", "folder")] == [64, 96, None]
    assert [own("patchcore", dataset).coreset for dataset in ("mnist", "mvtec")] == [0.01, 0.1]


def test_gray_images_are_shown_in_colour_and_that_is_said() -> None:
    own = DETECTORS["feature_knn"].Settings()
    assert "three equal colour channels" in own.notes(1)[0]
    assert own.notes(3) == []
    assert built("feature_knn", Shape(1, 32, 32)).errors is not None


def test_without_the_extra_studies_and_detectors_are_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.save(fitted("feature_knn", images(3)), tmp_path, {})
    find = importlib.util.find_spec
    hidden = (feature_networks.CODE, feature_networks.WEIGHTS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else find(name, *rest))
    path = tmp_path / "study.yaml"
    path.write_text("{data: {name: digits}, detector: padim}")
    with pytest.raises(UserError, match=r"efficientnet-lite-pytorch; install .*\[features\].*`features`"):
        load(path)
    with pytest.raises(UserError, match=r"\[features\]"):
        built("padim")
    with pytest.raises(UserError, match=r"^the feature network .*\[features\]"):
        files.load_detector(tmp_path, device=CPU)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["feature_knn", "padim", "patchcore"])
def test_the_exported_model_scores_any_number_of_images_as_the_detector_does(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    detector = fitted(name, images(8))
    write_onnx(detector, tmp_path / "model.onnx")
    x_NCHW = images(5, 1).float() / 255
    (answer,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"image": x_NCHW.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(answer, detector(x_NCHW), rtol=1e-3)
