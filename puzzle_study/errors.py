"""The exception that commands print as one sentence with exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake that the user can fix: one sentence that says what, where and how."""


class MissingPackage(UserError):
    """A package from one of this package's extras is not installed."""


ALIKE, AKIN = 0.8, 0.5
"""Similarity of a likely typo, and of a possible one; 1 means equal."""
LONGEST = 300
"""Longest part of the user's input that an error repeats."""


def cut(text: str) -> str:
    """Return the user's input, shortened if it is long."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


def suggestion(word: str, allowed: Iterable[str]) -> str:
    """Return ``'; did you mean X?'`` for the nearest allowed word, or an empty string."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def nearest_setting(wrong: str, here: Sequence[str], everywhere: Sequence[str]) -> str:
    """Return ``'; did you mean X?'`` for a dotted name that is not allowed ``here``, or an empty string."""

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, name.rpartition(".")[2], wrong.rpartition(".")[2]).ratio()

    def common(name: str) -> int:
        return sum(one == other for one, other in zip(wrong.split("."), name.split("."), strict=False))

    section = wrong.rpartition(".")[0]
    below = [name for name in everywhere if name.startswith(f"{section}." if section else "")]
    for names, least in ((here, ALIKE), (below, ALIKE), (here, AKIN), (everywhere, ALIKE)):
        best = max(names, key=lambda name: (likeness(name), common(name)), default="")
        if likeness(best) >= least:
            return f"; did you mean {best}?"
    return ""
