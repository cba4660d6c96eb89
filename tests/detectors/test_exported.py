"""Files of torch.export: read as data, run step by step, refused in a sentence."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from puzzle_study.config.read import load
from puzzle_study.detectors import exported as reader
from puzzle_study.detectors import files
from puzzle_study.detectors.base import Context, Run, Shape
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from tests.detectors.networks import Vectors, exported, made

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("network") / "small.pt2", made())


def images(count: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, 32, 32), generator=generator, dtype=torch.uint8)


def built(path: Path, name: str = "feature_knn", shape: Shape | None = None, **settings: Any) -> Any:
    kind = DETECTORS[name]
    own = kind.Settings.model_validate({"features": str(path), **settings})
    return kind.build(own, Context(shape or Shape(3, 32, 32), 0, CPU, "float32"))


def test_it_computes_what_the_network_computed_for_any_number_of_images(small: Path) -> None:
    network, read = made(), reader.read(small)
    for count in (1, 5):
        x = images(count).float() / 255
        for found, expected in zip(read(x), network(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_image(small: Path) -> None:
    x = (images(2).float() / 255).requires_grad_()
    (found,) = torch.autograd.grad(reader.read(small)(x)[1].square().sum(), x)
    (expected,) = torch.autograd.grad(made()(x)[1].square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["feature_knn", "padim", "patchcore"])
def test_a_detector_keeps_the_network_and_needs_the_file_no_more(name: str, small: Path, tmp_path: Path) -> None:
    copy = tmp_path / "network.pt2"
    copy.write_bytes(small.read_bytes())
    detector = built(copy, name)
    detector.fit(images(12), Run())
    detector.calibrate(images(4))
    files.save(detector, tmp_path, {})
    copy.unlink()
    loaded = files.load_detector(tmp_path, device=CPU)
    assert torch.equal(loaded.error_matrix(images(3)), detector.error_matrix(images(3)))


def test_every_known_step_is_one_of_pytorchs() -> None:
    for step in reader.STEPS:
        reader._call(f"{reader.ATEN}{step}")
    for name in reader.SUMS:
        reader._call(f"{reader.PYTHON}{name}")


def changed(path: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A copy of an archive in which every file went through a function."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
    return target


class Touch:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(small: Path, tmp_path: Path) -> None:
    """Not the pickled sample inputs, nor the expressions of sizes, both of which torch.export.load executes."""
    mark = tmp_path / "executed"

    def hostile(name: str, content: bytes) -> bytes:
        if name.endswith("sample_inputs/model.pt"):
            return pickle.dumps(Touch(mark))
        if name.endswith("models/model.json"):
            return content.replace(b"Symbol(", f"__import__('pathlib').Path('{mark}').touch() or Symbol(".encode())
        return content

    path = changed(small, tmp_path / "hostile.pt2", hostile)
    x = images(2).float() / 255
    assert torch.equal(reader.read(path)(x)[0], reader.read(small)(x)[0])
    assert not mark.exists()


def pickled(name: str, content: bytes) -> bytes:
    return content.replace(b'"use_pickle": false', b'"use_pickle": true') if name.endswith("config.json") else content


def reading_files(name: str, content: bytes) -> bytes:
    return content.replace(b"aten.relu.default", b"aten.from_file.default")


def calling_python(name: str, content: bytes) -> bytes:
    return content.replace(b"torch.ops.aten.relu.default", b"os.system")


def short(name: str, content: bytes) -> bytes:
    return content[:-4] if name.endswith("weight_0") else content


def negative(name: str, content: bytes) -> bytes:
    return content.replace(b'{"as_int": 27}', b'{"as_int": -27}') if name.endswith("weights_config.json") else content


def huge(name: str, content: bytes) -> bytes:
    if not name.endswith(("models/model.json", "weights_config.json")):
        return content
    return content.replace(b'"sizes": [{"as_int": 8}', b'"sizes": [{"as_int": 800000000000}')


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (pickled, "pickled"),
        (reading_files, "from_file"),
        (calling_python, r"os\.system"),
        (short, "weight_0"),
        (negative, "negative"),
        (huge, "weight_"),
    ],
)
def test_a_file_that_asks_for_more_than_known_steps_on_its_own_weights_is_refused(
    change: Callable[[str, bytes], bytes], why: str, small: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=why):
        reader.read(changed(small, tmp_path / "changed.pt2", change))


def test_a_description_with_an_unknown_step_is_refused(small: Path) -> None:
    program = json.loads(json.dumps(reader.read_program(small)))
    program["steps"][0][0] = "torch.ops.aten.from_file.default"
    with pytest.raises(ValueError, match="from_file"):
        reader.ExportedNetwork(program)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_what_is_no_such_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "network.pt2"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"network\.pt2 cannot be used .*torch\.export\.save"):
        reader.read(path)
    with pytest.raises(UserError, match="is missing"):
        reader.read(tmp_path / "none.pt2")


def test_a_file_of_torch_save_is_refused(tmp_path: Path) -> None:
    torch.save(made().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"torch\.export\.save"):
        reader.read(tmp_path / "weights.pt")


def test_a_network_in_training_mode_or_of_a_fixed_number_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training mode; call \.eval\(\)"):
        reader.read(exported(tmp_path / "training.pt2", made().train()))
    with pytest.raises(UserError, match="exactly 2 images"):
        reader.read(exported(tmp_path / "fixed.pt2", made(), free=False))


def test_another_size_or_number_of_channels_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs images of 32×32 .*input_size is 64"):
        built(small, input_size=64)
    with pytest.raises(UserError, match="3 channels and these have 4"):
        built(small, shape=Shape(4, 32, 32))
    gray = exported(tmp_path / "gray.pt2", made(channels=1), image=(1, 32, 32))
    with pytest.raises(UserError, match=r"1 channels and these have 3.*grayscale"):
        built(gray)


def test_images_of_another_size_are_scaled_to_what_the_file_wants(small: Path) -> None:
    assert built(small, shape=Shape(1, 20, 28)).size == (32, 32)


def test_vectors_are_enough_for_neighbours_but_not_for_patches(tmp_path: Path) -> None:
    path = exported(tmp_path / "vectors.pt2", made(Vectors))
    detector = built(path)
    detector.fit(images(6), Run())
    assert detector.train_MD.shape == (6, 16)
    for name in ("padim", "patchcore"):
        with pytest.raises(UserError, match="export maps"):
            built(path, name)


def test_the_page_says_how_a_network_is_exported(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "detectors.md").read_text(encoding="utf-8")
    said: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], said)
    said["save"](made(), tmp_path / "network.pt2", size=32)
    network, x = said["Features"](made()), images(3).float() / 255
    torch.testing.assert_close(reader.read(tmp_path / "network.pt2")(x)[1], network(x)[1], rtol=1e-4, atol=1e-5)


def study_file(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_study_file_names_a_network_from_the_current_folder(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small.parent)
    one = study_file(
        tmp_path, f"{{data: {{name: digits}}, detector: feature_knn, features: {small.name}, input_size: null}}"
    )
    assert load(one).study.detectors["feature_knn"].model_dump()["features"] == str(small)
    several = study_file(
        tmp_path,
        f"{{data: {{name: digits}}, detectors: {{pca: {{}}, padim: {{features: {small.name}, input_size: 32}}}}}}",
    )
    assert load(several).study.detectors["padim"].model_dump()["features"] == str(small)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("features: none.pt2", "none.pt2 is missing"),
        ("features: small.pt2, input_size: 48", "input_size is 48"),
    ],
)
def test_a_study_with_a_wrong_network_is_refused_when_it_is_loaded(
    wrong: str, why: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small.parent)
    path = study_file(tmp_path, f"{{data: {{name: digits}}, detector: patchcore, {wrong}}}")
    with pytest.raises(UserError, match=why):
        load(path)
