"""A network in a file of ``torch.export.save``, read as data: a graph of known steps, and weights as bytes.

``torch.export.load`` unpickles parts of a file and evaluates expressions in it, so a file may run its author's
code. This reader does neither. It takes the graph from the file's JSON, refuses every step that is not in
:data:`STEPS`, and takes the weights from raw bytes of stated types and sizes. Two risks remain: a hostile file can need
much memory or time, and the steps rely on PyTorch's own checks of their arguments.

Shape legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import json
import math
import operator
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from puzzle_study.detectors.memory import first_line
from puzzle_study.errors import UserError, cut

ATEN, PYTHON = "torch.ops.aten.", "_operator."
KNOWN = """
abs.default adaptive_avg_pool2d.default add.Scalar add.Tensor add_.Scalar add_.Tensor addmm.default alias.default
amax.default amin.default arange.default arange.start arange.start_step avg_pool2d.default batch_norm.default
bmm.default cat.default chunk.default clamp.default clamp_.default clamp_min.default clone.default
constant_pad_nd.default contiguous.default conv1d.default conv2d.default conv2d.padding cos.default detach.default
detach_.default div.Scalar div.Tensor div_.Tensor dropout.default dropout_.default einsum.default elu.default
embedding.default erf.default exp.default expand.default expand_as.default flatten.using_ints flip.default
full.default full_like.default gelu.default glu.default group_norm.default hardsigmoid.default hardsigmoid_.default
hardswish.default hardswish_.default hardtanh.default hardtanh_.default index.Tensor layer_norm.default
leaky_relu.default leaky_relu_.default lift_fresh_copy.default linalg_vector_norm.default linear.default log.default
matmul.default max_pool2d.default maximum.default mean.default mean.dim meshgrid.default meshgrid.indexing
minimum.default mm.default mul.Scalar mul.Tensor mul_.Tensor narrow.default neg.default ones.default
ones_like.default pad.default permute.default pixel_shuffle.default pixel_unshuffle.default pow.Tensor_Scalar
reciprocal.default relu.default relu6.default relu6_.default relu_.default repeat.default reshape.default
roll.default rsqrt.default scaled_dot_product_attention.default select.int sigmoid.default sigmoid_.default
silu.default silu_.default sin.default slice.Tensor softmax.int softplus.default split.Tensor
split_with_sizes.default sqrt.default square.default squeeze.default squeeze.dim squeeze.dims stack.default
sub.Scalar sub.Tensor sub_.Tensor sum.default sum.dim_IntList sym_size.int t.default tanh.default to.device to.dtype
to.dtype_layout transpose.int type_as.default unbind.int unflatten.int unsqueeze.default upsample_bicubic2d.default
upsample_bicubic2d.vec upsample_bilinear2d.default upsample_bilinear2d.vec upsample_nearest2d.default
upsample_nearest2d.vec var.correction view.default where.self zeros.default zeros_like.default
"""
STEPS = frozenset(KNOWN.split())
"""PyTorch's functions that a graph may use, for image networks. None reads files or draws at random."""
SUMS = ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_")
"""Allowed arithmetic with numbers of images and pixels."""
CHECKS = frozenset(
    {"_assert_scalar.default", "_assert_tensor_metadata.default", "sym_constrain_range_for_size.default"}
)
"""Steps that compute nothing."""
TRAINING = {"batch_norm.default": "training", "dropout.default": "train", "dropout_.default": "train"}
"""Arguments that show whether the network was exported in training mode."""
# The format's numbers for types and memory layouts.
TYPES = {
    **{1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16},
    **{7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16},
}
FLOAT = 7
LAYOUTS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
PLAIN = ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string")
MOST_STEPS = 20_000
MOST_JSON = 2**28
DAMAGED = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, RecursionError),
    *(zipfile.BadZipFile, zlib.error),
)

Argument = tuple[str, str, Any]
"""Name, kind and value of a step's argument."""


