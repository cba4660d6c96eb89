"""The one exception that commands turn into a sentence and exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend: one sentence that says what, where and how."""


def suggestion(word: str, allowed: Iterable[str]) -> str:
    """Return ``'; did you mean X?'`` for the nearest allowed word, or an empty string."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
