"""Style and saving of figures: one style, no global matplotlib state, PNG and SVG of each."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogFormatter, LogFormatterMathtext
from numpy.typing import NDArray

from puzzle_study.detectors.scoring import AGGREGATIONS
from puzzle_study.reporting import colours
from puzzle_study.reporting.blocks import Figure
from puzzle_study.reporting.cells import significant
from puzzle_study.reporting.vector import TOLD
from puzzle_study.statistics.intervals import Estimate

DPI = 150
PALETTE, GREY = list(colours.PALETTE), colours.GREY
APART = 3.0
"""Pixels between the labels of an axis."""
_TOLD: WeakKeyDictionary[Drawing, list[tuple[str, ...]]] = WeakKeyDictionary()
"""What the points of a figure that is being drawn say."""
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
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), colours.INK),
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
        # So that the last label of an axis does not touch the first of the next one.
        cast(ConstrainedLayoutEngine, figure.get_layout_engine()).set(wspace=0.05, hspace=0.05)
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


def tell(artist: Artist, texts: Sequence[str]) -> None:
    """Say what the page shows under the pointer: one text for each point of a scatter or line, or for a bar."""
    figure = artist.get_figure()
    assert isinstance(figure, Drawing)
    told = _TOLD.setdefault(figure, [])
    artist.set_gid(f"{TOLD}{len(told)}")
    told.append(tuple(texts))


def finished(figure: Drawing, *, name: str, alt: str, caption: str) -> Figure:
    """Return a drawn figure for the page.

    Args:
        figure: from :func:`drawing`; call this inside its block.
        name: file name without suffix.
        alt: a description of the picture for people who cannot see it.
        caption: what the figure shows, how its intervals were made, and their n.
    """
    _plain_ticks(figure)
    _keep_labels_apart(figure)
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    # The layout is settled; solving it again for the SVG would take as long as the drawing.
    figure.set_layout_engine("none")
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    width, height = (round(inches * 96) for inches in figure.get_size_inches())
    told = tuple(_TOLD.pop(figure, ()))
    return Figure(name, png.getvalue(), svg.getvalue(), alt, caption, width, height, told)


class _PlainLog(LogFormatter):
    """Labels the same ticks as matplotlib's own formatter, with numbers instead of formulas; not the hidden ones."""

    hidden: frozenset[str] = frozenset()

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = significant(x) if super().__call__(x, pos) else ""
        return "" if text in self.hidden else text


def _plain_ticks(figure: Drawing) -> None:
    """Label logarithmic axes with plain numbers, because figures have no formulas."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                axis.set_major_formatter(_PlainLog())
            if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
                axis.set_minor_formatter(_PlainLog())


def _keep_labels_apart(figure: Drawing) -> None:
    """Hide the labels of logarithmic axes that would touch another one: first those between powers of ten."""
    found = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    found = [axis for axis in found if isinstance(axis.get_major_formatter(), _PlainLog)]
    if not found:
        return
    figure.draw_without_rendering()
    for axis in found:
        kept: list[tuple[float, float]] = []
        hidden = set()
        for text, low, high in _labels(axis):
            if any(low < other_high + APART and other_low < high + APART for other_low, other_high in kept):
                hidden.add(text)
            else:
                kept.append((low, high))
        for formatter in (axis.get_major_formatter(), axis.get_minor_formatter()):
            if isinstance(formatter, _PlainLog):
                formatter.hidden = frozenset(hidden)


def _labels(axis: Axis) -> Iterator[tuple[str, float, float]]:
    """Yield the labels of an axis with both ends along it in pixels, those of powers of ten first."""
    low, high = sorted(axis.get_view_interval())
    for minor in (False, True):
        places, labels = axis.get_ticklocs(minor=minor), axis.get_ticklabels(minor=minor)
        for place, label in zip(places, labels, strict=False):
            if label.get_text() and low <= place <= high:
                box = label.get_window_extent()
                ends = (box.x0, box.x1) if isinstance(axis, XAxis) else (box.y0, box.y1)
                yield label.get_text(), float(ends[0]), float(ends[1])
