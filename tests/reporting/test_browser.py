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


def test_all_images_load_and_have_texts(browser: Browser, report: Page) -> None:
    browser.open(report.path)
    images = browser.evaluate(
        "Promise.all([...document.images].map((image) => image.decode().then(() => [image.naturalWidth, image.alt])))"
    )
    assert len(images) >= 10
    assert all(width > 300 and len(alt) > 40 for width, alt in images)


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
        assert len(numbers) > 20


def test_empty_cells_stay_at_the_end(browser: Browser, report: Page) -> None:
    browser.open(report.path)
    for _ in range(2):
        _, values = browser.evaluate(CLICK % "Rank")
        assert "" in values
        assert set(values[values.index("") :]) == {""}


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (768, False), (1280, False)])
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


def test_page_prints(browser: Browser, report: Page) -> None:
    browser.open(report.path, width=1032)
    browser.send("Emulation.setEmulatedMedia", media="print")
    inside, outside = browser.evaluate(SIZES)
    assert inside <= outside, "a table does not fit on A4 landscape"
    printed = browser.print_pdf()
    assert printed.startswith(b"%PDF")
    assert len(printed) > 50_000
