"""Entries of tables, and formatting of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from puzzle_study.statistics.intervals import Estimate

if TYPE_CHECKING:
    import pandas as pd

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """One entry of a table: its text, its sorting key, its interval, and lines that the page folds below it."""

    text: str
    value: float | str | bool | None = None
    low: float | None = None
    high: float | None = None
    strong: bool = False
    more: tuple[str, ...] = ()


def word(text: object, *, strong: bool = False) -> Cell:
    """Return a cell of text."""
    shown = "" if text is None else str(text)
    return Cell(shown or NOTHING, shown, strong=strong)


def count(value: float | None) -> Cell:
    """Return a cell with a whole number."""
    if value is None or math.isnan(value):
        return Cell(NOTHING)
    return Cell(f"{round(value):,}".replace(",", "\u202f"), round(value))


def number(value: float | None, digits: int = 3) -> Cell:
    """Return a cell with a number rounded to this many significant digits."""
    if value is None or math.isnan(value):
        return Cell(NOTHING)
    return Cell(significant(value, digits), float(value))


def timed(value: float) -> Cell:
    """Return a cell with seconds."""
    return Cell(NOTHING) if math.isnan(value) else Cell(in_seconds(value), value)


def percent(value: float | None, *, digits: int = 1) -> Cell:
    """Return a cell with a share in percent."""
    return estimated(None if value is None else Estimate(value, math.nan, math.nan), digits=digits)


def estimated(
    found: Estimate | None, otherwise: str = "", *, digits: int = 1, signed: bool = False, strong: bool = False
) -> Cell:
    """Return a cell with a share in percent and its interval in brackets, or with a text if there is none."""
    if found is None or math.isnan(found.value):
        return Cell(otherwise or NOTHING)
    text = share(found.value, digits=digits, signed=signed)
    if math.isnan(found.low) or math.isnan(found.high):
        return Cell(text, float(found.value), strong=strong)
    text += bracketed(found, digits=digits, signed=signed)
    return Cell(text, float(found.value), float(found.low), float(found.high), strong=strong)


def spread(values: pd.Series[float], otherwise: str = NOTHING) -> Cell:
    """Return a cell with a mean over seeds in percent ± their standard deviation, if there are several."""
    if not len(values):
        return Cell(otherwise)
    deviation = f" ± {share(float(values.std()))}" if len(values) > 1 else ""
    return Cell(share(float(values.mean())) + deviation, float(values.mean()))


def setting(value: object) -> Cell:
    """Return a cell for the value of a searched setting, which may be missing, a number or a word."""
    if isinstance(value, (bool, np.bool_, str)):
        return word(value)
    if isinstance(value, (int, float, np.number)):
        return number(float(value))
    return Cell(NOTHING)


def in_seconds(value: float) -> str:
    """Return seconds with three significant digits, to the millisecond."""
    return significant(round(value, 3)) if value >= 0.001 or value == 0 else "< 0.001"


def plural(n: int, one: str, many: str = "") -> str:
    """Return a number with its noun; ``many`` defaults to ``one`` with an s."""
    return f"{n} {one if n == 1 else many or f'{one}s'}"


def capital(text: str) -> str:
    """Return a text as it begins a sentence; a name such as kNN or t-SNE stays."""
    return text if text[1:2] == "-" or text[1:2].isupper() else text[:1].upper() + text[1:]


def share(value: float, *, digits: int = 1, signed: bool = False) -> str:
    """Return a fraction in percent, without the sign %; a minus is a real minus."""
    sign = "+" if signed else ""
    text = f"{100 * value:{sign}.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def bracketed(found: Estimate, *, digits: int = 1, signed: bool = False) -> str:
    """Return a share's interval in brackets with a space before it; an empty string if there is none."""
    if math.isnan(found.low):
        return ""
    low, high = (share(end, digits=digits, signed=signed) for end in (found.low, found.high))
    return f" [{low}, {high}]"


def significant(value: float, digits: int = 3) -> str:
    """Return a number with this many significant digits, without an exponent if it is readable."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-4 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:.{digits - 1}e}"
    return text.replace("-", "−")
