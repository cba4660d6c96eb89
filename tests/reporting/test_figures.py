"""Figures in the page: their colours, their ids, what their points say, and labels that keep apart."""

from __future__ import annotations

import itertools
import re

import pytest

from puzzle_study.reporting import drawing, vector
from puzzle_study.reporting.blocks import Figure
from puzzle_study.reporting.colours import GREY, INK, PALETTE
from puzzle_study.reporting.page import template


def points(name: str) -> Figure:
    with drawing.drawing(3, 2) as (figure, (place,)):
        drawn = place.scatter([1, 2], [3, 4], color=drawing.PALETTE[3])
        (bar,) = place.barh(1, 2, color=drawing.PALETTE[1])
        drawing.tell(drawn, ["first & foremost", "second"])
        drawing.tell(bar, ["the bar"])
        place.set(xlabel="seconds")
        return drawing.finished(figure, name=name, alt="two points and a bar", caption="")


def test_points_and_bars_say_what_they_are() -> None:
    svg = vector.inline(points("one"))
    assert re.findall(r"<title>(.*?)</title>", svg) == ["first &amp; foremost", "second", "the bar"]
    assert 'role="img" aria-label="two points and a bar"' in svg


def test_a_figure_takes_the_colours_of_the_page_and_needs_no_style() -> None:
    svg = vector.inline(points("one"))
    assert {"currentColor", "var(--c3)", "var(--c1)", "var(--line)"} <= set(re.findall(r'"([^"]+)"', svg))
    for colour in ("#000000", "#ffffff", INK, *PALETTE):
        assert colour not in svg
    assert "style" not in svg
    assert "font-family" not in svg


def test_ids_of_two_figures_differ_and_are_all_used() -> None:
    one, two = (vector.inline(points(name)) for name in ("one", "two"))
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (one, two)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', one))
    assert {first or second for first, second in used} == set(ids[0])


def test_the_style_sheet_has_every_colour_in_both_schemes() -> None:
    css = template("style.css")
    for index in range(len(PALETTE)):
        assert len(re.findall(rf"--c{index}: #", css)) == 2
    assert GREY in vector.ROLES


@pytest.mark.parametrize("ends", [(0.001, 1.0), (0.02, 0.07), (3.0, 40.0), (1e-6, 1e6)])
def test_labels_of_logarithmic_axes_keep_apart(ends: tuple[float, float]) -> None:
    with drawing.drawing(2.2, 2) as (figure, (place,)):
        place.plot(ends, ends)
        place.set(xscale="log", yscale="log")
        drawing.finished(figure, name="log", alt="", caption="")
        figure.draw_without_rendering()
        for axis, side in ((place.xaxis, "x"), (place.yaxis, "y")):
            low, high = sorted(axis.get_view_interval())
            ticks = [
                (place, label)
                for minor in (False, True)
                for place, label in zip(axis.get_ticklocs(minor=minor), axis.get_ticklabels(minor=minor), strict=False)
            ]
            boxes = [label.get_window_extent() for place, label in ticks if label.get_text() and low <= place <= high]
            shown = sorted((getattr(box, f"{side}0"), getattr(box, f"{side}1")) for box in boxes)
            assert shown  # how many there are is matplotlib's choice
            assert all(high <= low for (_, high), (low, _) in itertools.pairwise(shown))
