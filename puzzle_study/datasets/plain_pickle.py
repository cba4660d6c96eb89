"""Pickles of plain data, read without executing what they say.

The standard library's unpickler may carry out a few instructions only, and stand-ins answer for the names that an
array of bytes refers to: nothing of NumPy or the standard library is ever called on a file's behalf. It is the
unpickler written in Python, because the one in C cannot be narrowed: it reserves memory for any memo number, and
hashes keys of endlessly nested tuples.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from puzzle_study.datasets.records import Bytes, reading
from puzzle_study.errors import UserError

MAX_INSTRUCTIONS = 1 << 20
"""A batch of 10,000 images has 30,000; each takes a microsecond or two, and up to a hundred bytes of memory."""

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
NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_PYTHONS: Any = pickle._Unpickler


class _Refusal(Exception):
    """Raised with what plain data never needs."""


class _Array:
    """Stands for ``numpy.ndarray``: keeps the state that NumPy would have been given."""

    def __init__(self, *arguments: object) -> None:
        self.value: Bytes | None = None

    def build(self, state: object) -> None:
        """Keep pixels and shape."""
        match state:
            case (int(), tuple(shape), _Dtype(is_byte=True), order, bytes(data)) if all(
                isinstance(side, int) and side >= 0 for side in shape
            ):
                flat = np.frombuffer(data, dtype=np.uint8)
                # Ill-fitting shapes raise ValueError, which becomes the caller's sentence.
                self.value = flat.reshape(shape, order="F" if order else "C")
            case _:
                raise _Refusal("an array of something else than bytes")


class _Dtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: object = None, *arguments: object) -> None:
        self.is_byte = code in ("u1", "|u1", "uint8", b"u1", b"|u1", b"uint8")

    def build(self, state: object) -> None:
        """Byte order and alignment mean nothing for single bytes."""


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    """Stands for ``_codecs.encode``, by which Python 3 writes bytes in Python 2's protocols."""
    if isinstance(text, str) and encoding in ("latin1", b"latin1"):
        return text.encode("latin1")
    raise _Refusal("an unusual text encoding")


_STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
}


class _Dict(dict[str | bytes, Any]):
    """Takes text for keys: numbers may be chosen to collide, and tuples nested so that hashing them never ends."""

    def __setitem__(self, key: str | bytes, value: Any) -> None:
        if not isinstance(key, str | bytes):
            raise _Refusal("a key that is neither text nor bytes")
        super().__setitem__(key, value)


class _Content(io.BytesIO):
    """A file that does not take the beginning of a name for the name."""

    def readline(self, size: int | None = -1) -> bytes:
        """Read a whole line."""
        line = super().readline(size)
        if not line.endswith(b"\n"):
            raise EOFError("its end is missing")
        return line


class _Unpickler(_PYTHONS):  # type: ignore[misc]
    """Carries out instructions; if they do not fit together it raises nearly anything."""

    def __init__(self, content: bytes) -> None:
        super().__init__(_Content(content), encoding="bytes")
        self.dispatch = _Instructions()
        self.copies = len(content)
        """Characters that stand-ins may still be given: a file could recall the same long text again and again."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        """Return the stand-in for a name."""
        if (module, name) not in _STAND_INS:
            raise _Refusal(f"the name {module[:80]}.{name[:80]}")
        return _STAND_INS[module, name]

    def load_empty_dictionary(self) -> None:
        """Begin a dictionary."""
        self.append(_Dict())

    def load_dict(self) -> None:
        """Make a dictionary of keys and values, which take turns."""
        items = self.pop_mark()
        filled = _Dict()
        for key, value in zip(items[::2], items[1::2], strict=True):
            filled[key] = value
        self.append(filled)

    def load_reduce(self) -> None:
        """Call a stand-in, which copies those arguments that are text."""
        arguments = self.stack[-1]
        if not isinstance(arguments, tuple) or len(arguments) > 3:
            raise _Refusal("unusual arguments")
        self.copies -= sum(len(text) for text in arguments if isinstance(text, str | bytes))
        if self.copies < 0:
            raise _Refusal("text that is used again and again")
        super().load_reduce()

    def load_build(self) -> None:
        """Give a stand-in its state."""
        state = self.stack.pop()
        self.stack[-1].build(state)


class _Instructions:
    """The instructions that an unpickler may carry out, and so many of them."""

    left = MAX_INSTRUCTIONS

    def __getitem__(self, code: int) -> Callable[[_Unpickler], None]:
        self.left -= 1
        if self.left < 0:
            raise _Refusal(f"more than {MAX_INSTRUCTIONS:,} instructions")
        name = NAMES[code]
        if name not in INSTRUCTIONS:
            raise _Refusal(f"the instruction {name}")
        carry_out: Callable[[_Unpickler], None] = getattr(_Unpickler, _PYTHONS.dispatch[code].__name__)
        return carry_out


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
        return _value(_Unpickler(content).load())
    except _Refusal as error:
        raise UserError(
            f"{path} was not read: it is a pickle with {error}, which plain data never needs; put the original there"
        ) from None
    except Exception as error:
        # A damaged pickle raises nearly anything.
        raise UserError(f"{path} is damaged or truncated ({str(error)[:120]}); fetch the set again") from None


def _value(found: object) -> object:
    """Replace stand-ins by the arrays that they collected, one level deep."""
    if isinstance(found, dict):
        return {key: value.value if isinstance(value, _Array) else value for key, value in found.items()}
    return found.value if isinstance(found, _Array) else found