class ExportedNetwork(nn.Module):
    """A network that runs the steps of an exported graph.

    Args:
        program: from :func:`read_program` or :meth:`describe`; it may come from an untrusted file.

    Attributes:
        channels: required channels of the images.
        size: required height and width of the images; None: any.
        dimensions: of each output: 4 for maps [N, C, h, w], 2 for vectors [N, C].

    Raises:
        ValueError, KeyError, TypeError: it is not a program of known steps.
    """

    def __init__(self, program: Mapping[str, Any]) -> None:
        super().__init__()
        self.program = program
        channels, height, width = program["image"]
        self.channels = int(channels)
        self.size = None if height is None or width is None else (int(height), int(width))
        self._names: dict[str, str] = {}
        for number, (name, (kind, sizes)) in enumerate(program["weights"].items()):
            self._names[name] = f"weight_{number}"
            self.register_buffer(f"weight_{number}", torch.empty([int(n) for n in sizes], dtype=TYPES[int(kind)]))
        if len(program["steps"]) > MOST_STEPS:
            raise ValueError(f"its {len(program['steps'])} steps are more than {MOST_STEPS}")
        self._steps = [(_call(target), arguments, outputs) for target, arguments, outputs in program["steps"]]
        self._outputs = [str(name) for name, _ in program["outputs"]]
        self.dimensions = [int(dimensions) for _, dimensions in program["outputs"]]

    def forward(self, x_NCHW: Tensor) -> list[Tensor]:
        """Return the network's outputs for images in [0, 1], in its own order."""
        # A step may change its input in place.
        values: dict[str, Any] = {self.program["input"]: x_NCHW.clone()}
        values |= {name: getattr(self, place) for name, place in self._names.items()}
        for call, arguments, outputs in self._steps:
            found = call([(name, _value(kind, value, values, x_NCHW.device)) for name, kind, value in arguments])
            for name, one in zip(outputs, (found,) if len(outputs) == 1 else found, strict=True):
                values |= {name: one} if isinstance(name, str) else dict(zip(name, one, strict=True))
        return [values[name] for name in self._outputs]

    def describe(self) -> dict[str, Any]:
        """Return the program as plain values."""
        return dict(self.program)


def read(path: Path) -> ExportedNetwork:
    """Read a file of ``torch.export.save`` with its weights, onto the CPU.

    Raises:
        UserError: the file is missing or of another kind, or its network cannot be used.
    """
    with _Archive(path) as archive:
        program, places = _program(archive)
        with torch.device("meta"):
            network = ExportedNetwork(program)
        for (name, buffer), place in zip(list(network.named_buffers()), places, strict=True):
            weights = archive.tensor(*place)
            if (weights.shape, weights.dtype) != (buffer.shape, buffer.dtype):
                raise ValueError(f"{place[0]} does not have the size in the graph")
            setattr(network, name, weights)
    return network.eval()


def read_program(path: Path) -> dict[str, Any]:
    """Return a file's graph without its weights; UserError as in :func:`read`."""
    with _Archive(path) as archive, torch.device("meta"):
        return ExportedNetwork(_program(archive)[0]).describe()


class _Archive:
    """A file of ``torch.export.save``; any fault becomes one sentence."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        try:
            self._zip = zipfile.ZipFile(self._path)
        except DAMAGED as error:
            self._refuse(error)
        self._sizes = {info.filename: info.file_size for info in self._zip.infolist()}
        heads = [name for name in self._sizes if name.endswith("models/model.json")]
        self._top = heads[0].removesuffix("models/model.json") if heads else ""
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._zip.close()
        if isinstance(error, DAMAGED):
            self._refuse(error)

    def _refuse(self, error: BaseException) -> None:
        if isinstance(error, FileNotFoundError):
            raise UserError(f"features: {self._path} is missing; give a file of torch.export.save") from None
        raise UserError(
            f"features: {self._path} cannot be used as a network ({cut(first_line(error))}); write it with "
            f"torch.export.save of a recent PyTorch (2.13 is tested), as docs/detectors.md shows"
        ) from error

    def json(self, name: str) -> Any:
        """Return the content of a JSON file in the archive."""
        if self._sizes.get(self._top + name, MOST_JSON) >= MOST_JSON:
            raise ValueError(f"{name} is missing or too large")
        return json.loads(self._zip.read(self._top + name))

    def tensor(self, name: str, meta: Mapping[str, Any]) -> Tensor:
        """Return the weights in a file of the archive, after checking its length."""
        kind, sizes = TYPES[meta["dtype"]], [_plain_size(size) for size in meta["sizes"]]
        strides, offset = [_plain_size(size) for size in meta["strides"]], _plain_size(meta["storage_offset"])
        if math.prod(sizes) * kind.itemsize > self._sizes[self._top + name]:
            raise ValueError(f"{name} is shorter than its weights")
        if math.prod(sizes) == 0:
            return torch.empty(sizes, dtype=kind)
        stored = torch.frombuffer(bytearray(self._zip.read(self._top + name)), dtype=kind)
        return stored.as_strided(sizes, strides, offset).clone(memory_format=torch.contiguous_format)


def _program(archive: _Archive) -> tuple[dict[str, Any], list[tuple[str, Mapping[str, Any]]]]:
    """Return the graph as plain values, and the places of the weights in the archive, in its order."""
    whole = archive.json("models/model.json")["graph_module"]
    graph, specs = whole["graph"], whole["signature"]["input_specs"]
    payloads = {
        name: (f"data/{folder}/{payload['path_name']}", payload)
        for folder in ("weights", "constants")
        for name, payload in archive.json(f"data/{folder}/model_{folder}_config.json")["config"].items()
    }
    weights: dict[str, tuple[int, list[int]]] = {}
    places: list[tuple[str, Mapping[str, Any]]] = []
    inputs: list[str] = []
    for spec in specs:
        ((kind, content),) = spec.items()
        if kind == "user_input":
            inputs.append(content["arg"]["as_tensor"]["name"])
            continue
        place, payload = payloads[content[f"{kind}_name"]]
        if payload["use_pickle"]:
            raise ValueError(f"{place} is pickled, which can hold code")
        meta = payload["tensor_meta"]
        places.append((place, meta))
        weights[content["arg"]["name"]] = meta["dtype"], [_plain_size(size) for size in meta["sizes"]]
    if len(inputs) != 1:
        raise ValueError(f"it takes {len(inputs)} inputs instead of one batch of images")
    program = {
        "input": inputs[0],
        "image": _image(graph["tensor_values"][inputs[0]]),
        "weights": weights,
        "steps": [_read_step(node) for node in graph["nodes"] if node["target"].removeprefix(ATEN) not in CHECKS],
        "outputs": [
            (output["as_tensor"]["name"], len(graph["tensor_values"][output["as_tensor"]["name"]]["sizes"]))
            for output in graph["outputs"]
        ],
    }
    return program, places


def _image(meta: Mapping[str, Any]) -> list[int | None]:
    """Return channels, height and width of a graph's images; None for a free side."""
    if meta["dtype"] != FLOAT or len(meta["sizes"]) != 4:
        raise ValueError("its input is not a float32 batch [N, C, H, W]")
    count, channels, *sides = (size.get("as_int") for size in meta["sizes"])
    if count is not None:
        raise ValueError(f"it takes exactly {count} images at once; export it with a free number of images")
    if channels is None:
        raise ValueError("its number of channels is free")
    return [channels, *sides]


