"""Pickles of plain data, read without executing what they say.

A pickle is a program. This reader carries out, on a stack of its own, only the instructions that build
dictionaries, lists, tuples, strings, bytes and numbers, and answers the few names that an array of bytes
refers to with inert stand-ins; nothing of NumPy or the standard library is ever called on a file's behalf.
The standard library's own machine would hash tuples nested without a limit, where a file makes them keys.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from puzzle_study.datasets.records import Bytes, reading
from puzzle_study.errors import UserError

MAX_INSTRUCTIONS = 1 << 20
"""A batch of 10,000 images has 30,000; each takes a microsecond or two, and up to a hundred bytes of memory."""

# fmt: off
LITERALS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
})
# fmt: on
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
SHORT_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Refusal(Exception):
    """Raised with what plain data never needs."""


class _Array:
    """Stands for ``numpy.ndarray``: keeps the state that NumPy would have been given."""

    def __init__(self, *arguments: object) -> None:
        self.value: Bytes | None = None

    def build(self, state: object) -> None:
        """Keep pixels and shape."""
        match state:
            case (int(), tuple(shape), _Dtype(code="u1" | "|u1" | "uint8"), order, bytes(data)) if all(
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
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def build(self, state: object) -> None:
        """Byte order and alignment mean nothing for single bytes."""


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    """Stands for ``_codecs.encode``, by which Python 3 writes bytes in Python 2's protocols."""
    if isinstance(text, str) and encoding in ("latin1", b"latin1"):
        return text.encode("latin1")
    raise _Refusal("an unusual text encoding")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
}


class _Machine:
    """Carries out instructions; where they do not fit together it raises nearly anything."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """The stacks under the marks."""
        self.memo: dict[int, Any] = {}
        self.copies = len(content)
        """Characters that stand-ins may still be given: a file could recall the same long text again and again."""

    def run(self) -> object:
        """Return what the instructions build."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.content)):
            if count >= MAX_INSTRUCTIONS:
                raise _Refusal(f"more than {MAX_INSTRUCTIONS:,} instructions")
            self._step(opcode.name, argument)
        return self.stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case _ if name in LITERALS:
                stack.append(argument)
            case _ if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                # Text of Python 2 is bytes.
                stack.append(argument.encode("latin1"))
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                self._unmark()
                self.stack[-1].extend(stack)
            case "LIST":
                self._unmark()
                self.stack.append(stack)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _fill(stack[-1], [key, value])
            case "SETITEMS":
                self._unmark()
                _fill(self.stack[-1], stack)
            case "DICT":
                self._unmark()
                self.stack.append(_fill({}, stack))
            case _ if name in SHORT_TUPLES:
                stack.append(tuple([stack.pop() for _ in range(SHORT_TUPLES[name])][::-1]))
            case "TUPLE":
                self._unmark()
                self.stack.append(tuple(stack))
            case "GLOBAL":
                stack.append(_stand_in(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_stand_in(module, attribute))
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(called(*self._arguments(arguments)))
            case "BUILD":
                state = stack.pop()
                stack[-1].build(state)
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                raise _Refusal(f"the instruction {name}")

    def _unmark(self) -> None:
        """Go back to the stack under the last mark."""
        self.stack = self.below.pop()

    def _arguments(self, given: object) -> tuple[Any, ...]:
        """Return the arguments of a stand-in, of which each copies those that are text."""
        if not isinstance(given, tuple) or len(given) > 3:
            raise _Refusal("unusual arguments")
        self.copies -= sum(len(text) for text in given if isinstance(text, str | bytes))
        if self.copies < 0:
            raise _Refusal("text that is used again and again")
        return given


def _stand_in(module: object, name: object) -> Any:
    if not isinstance(module, str) or not isinstance(name, str):
        raise _Refusal("a name that is no text")
    if (module, name) not in _STAND_INS:
        raise _Refusal(f"the name {module[:80]}.{name[:80]}")
    return _STAND_INS[module, name]


def _fill(mapping: dict[str | bytes, Any], items: list[Any]) -> dict[str | bytes, Any]:
    """Set keys and values, which take turns."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Numbers may be chosen to collide, and tuples nested so that hashing them never ends.
        if not isinstance(key, str | bytes):
            raise _Refusal("a key that is neither text nor bytes")
        mapping[key] = value
    return mapping


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
        return _value(_Machine(content).run())
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
