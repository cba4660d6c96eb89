"""The HTML page: one self-contained file that makes no network requests and escapes its texts."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources

import jinja2
from markupsafe import Markup

import puzzle_study
from puzzle_study.reporting.blocks import Section
from puzzle_study.reporting.vector import inline

GENERATOR = '<meta name="generator" content="puzzle_study'


def render(*, title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the page.

    The content security policy allows only the page's own style, script and images, by their hashes; nothing else is
    loaded or run, whatever a study's texts contain.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(template),
        keep_trailing_newline=True,
    )
    environment.filters["inline"] = lambda figure: Markup(inline(figure))
    environment.filters["bound"] = _bound
    environment.filters["breakable"] = _breakable
    style, script = template("style.css"), template("page.js")
    return environment.get_template("report.html.jinja").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        version=puzzle_study.__version__,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _bound(text: str) -> str:
    """Return text without line breaks between a number and its sign."""
    return re.sub(r" (?=[%=]|±|\(n\))|(?<=[=±]) (?=[\d−])|(?<=,) (?=[\d+−.]+\])", "\u00a0", text)


def _breakable(title: str) -> str:
    """Return a heading in which a setting's dotted name may break after its dots."""
    return re.sub(r"(?<=[a-z]\.)(?=[a-z])", "\u200b", title)


def template(name: str) -> str:
    """Return the text of a file of ``templates/``."""
    return resources.files("puzzle_study.reporting").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
