"""A GPU imitated on the CPU: tensors that say cuda:0, hold values in the CPU's memory and obey a GPU's rules.

A tensor of the CPU must not meet one of the GPU, apart from single numbers and indices. Nothing but a copy to the CPU
can read values. What makes the CPU wait for the GPU is counted with the line of code that did it: values read, sizes
that depend on values, and copies in either direction. Kernels are counted too, roughly: operations that are not views.

It cannot show: cuDNN's numbers, the allocator, streams, launch times, and PyTorch's own choices by device in C++.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.optim import swa_utils
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
PACKAGE = str(Path(__file__).parents[2])
ATEN: Any = torch.ops.aten
GIB = 2**30
READ = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
READ |= {"bincount", "_linalg_check_errors"}
"""Operations whose result, or its size, the CPU waits for."""
MAKES_ITS_OWN = {"quantile", "one_hot"}
"""Functions that make tensors in C++ where they think that their argument is: here the CPU."""
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}


@dataclass
class Seen:
    """What happened on the imitated GPU."""

    waits: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)
    fractions: list[float] = field(default_factory=list)
    emptied: int = 0
    free: int = 8 * GIB

    def wait(self, why: str) -> None:
        """Count a wait, with the innermost line of this project that caused it; other threads hold up nothing."""
        if threading.current_thread() is not threading.main_thread():
            return
        self.waits[f"{why} in {_line()}"] += 1

    @contextlib.contextmanager
    def count(self) -> Iterator[Counted]:
        """Count within a context."""
        waits, kernels, counted = self.waits.copy(), self.kernels.copy(), Counted()
        yield counted
        counted.waits, counted.kernels = self.waits - waits, self.kernels - kernels


@dataclass
class Counted:
    """Waits and kernels within :meth:`Seen.count`, once it has ended."""

    waits: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)


def _line() -> str:
    for frame, number in traceback.walk_stack(sys._getframe(1)):
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE) and "/gpu/imitation.py" not in name and "/.venv/" not in name:
            return f"{Path(name).name}:{number}"
    return "unknown"


class OnGpu(Tensor):
    """A tensor that says cuda:0. PyTorch's C++ takes it for one of the CPU, so that backward passes run."""

    seen: ClassVar[Seen]
    value: Tensor
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value: Tensor, *, requires_grad: bool = False) -> OnGpu:
        made: OnGpu = Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            requires_grad=requires_grad,
        )
        made.value = value
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The only GPU."""
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """True."""
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        """False."""
        return False

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> OnGpu:
        if id(self) not in memo:
            made = OnGpu(self.value.clone(), requires_grad=self.requires_grad)
            for name, value in vars(self).items():
                if name != "value":
                    setattr(made, name, copy.deepcopy(value, memo))
            memo[id(self)] = made
        found: OnGpu = memo[id(self)]
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.seen.wait("saving")
        return self.value.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        flat, _ = tree_flatten((args, kwargs))
        wrappers = [one for one in flat if isinstance(one, OnGpu)]
        hosts = [one for one in flat if isinstance(one, Tensor) and not isinstance(one, OnGpu)]
        if name == "copy_" and hosts:
            return _copied(args, kwargs)
        _refuse(name, func, args, hosts)
        if name in READ or (name in INDEXING and _by_mask(name, args)):
            cls.seen.wait(name)
        if name in INDEXING and any(one.dim() for one in hosts):
            cls.seen.wait("an index of the CPU")
        if not func.is_view:
            cls.seen.kernels[name] += 1
        known = {id(one.value): one for one in wrappers}
        found = func(*tree_map(_value, args), **tree_map(_value, kwargs))
        return tree_map(lambda one: known[id(one)] if id(one) in known else _wrapped(one), found)


def _copied(args: Any, kwargs: Any) -> Tensor:
    """Copy between the GPU and the CPU."""
    target, source, *more = args
    if not (kwargs.get("non_blocking") or any(more)):
        OnGpu.seen.wait("copy_")
    _value(target).copy_(_value(source))
    returned: Tensor = target
    return returned


def _refuse(name: str, func: Any, args: Any, hosts: list[Tensor]) -> None:
    """Raise PyTorch's error where a tensor of the CPU meets one of the GPU."""
    strangers = [one for one in hosts if one.dim() > 0]
    if name in INDEXING and isinstance(args[0], OnGpu):
        indices = {id(one) for one in args[1] if one is not None}
        strangers = [one for one in strangers if id(one) not in indices]
    elif name in INDEXING and any(isinstance(one, OnGpu) for one in args[1]):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if strangers:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got cuda:0 and cpu")


