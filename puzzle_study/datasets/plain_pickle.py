"""Pickles of plain data, read without executing what they say.

A pickle is a program. This reader lets through only the instructions that build dictionaries, lists,
tuples, strings, bytes and numbers, and answers the few names that an array of bytes refers to with
inert stand-ins of its own; nothing of NumPy or the standard library is ever called on a file's behalf.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from puzzle_study.datasets.records import Bytes, reading
from puzzle_study.errors import UserError

# fmt: off
OPCODES = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP",
    "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "LIST", "APPEND", "APPENDS",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE",
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
})
# fmt: on
MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


class _Array:
    """Stands for ``numpy.ndarray``: keeps the state that NumPy would have been given."""

    def __init__(self, *arguments: object) -> None:
        self.value: Bytes | None = None

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), tuple(shape), _Dtype(code="u1" | "|u1" | "uint8"), order, bytes(data)) if all(
                isinstance(side, int) and side >= 0 for side in shape
            ):
                flat = np.frombuffer(data, dtype=np.uint8)
                # Ill-fitting shapes raise ValueError, which becomes the caller's sentence.
                self.value = flat.reshape(shape, order="F" if order else "C")
            case _:
                raise pickle.UnpicklingError("an array of something else than bytes")


class _Dtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: object = None, *arguments: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing for single bytes."""


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    """Stands for ``_codecs.encode``, by which Python 3 writes bytes in Python 2's protocols."""
    if isinstance(text, str) and encoding in ("latin1", b"latin1"):
        return text.encode("latin1")
    raise pickle.UnpicklingError("an unusual text encoding")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"the name {module}.{name}")
        return _STAND_INS[module, name]

    def persistent_load(self, identifier: object) -> Any:
        raise pickle.UnpicklingError("a reference to outside")


def read_pickle(path: Path, max_bytes: int) -> object:
    """Read a pickle of plain data and arrays of bytes; text of Python 2 comes as bytes.

    Raises:
        UserError: missing, unreadable, larger than ``max_bytes``, truncated, or holding anything else.
    """
    with reading(path), path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"{path} has more than {max_bytes:,} bytes, too many for such a file; put the original there")
    try:
        _check(content)
        return _value(_PlainUnpickler(io.BytesIO(content), encoding="bytes").load())
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} was not read: it is a pickle with {error}, which plain data never needs; put the original there"
        ) from None
    except Exception as error:
        # A damaged pickle makes the standard library raise nearly anything.
        raise UserError(f"{path} is damaged or truncated ({str(error)[:120]}); fetch the set again") from None


def _check(content: bytes) -> None:
    """Walk over the instructions, executing none, and refuse those that plain data never needs."""
    memo = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in OPCODES:
            raise pickle.UnpicklingError(f"the instruction {opcode.name}")
        if opcode.name in MEMO:
            memo = int(argument or 0)
            if not 0 <= memo <= count:
                # The unpickler reserves memory up to this number.
                raise pickle.UnpicklingError("an absurd memo number")


def _value(found: object) -> object:
    """Replace stand-ins by the arrays that they collected, one level deep."""
    if isinstance(found, dict):
        return {key: value.value if isinstance(value, _Array) else value for key, value in found.items()}
    return found.value if isinstance(found, _Array) else found
