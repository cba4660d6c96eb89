"""The documentation site: `make site` builds it from this checkout into build/site, and refuses a broken link."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from docutils.nodes import SkipNode, literal_block
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.docutils import SphinxDirective

import puzzle_study
from puzzle_study.__main__ import main

if TYPE_CHECKING:
    from docutils.nodes import Node, math, math_block
    from sphinx.application import Sphinx

project = "puzzle_study"
author = copyright = "The puzzle_study developers"
release = puzzle_study.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

# Pages stay where GitHub shows them, and links between them are those of GitHub.
root_doc = "index"
include_patterns = ["*.md", "docs/*.md", "analysis/*.ipynb", "benchmarks/*.md"]
exclude_patterns = ["README.md", ".*", "build", "data", "results", "puzzle_study", "tests", "benchmarks/studies"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# The tests execute the notebooks; the site shows the outputs that are stored in them.
nb_execution_mode = "off"

# Every reference leads somewhere, except into other packages, whose pages a build without a network cannot ask.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!puzzle_study\.).*")]
# Types in signatures that those who add a part receive and pass on.
nitpick_ignore = [
    ("py:class", f"puzzle_study.{name}")
    for name in (
        *("attacks.objectives.Objective", "config.study.Settings"),
        *("detectors.epochs.Stateful", "detectors.memory.AtOnce"),
    )
]
default_role = "code"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "puzzle_study"
html_math_renderer = "mathml"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
WIDTH = 88
"""Characters in a line of help."""


class Help(SphinxDirective):
    """What a command prints with --help; its argument is the command, such as `puzzle-study data fetch`."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[Node]:
        program, *names = self.arguments[0].split()
        command: click.Command | None = main
        context = click.Context(main, info_name=program, terminal_width=WIDTH)
        for name in names:
            command = command.get_command(context, name) if isinstance(command, click.Group) else None
            if command is None:
                raise self.error(f"there is no command {self.arguments[0]}")
            context = command.context_class(command, info_name=name, parent=context, terminal_width=WIDTH)
        assert command is not None
        text = command.get_help(context)
        return [literal_block(text, text, language="text")]


def write_inline(self: Any, node: math) -> None:
    """Write a formula in a line."""
    self.body.append(tex2mathml(node.astext(), as_block=False))
    raise SkipNode


def write_block(self: Any, node: math_block) -> None:
    """Write a formula of its own line."""
    self.body.append(f"<div>{tex2mathml(node.astext(), as_block=True)}</div>")
    raise SkipNode


def setup(app: Sphinx) -> None:
    """Add help texts, and formulas as MathML, which browsers show without a script."""
    app.add_directive("help", Help)
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
