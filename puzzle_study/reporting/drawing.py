"""Style and saving of figures: one style, no global matplotlib state, PNG and SVG of each."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import LogFormatter, LogFormatterMathtext
from numpy.typing import NDArray

from puzzle_study.detectors.scoring import AGGREGATIONS
from puzzle_study.reporting.blocks import Figure
from puzzle_study.reporting.cells import significant
from puzzle_study.statistics.intervals import Estimate

DPI = 150
PALETTE: list[str] = sns.color_palette("colorblind").as_hex()
GREY = "#767676"
AGGREGATION_COLOURS = dict(zip(AGGREGATIONS, itertools.cycle([PALETTE[0], *PALETTE[2:], PALETTE[1]]), strict=False))
AGGREGATION_DASHES = dict(zip(AGGREGATIONS, itertools.cycle([":", "-", "--", "-."]), strict=False))
BY_AGGREGATION: dict[str, Any] = {
    "hue": "aggregation",
    "style": "aggregation",
    "palette": AGGREGATION_COLOURS,
    "hue_order": list(AGGREGATIONS),
    "style_order": list(AGGREGATIONS),
}
"""Arguments for seaborn: colour and style by aggregation, the same in all figures."""
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # Classes and folders are named by the user: a $ in them does not begin a formula.
    "text.parse_math": False,
}


@contextlib.contextmanager
def drawing(
    width: float = 6.4, height: float = 3.6, *, rows: int = 1, columns: int = 1, **options: Any
) -> Iterator[tuple[Drawing, list[Axes]]]:
    """Give an empty figure and its axes, row by row, in the report's style.

    The figure does not belong to pyplot, and the style ends with the block. ``options`` go to ``Figure.subplots``.
    """
    with sns.axes_style("whitegrid"), mpl.rc_context(_STYLE):
        figure = Drawing(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, **options)
        yield figure, list(axes.ravel())


@contextlib.contextmanager
def panels(
    count: int, *, most: int, width: float, height: float, above: float = 0.0, **options: Any
) -> Iterator[tuple[Drawing, list[Axes]]]:
    """Give a figure of ``count`` equal panels, at most ``most`` of them side by side; see :func:`drawing`."""
    columns, rows = min(most, count), -(-count // most)
    size = max(5.6, width * columns), height * rows + above
    with drawing(*size, rows=rows, columns=columns, **options) as (figure, axes):
        for place in axes[count:]:
            place.set_visible(False)
        yield figure, axes[:count]


def bars(means: Sequence[Estimate]) -> NDArray[np.float64]:
    """Return the distances of the intervals' ends from each mean in percent, as error bars [2, N]; at least 0."""
    ends = [[mean.value - mean.low for mean in means], [mean.high - mean.value for mean in means]]
    return np.asarray(np.clip(100 * np.array(ends), 0.0, None))


def finished(figure: Drawing, *, name: str, alt: str, caption: str, photo: bool = False) -> Figure:
    """Return a drawn figure for the page.

    Args:
        figure: from :func:`drawing`; call this inside its block.
        name: file name without suffix.
        alt: a description of the picture for people who cannot see it.
        caption: what the figure shows, how its intervals were made, and their n.
        photo: pictures, whose colours a dark page must not change.
    """
    _plain_ticks(figure)
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    # The layout is settled; solving it again for the SVG would take as long as the drawing.
    figure.set_layout_engine("none")
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    width, height = (round(inches * 96) for inches in figure.get_size_inches())
    return Figure(name, png.getvalue(), svg.getvalue(), alt, caption, width, height, photo)


class _PlainLog(LogFormatter):
    """Labels the same ticks as matplotlib's own formatter, with numbers instead of formulas."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return significant(x) if super().__call__(x, pos) else ""


def _plain_ticks(figure: Drawing) -> None:
    """Label logarithmic axes with plain numbers, because figures have no formulas."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                axis.set_major_formatter(_PlainLog())
            if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
                axis.set_minor_formatter(_PlainLog())