def _by_mask(name: str, args: Any) -> bool:
    """Whether indices are masks, whose size must be read; setting one value by a mask needs no size."""
    masks = any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])
    return masks and not (name.startswith("index_put") and args[2].numel() == 1)


def _value(one: Any) -> Any:
    return one.value if isinstance(one, OnGpu) else one


def _wrapped(one: Any) -> Any:
    return OnGpu(one) if isinstance(one, Tensor) and not isinstance(one, OnGpu) else one


class _Generator(torch.Generator):
    """A generator that says where it is."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made: _Generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        made.where = torch.device(device).type
        return made

    where: str

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it is."""
        return torch.device(self.where)


class Rules(TorchFunctionMode):
    """Moves tensors between the devices, and refuses what a GPU refuses before PyTorch's C++ sees it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        first: Any = args[0] if args else None
        on_gpu = isinstance(first, OnGpu)
        if name in ("numpy", "__array__", "data_ptr") and on_gpu:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if name in ("to", "cpu", "cuda", "pin_memory"):
            return _moved(name, args, kwargs)
        if name == "tolist" and on_gpu:
            OnGpu.seen.wait("tolist")
            return first.value.tolist()
        if name in ("tensor", "as_tensor") and isinstance(first, OnGpu) and not kwargs.get("device"):
            return func(first.value, *args[1:], **kwargs) if name == "tensor" else first
        if name in MAKES_ITS_OWN and on_gpu:
            return OnGpu(func(*tree_map(_value, args), **tree_map(_value, kwargs)))
        where = kwargs.get("device")
        wanted = torch.device(where).type if where is not None else ("cuda" if _any_on_gpu(args, kwargs) else "cpu")
        _same_generator(args, kwargs, wanted)
        if where is not None and wanted == "cuda":
            kwargs["device"] = CPU
            if name in ("tensor", "as_tensor", "asarray"):
                OnGpu.seen.wait(f"torch.{name}")
            else:
                OnGpu.seen.kernels[name] += 1
            made = func(*args, **kwargs)
            return made if isinstance(made, OnGpu) else _with_grad(made)
        return func(*args, **kwargs)


def _with_grad(made: Tensor) -> OnGpu:
    return OnGpu(made.detach(), requires_grad=made.requires_grad)


def _any_on_gpu(args: Any, kwargs: Any) -> bool:
    return any(isinstance(one, OnGpu) for one in tree_flatten((args, kwargs))[0])


def _same_generator(args: Any, kwargs: Any, wanted: str) -> None:
    for one in (*args, *kwargs.values()):
        if isinstance(one, torch.Generator) and one.device.type != wanted:
            raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{one.device.type}'")


class _Moved(torch.autograd.Function):
    """A copy to the other device, through which gradients go back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: str) -> Tensor:
        ctx.back = "cuda" if isinstance(x, OnGpu) else "cpu"
        return OnGpu(x.clone()) if target == "cuda" else _value(x).clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (slope,) = slopes
        return (_wrapped(slope) if ctx.back == "cuda" else _value(slope)), None