def _read_step(node: Mapping[str, Any]) -> tuple[str, list[Argument], list[str | list[str]]]:
    """Return target, arguments and names of the results of a node."""
    target, arguments = node["target"], [_argument(entry["name"], entry["arg"]) for entry in node["inputs"]]
    flag = TRAINING.get(target.removeprefix(ATEN))
    if flag is not None and (flag, "as_bool", True) in arguments:
        raise ValueError("it was exported in training mode; call .eval() before the export")
    outputs = [_argument("", output) for output in node["outputs"]]
    return target, arguments, [names for _, _, names in outputs]


def _argument(name: str, argument: Mapping[str, Any]) -> Argument:
    """Return an argument of a node with the names that it refers to."""
    ((kind, value),) = argument.items()
    if kind == "as_tensor":
        value = value["name"]
    elif kind == "as_tensors":
        value = [one["name"] for one in value]
    elif kind == "as_optional_tensors":
        value = [one["as_tensor"]["name"] if "as_tensor" in one else None for one in value]
    elif kind in ("as_sym_int", "as_sym_bool"):
        value = _symbol(value)
    elif kind == "as_sym_ints":
        value = [_symbol(one) for one in value]
    elif kind not in (*PLAIN, "as_none", "as_scalar_type", "as_memory_format", "as_layout", "as_device"):
        raise ValueError(f"it has an unknown argument {cut(kind)}")
    return name, kind, value


def _symbol(value: Mapping[str, Any]) -> str | int | bool:
    """Return a number, or the name of one that is known when the network runs."""
    ((_, found),) = value.items()
    if not isinstance(found, (str, int)):
        raise ValueError("it has a number that is neither a value nor a name")
    return found


def _plain_size(size: Mapping[str, Any]) -> int:
    if (number := int(size["as_int"])) < 0:
        raise ValueError("it has a negative size")
    return number


def _call(target: str) -> Callable[[list[tuple[str, Any]]], Any]:
    """Return a function that runs a step, from the names and values of its arguments; ValueError if it is unknown."""
    if target.startswith(PYTHON) and (name := target.removeprefix(PYTHON)) in SUMS:
        compute = getattr(operator, name)
        return lambda arguments: compute(*(value for _, value in arguments))
    name = target.removeprefix(ATEN)
    if not target.startswith(ATEN) or name not in STEPS:
        raise ValueError(f"it has the unknown step {cut(target)}")
    function, _, overload = name.partition(".")
    step = getattr(getattr(torch.ops.aten, function), overload)
    places = [argument.name for argument in step._schema.arguments if not argument.kwarg_only]

    def run(arguments: list[tuple[str, Any]]) -> Any:
        positional = [value for (name, value), place in zip(arguments, places, strict=False) if name == place]
        return step(*positional, **dict(arguments[len(positional) :]))

    return run


def _value(kind: str, value: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    """Return an argument's value: a result so far, or a plain value."""
    if kind in ("as_tensor", "as_sym_int", "as_sym_bool"):
        return values[value] if isinstance(value, str) else value
    if kind in ("as_tensors", "as_optional_tensors", "as_sym_ints"):
        return [values[one] if isinstance(one, str) else one for one in value]
    if kind == "as_scalar_type":
        return TYPES[value]
    if kind == "as_memory_format":
        return LAYOUTS[value]
    return {"as_none": None, "as_layout": torch.strided, "as_device": device}[kind] if kind not in PLAIN else value
