"""The documentation site: built strictly, complete, and read in a real browser without a network."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from puzzle_study.__main__ import COMMANDS
from tests.reporting.browser import Browser, find_chromium

ROOT = Path(__file__).parents[1]
CHROMIUM = find_chromium()
WIDTHS = (390, 1400)
COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
SIZES = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make site` builds it, in another folder."""
    pytest.importorskip("sphinx", reason="needs the extra docs")
    made = tmp_path_factory.mktemp("site")
    line = re.search(r"^\t\$\(BIN\)/sphinx-build (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert line is not None
    options = shlex.split(line[1].replace("build/", f"{made}/"))
    command = [sys.executable, "-m", "sphinx", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert "--fail-on-warning" in options
    return made / "site"


def test_every_page_is_there_and_in_the_navigation_of_the_front_page(site: Path) -> None:
    wanted = [*ROOT.glob("docs/*.md"), *ROOT.glob("analysis/*.ipynb"), ROOT / "benchmarks" / "RESULTS.md"]
    front = (site / "index.html").read_text(encoding="utf-8")
    for path in wanted:
        page = path.relative_to(ROOT).with_suffix(".html").as_posix()
        assert (site / page).is_file()
        assert f'href="{page}"' in front, f"add {path.name} to index.md"


def test_the_page_of_commands_has_the_help_of_each(site: Path) -> None:
    page = (site / "docs" / "commands.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"Usage: puzzle-study {name} [OPTIONS]" not in page] == []
    assert {"list", "fetch", "check"} <= set(re.findall(r"Usage: puzzle-study data (\w+)", page))


def test_docstrings_and_outputs_of_notebooks_are_on_their_pages(site: Path) -> None:
    parts = (site / "docs" / "interfaces.html").read_text(encoding="utf-8")
    assert 'id="puzzle_study.detectors.base.Detector.fit"' in parts
    assert all(
        f'id="puzzle_study.{name}"' in (site / "docs" / "api.html").read_text("utf-8") for name in ("run", "load")
    )
    for notebook in ROOT.glob("analysis/*.ipynb"):
        page = (site / "analysis" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        assert "cell_output" in page, notebook.name


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with Browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "page", ["index", "docs/method", "docs/settings", "docs/interfaces", "docs/commands", "analysis/01_sweep"]
)
def test_a_page_fits_and_asks_nobody(browser: Browser, site: Path, page: str, width: int) -> None:
    browser.open(site / f"{page}.html", width=width, height=844)
    inside, outside = browser.evaluate(SIZES)
    assert inside <= outside
    asked = {entry["request"]["url"] for entry in browser.named("Network.requestWillBeSent")}
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert [event for kind in COMPLAINTS for event in browser.named(kind)] == []


def test_a_reader_goes_on_and_searches(browser: Browser, site: Path) -> None:
    browser.open(site / "index.html")
    assert browser.evaluate("document.querySelector('.sidebar-search').placeholder") == "Search"
    link = browser.evaluate("document.querySelector('.sidebar-tree a[href*=first_study]').href")
    browser.open(link)
    assert browser.evaluate("document.querySelector('h1').firstChild.textContent") == "A first study"
    browser.open((site / "search.html").as_uri() + "?q=recalibrate")
    found = """new Promise((done) => { const look = () => {
      const links = [...document.querySelectorAll('#search-results li a')].map((link) => link.href);
      links.length ? done(links) : setTimeout(look, 50); }; look(); })"""
    assert any("docs/drift.html" in link for link in browser.evaluate(found))