def _moved(name: str, args: Any, kwargs: Any) -> Any:
    """Tensor.to, .cpu, .cuda and .pin_memory."""
    first, *others = args
    target, rest, non_blocking = first.device, [], bool(kwargs.pop("non_blocking", False))
    if name in ("cpu", "cuda"):
        target = CUDA if name == "cuda" else CPU
    for one in others:
        if isinstance(one, (torch.device, str)):
            target = torch.device(one)
        elif isinstance(one, Tensor):
            target, kwargs["dtype"] = one.device, one.dtype
        else:
            rest.append(one)
    if (where := kwargs.pop("device", None)) is not None:
        target = torch.device(where)
    moved = first
    if target.type != first.device.type:
        if not non_blocking:
            OnGpu.seen.wait(f"copy to {target.type}")
        moved = _Moved.apply(first, target.type)  # type: ignore[no-untyped-call]
        if not first.requires_grad:
            moved = moved.detach()
    dtypes = [one for one in rest if isinstance(one, torch.dtype)]
    if dtypes:
        kwargs["dtype"] = dtypes[0]
    return Tensor.to(moved, **kwargs) if kwargs and name == "to" else moved


@contextlib.contextmanager
def _nothing(*_: Any, **__: Any) -> Iterator[None]:
    yield


def _patches(seen: Seen) -> Iterable[tuple[Any, str, Any]]:
    """What of PyTorch's own says whether there is a GPU."""
    averaging: Any = swa_utils
    autocast, by_device = torch.autocast, averaging._group_tensors_by_device_and_dtype

    def on_cpu(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return autocast("cpu", *args, **kwargs)

    def grouped(*args: Any) -> Any:
        return {(CUDA, dtype): found for (_, dtype), found in by_device(*args).items()}

    def answer(what: Any) -> Callable[..., Any]:
        return lambda *_, **__: what

    def empty() -> None:
        seen.emptied += 1

    return (
        (torch, "autocast", on_cpu),
        *((module, "Generator", _Generator) for module in _having(torch.Generator)),
        (swa_utils, "_group_tensors_by_device_and_dtype", grouped),
        (torch.cuda, "is_available", answer(True)),
        (torch.cuda, "is_initialized", answer(False)),
        # A PyTorch built for CUDA would ask its driver whether an optimiser's step is captured; 2.11 the second way.
        (torch.accelerator, "current_accelerator", answer(None)),
        (torch.cuda, "is_current_stream_capturing", answer(False)),
        (torch.cuda, "device_count", answer(1)),
        (torch.cuda, "current_device", answer(0)),
        (torch.cuda, "get_device_name", answer("an imitation")),
        (torch.cuda, "mem_get_info", lambda *_: (seen.free, 8 * GIB)),
        (torch.cuda, "reset_peak_memory_stats", answer(None)),
        (torch.cuda, "max_memory_allocated", answer(0)),
        (torch.cuda, "is_bf16_supported", answer(True)),
        (torch.cuda, "empty_cache", empty),
        (torch.cuda, "device", _nothing),
        (torch.cuda, "synchronize", lambda *_: seen.wait("synchronize")),
        (torch.cuda, "set_per_process_memory_fraction", lambda share, *_: seen.fractions.append(share)),
        (torch.cuda, "get_per_process_memory_fraction", lambda *_: (seen.fractions or [1.0])[-1]),
    )


def _having(generator: type) -> list[Any]:
    """Torch, and the modules of the package that imported its generator by name."""
    return [
        module
        for name, module in list(sys.modules.items())
        if (name == "torch" or name.startswith("puzzle_study")) and vars(module).get("Generator") is generator
    ]


@contextlib.contextmanager
def imitated() -> Iterator[Seen]:
    """Let torch see one GPU within the context."""
    seen = Seen()
    OnGpu.seen = seen
    with pytest.MonkeyPatch.context() as patch, Rules():
        for where, name, value in _patches(seen):
            patch.setattr(where, name, value)
        # A real GPU changes parameters in place; here they are new ones, so that optimisers must be built afterwards.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield seen
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
