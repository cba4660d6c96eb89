"""A detector as an ONNX model: images in, anomaly scores out, for any runtime that reads ONNX.

The graph is written node by node. PyTorch has two exporters of its own: the one that traces TorchScript is deprecated,
the other needs a further package; the network is a dozen lines of :mod:`puzzle_study.detectors.puzzle_ae.networks`, and the tests
hold the model against the detector.

Shape legend: N images, K permutations, C channels, H and W pixels, after padding in the inner nodes, L = H·W.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from puzzle_study import __version__
from puzzle_study.detectors import scoring
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.detectors.puzzle_ae.networks import DoubleConvolution, UNet
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import Calibration
from puzzle_study.results import replacing

OPSET, IR_VERSION = 17, 8
"""Old enough for every runtime since 2022."""
REDUCTIONS = {"min": "ReduceMin", "avg": "ReduceMean", "max": "ReduceMax"}


def write_onnx(
    detector: PuzzleDetector, path: Path, *, rate: float = 0.05, task: Mapping[str, Any] | None = None
) -> None:
    """Write a detector as an ONNX model with input ``image`` and output ``score``.

    ``image``: float32 [N, C, H, W] in [0, 1], the batch N free; ``score``: float32 [N], 1 is a typical normal image.
    The model computes in float32 whatever the detector was calibrated in, and holds all N × K puzzles in memory at
    once. Its metadata say what the score is and give a threshold.

    Args:
        detector: a calibrated detector.
        path: the file, written whole or not at all.
        rate: false-positive rate of the threshold in the metadata, see :meth:`Calibration.threshold`.
        task: what else the metadata name, such as data set and normal class.

    Raises:
        UserError: the package onnx is missing, or the file cannot be written.
    """
    try:
        import onnx
    except ImportError:
        raise UserError(
            "--export needs the package onnx; install it with: pip install 'puzzle-study[export]'"
        ) from None
    shape = detector.shape
    graph = _Graph()
    score_N = graph.score("image", detector)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [*graph.nodes, onnx.helper.make_node("Identity", [score_N], ["score"])],
            "puzzle_ae",
            [_tensor("image", ["N", shape.channels, shape.height, shape.width])],
            [_tensor("score", ["N"])],
            graph.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="puzzle_study",
        producer_version=__version__,
    )
    calibration = Calibration.of(detector)
    properties = {
        "error": detector.score.error,
        "aggregation": detector.score.aggregation,
        "calibration_precision": detector.precision,
        "validation_images": len(calibration),
        "false_positive_rate": rate,
        "threshold": calibration.threshold(rate),
        **(task or {}),
    }
    onnx.helper.set_model_props(model, {name: str(value) for name, value in properties.items()})
    onnx.checker.check_model(model, full_check=True)
    try:
        with replacing(path) as temporary:
            onnx.save(model, temporary)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); choose another --export") from error


def _tensor(name: str, shape: list[str | int]) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


class _Graph:
    """Nodes and constants in the making; every method adds nodes and returns the name of their output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add one node with one output."""
        import onnx

        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value: Tensor | npt.NDArray[Any] | list[int]) -> str:
        """Add a constant; lists of numbers become int64, as shapes must be."""
        import onnx

        array = value.detach().cpu().contiguous().numpy() if isinstance(value, Tensor) else np.asarray(value)
        name = f"constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def score(self, image_NCHW: str, detector: PuzzleDetector) -> str:
        """Score images, as :meth:`PuzzleDetector.forward` does."""
        puzzler, channels, k = detector.puzzler, detector.shape.channels, len(detector.puzzle_set)
        height, width = puzzler.height, puzzler.width
        padded = self.pad(image_NCHW, bottom=height - detector.shape.height, right=width - detector.shape.width)
        flat_NCL = self.add("Reshape", padded, self.constant([-1, channels, height * width]))
        pixels = self.constant(puzzler.source_KL.flatten().int())
        shuffled = self.add("Gather", flat_NCL, pixels, axis=2)
        puzzle_NCKHW = self.add("Reshape", shuffled, self.constant([-1, channels, k, height, width]))
        puzzle_NKCHW = self.add("Transpose", puzzle_NCKHW, perm=[0, 2, 1, 3, 4])
        puzzle_MCHW = self.add("Reshape", puzzle_NKCHW, self.constant([-1, channels, height, width]))
        solved_MCHW = self.network(puzzle_MCHW, detector.network, height, width)
        solved_NKCHW = self.add("Reshape", solved_MCHW, self.constant([-1, k, channels, height, width]))
        difference = self.add("Sub", solved_NKCHW, self.add("Unsqueeze", padded, self.constant([1])))
        square = self.add("Mul", difference, difference)
        error_NK = self.add("ReduceMean", square, axes=[2, 3, 4], keepdims=0)
        if detector.score.error == "l2":
            error_NK = self.add("Sqrt", error_NK)
        divisor_K = self.constant(scoring.normalisation(detector.validation_NK, detector.score.error))
        relative_NK = self.add("Div", error_NK, divisor_K)
        return self.add(REDUCTIONS[detector.score.aggregation], relative_NK, axes=[1], keepdims=0)

    def network(self, x: str, network: UNet, height: int, width: int) -> str:
        """Apply the U-Net to puzzles of these sides, as :meth:`UNet.forward` does."""
        skips = [(self.block(x, network.stem), height, width)]
        for block in network.down:
            above, height, width = skips[-1]
            pooled = self.add("MaxPool", above, kernel_shape=[2, 2], strides=[2, 2])
            skips.append((self.block(pooled, block), height // 2, width // 2))
        y, height, width = skips.pop()
        for block in network.up:
            skip, bottom, right = skips.pop()
            y = self.add(
                "Resize",
                y,
                "",
                self.constant(np.array([1, 1, 2, 2], dtype=np.float32)),
                mode="linear",
                coordinate_transformation_mode="align_corners",
            )
            top, left = (bottom - 2 * height) // 2, (right - 2 * width) // 2
            y = self.pad(y, top, left, bottom - 2 * height - top, right - 2 * width - left)
            y = self.block(self.add("Concat", skip, y, axis=1), block)
            height, width = bottom, right
        return self.convolution(y, network.head)

    def block(self, x: str, block: nn.Module) -> str:
        """Apply two convolutions with ReLU."""
        assert isinstance(block, DoubleConvolution)
        for layer in block:
            x = self.convolution(x, layer) if isinstance(layer, nn.Conv2d) else self.add("Relu", x)
        return x

    def convolution(self, x: str, layer: nn.Conv2d) -> str:
        """Apply a convolution of stride 1 with its bias."""
        assert layer.bias is not None
        margin = int(layer.padding[0])
        return self.add("Conv", x, self.constant(layer.weight), self.constant(layer.bias), pads=[margin] * 4)

    def pad(self, x: str, top: int = 0, left: int = 0, bottom: int = 0, right: int = 0) -> str:
        """Pad images with zeros, if at all."""
        if not any((top, left, bottom, right)):
            return x
        return self.add("Pad", x, self.constant([0, 0, top, left, 0, 0, bottom, right]))
