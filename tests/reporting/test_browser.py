"""The page in a real browser: nothing is fetched, nothing fails, everything can be read on a phone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reporting.browser import Browser, find_chromium
from tests.reporting.pages import Page

CHROMIUM = find_chromium()
SIZES = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    with Browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_opens_without_requests_and_errors(browser: Browser, report: Page) -> None:
    browser.open(report.path)
    requested = {entry["request"]["url"] for entry in browser.named("Network.requestWillBeSent")}
    assert {url for url in requested if not url.startswith("data:")} == {report.path.as_uri()}
    for kind in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
        assert browser.named(kind) == []


def test_all_figures_are_drawn_and_have_texts(browser: Browser, report: Page) -> None:
    browser.open(report.path)
    figures = browser.evaluate(
        "[...document.querySelectorAll('figure svg')].map((svg) =>"
        " [svg.getBoundingClientRect().width, svg.getAttribute('aria-label')])"
    )
    assert len(figures) >= 12
    assert all(width > 250 and len(alt) > 40 for width, alt in figures)
    assert browser.evaluate(
        "Promise.all([...document.querySelectorAll('image')].map((image) => {"
        "  const loaded = new Image(); loaded.src = image.href.baseVal; return loaded.decode();"
        "})).then((all) => all.length)"
    ) >= 4  # fmt: skip


def test_links_to_files_beside_the_page_are_right(browser: Browser, report: Page) -> None:
    browser.open(report.path)
    links = browser.evaluate("[...document.querySelectorAll('a')].map((link) => link.getAttribute('href'))")
    anchors = set(browser.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)"))
    assert len(links) > 50
    for link in links:
        assert link[1:] in anchors if link.startswith("#") else (report.path.parent / link).exists(), link
    ids = browser.evaluate("[...document.querySelectorAll('[id]')].length")
    assert ids == len(anchors)


CLICK = """
    (() => {
      const table = document.querySelector('#table-ranking table');
      const index = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.startsWith('%s'));
      const heading = table.tHead.rows[0].cells[index];
      heading.querySelector('button').click();
      const values = [...table.tBodies[0].rows].map((row) => row.cells[index].dataset.value);
      return [heading.getAttribute('aria-sort'), values];
    })()
"""


def test_ranking_sorts_on_click(browser: Browser, report: Page) -> None:
    browser.open(report.path)
    for direction, sign in (("descending", -1), ("ascending", 1), ("descending", -1)):
        sorted_by, values = browser.evaluate(CLICK % "AUROC")
        assert sorted_by == direction
        numbers = [sign * float(value) for value in values if value]
        assert numbers == sorted(numbers)
        assert len(numbers) > 10


def test_empty_cells_stay_at_the_end(browser: Browser, report: Page) -> None:
    browser.open(report.path)
    for _ in range(2):
        _, values = browser.evaluate(CLICK % "Rank")
        assert "" in values
        assert set(values[values.index("") :]) == {""}


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (768, False), (1280, False), (1400, True)])
def test_page_does_not_scroll_sideways(browser: Browser, report: Page, width: int, dark: bool) -> None:
    browser.open(report.path, width=width, height=844, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
    inside, outside = browser.evaluate(SIZES)
    assert inside <= outside


def test_dark_page_is_dark(browser: Browser, report: Page) -> None:
    colours = {}
    for dark in (False, True):
        browser.open(report.path, dark=dark)
        colours[dark] = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colours == {False: "rgb(255, 255, 255)", True: "rgb(21, 21, 21)"}


OVERLAPS = """
    [...document.querySelectorAll('%s')].flatMap((box) => {
      const texts = [...box.querySelectorAll('%s')].filter((one) => one.textContent.trim());
      const boxes = texts.map((one) => one.getBoundingClientRect());
      const beside = (a, b) => a.right < b.left + 1 || b.right < a.left + 1;
      const touch = (a, b) => !beside(a, b) && a.top < b.bottom - 3 && b.top < a.bottom - 3;
      return boxes.flatMap((one, i) => boxes.slice(i + 1).flatMap((other, j) =>
        touch(one, other) ? [[box.id, texts[i].textContent.trim(), texts[i + 1 + j].textContent.trim()]] : []));
    })
"""


@pytest.mark.parametrize("width", [390, 1400])
def test_no_text_lies_on_another(browser: Browser, report: Page, width: int) -> None:
    browser.open(report.path, width=width)
    browser.evaluate("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
    assert browser.evaluate(OVERLAPS % ("figure", "svg text, figcaption")) == []
    assert browser.evaluate(OVERLAPS % ("section", "h2, h3, p, .card dd, .card dt, pre")) == []


def test_wide_screens_are_used(browser: Browser, report: Page) -> None:
    browser.open(report.path, width=1400)
    places = browser.evaluate(
        "['verdict', 'roc', 'precision_recall'].map((name) => {"
        "  const box = document.getElementById(`figure-${name}`).getBoundingClientRect();"
        "  return [box.top, box.right];"
        "})"
    )
    assert len({top for top, _ in places}) == 1, "the three figures of the first screen stand side by side"
    assert places[-1][1] > 1200


CONTRASTS = """
    (() => {
      const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map((value) => {
          const share = value / 255;
          return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const page = light(getComputedStyle(document.body).backgroundColor);
      const contrast = (colour) => {
        const one = light(colour);
        return (Math.max(one, page) + 0.05) / (Math.min(one, page) + 0.05);
      };
      const fills = (selector, name) =>
        [...document.querySelectorAll(selector)].map((one) => getComputedStyle(one)[name]);
      const solid = (colours) => [...new Set(colours)].filter((colour) => colour.startsWith('rgb('));
      const words = solid(fills('.note, figcaption, dd, p, th, td, h2', 'color').concat(
        fills('figure:not(#figure-corruptions) svg text', 'fill')));
      const shapes = solid(['verdict', 'roc', 'robustness'].flatMap(
        (name) => fills(`#figure-${name} [data-tip]`, 'fill')));
      return [Math.min(...words.map(contrast)), Math.min(...shapes.map(contrast)), shapes.length];
    })()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_words_and_points_stand_out_from_the_page(browser: Browser, report: Page, dark: bool) -> None:
    browser.open(report.path, dark=dark)
    words, shapes, colours = browser.evaluate(CONTRASTS)
    assert words >= 4.5, "WCAG 2.1, 1.4.3"
    assert shapes >= 2.2
    assert colours >= 4


def test_a_point_says_what_it_is_under_the_pointer(browser: Browser, report: Page) -> None:
    browser.open(report.path, width=390)
    said = browser.evaluate(
        "(() => {"
        "  const told = document.querySelector('#figure-roc [data-tip]'), tip = document.getElementById('tip');"
        "  const before = tip.hidden;"
        "  told.dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));"
        "  const box = tip.getBoundingClientRect();"
        "  return [before, tip.hidden, tip.textContent, box.left, box.right];"
        "})()"
    )
    assert said[:2] == [True, False]
    assert said[2].startswith("0, seed 0: threshold ")
    assert said[3] >= 0
    assert said[4] <= 390


def test_page_prints(browser: Browser, report: Page) -> None:
    browser.open(report.path, width=1032)
    browser.send("Emulation.setEmulatedMedia", media="print")
    inside, outside = browser.evaluate(SIZES)
    assert inside <= outside, "a table does not fit on A4 landscape"
    printed = browser.print_pdf()
    assert printed.startswith(b"%PDF")
    assert len(printed) > 50_000
