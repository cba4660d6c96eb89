"""Pickles of plain data, read without executing anything.

A pickle is scanned before it is read: only instructions that plain data needs are allowed, and only few of those
with which a small file could take endless time or memory. Then the standard library's unpickler reads it, with
stand-ins for the names in an array of bytes: a file can never call anything of NumPy or the standard library.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from puzzle_study.datasets.records import Bytes, reading
from puzzle_study.errors import UserError

MAX_INSTRUCTIONS = 1 << 20
"""A batch of 10,000 images has 30,000; each takes a microsecond or two and up to a hundred bytes of memory."""
MAX_NUMBER = 1 << 64
"""Larger numbers could all have the same hash, and a dictionary with such keys takes endless time. A PUT reserves
memory for its number."""
MAX_EACH = 16
"""For each kind in ``FEW``: a batch has ten tuples and six calls. Each level of nested tuples may double the time of
hashing, and every call may copy a long text."""

# fmt: off
INSTRUCTIONS = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
    "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
})
# fmt: on
FEW = {"TUPLE": "tuple", "TUPLE1": "tuple", "TUPLE2": "tuple", "TUPLE3": "tuple", "REDUCE": "call", "BUILD": "state"}


class _Refusal(Exception):
    """Raised for anything that plain data never needs."""


class _Array:
    """Stands for ``numpy.ndarray``: keeps the state that NumPy would have been given."""

    def __init__(self, *arguments: object) -> None:
        self.value: Bytes | None = None

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), tuple(shape), _Dtype(is_byte=True), order, bytes(data)) if all(
                isinstance(side, int) and side >= 0 for side in shape
            ):
                flat = np.frombuffer(data, dtype=np.uint8)
                # Wrong shapes raise ValueError, which the caller turns into its own error.
                self.value = flat.reshape(shape, order="F" if order else "C")
            case _:
                raise _Refusal("an array of something other than bytes")


class _Dtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: object = None, *arguments: object) -> None:
        self.is_byte = code in ("u1", "|u1", "uint8", b"u1", b"|u1", b"uint8")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment have no effect on single bytes."""


class _Encoded(bytes):
    """Stands for ``_codecs.encode``, with which Python 3 writes bytes in Python 2's protocols."""

    def __new__(cls, text: object, encoding: object = "latin1") -> _Encoded:
        if isinstance(text, str) and encoding in ("latin1", b"latin1"):
            return super().__new__(cls, text, "latin1")
        raise _Refusal("an unusual text encoding")

    def __setstate__(self, state: object) -> None:
        raise _Refusal("bytes with a state")


_STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encoded,
}


class _Unpickler(pickle.Unpickler):
    """Knows only the stand-ins."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        """Return the stand-in for a name."""
        if (module, name) not in _STAND_INS:
            raise _Refusal(f"the name {module[:80]}.{name[:80]}")
        return _STAND_INS[module, name]


def read_pickle(path: Path, max_bytes: int) -> object:
    """Read a pickle of plain data and arrays of bytes, or raise UserError; Python 2's text becomes bytes."""
    with reading(path), path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"{path} has more than {max_bytes:,} bytes, too many for such a file; put the original there")
    try:
        _scan(content)
        return _value(_Unpickler(io.BytesIO(content), encoding="bytes").load())
    except _Refusal as error:
        raise UserError(
            f"{path} was not read: it is a pickle with {error}, which plain data never needs; put the original there"
        ) from None
    except Exception as error:
        # A damaged pickle may raise anything.
        raise UserError(f"{path} is damaged or truncated ({str(error)[:120]}); fetch the set again") from None


def _scan(content: bytes) -> None:
    """Refuse anything that plain data never needs, before it is built."""
    few = Counter[str]()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if number >= MAX_INSTRUCTIONS:
            raise _Refusal(f"more than {MAX_INSTRUCTIONS:,} instructions")
        if opcode.name not in INSTRUCTIONS:
            raise _Refusal(f"the instruction {opcode.name}")
        if isinstance(argument, int) and abs(argument) >= (MAX_INSTRUCTIONS if "PUT" in opcode.name else MAX_NUMBER):
            raise _Refusal(f"a number of {argument.bit_length()} bits")
        if opcode.name in FEW:
            few[FEW[opcode.name]] += 1
            if few[FEW[opcode.name]] > MAX_EACH:
                raise _Refusal(f"more than {MAX_EACH} {FEW[opcode.name]}s")


def _value(found: object) -> object:
    """Replace stand-ins by the arrays that they collected, one level deep."""
    if isinstance(found, dict):
        return {key: value.value if isinstance(value, _Array) else value for key, value in found.items()}
    return found.value if isinstance(found, _Array) else found
