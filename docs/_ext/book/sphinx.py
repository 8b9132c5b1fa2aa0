"""Sphinx: pages under theory/ are run as they are read; mathematics becomes MathML, so that the book reads without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from book.notation import mathml
from book.page import PageError, pages, render


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", _run)
    app.add_directive("dropdown-code", Folded)
    app.add_html_math_renderer("mathml", (_inline, None), (_displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Folded(Directive):
    """Content that opens on a click."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        inside = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, inside)
        opening = nodes.raw("", "<details class='code'><summary>The code of this figure</summary>", format="html")
        return [opening, *inside.children, nodes.raw("", "</details>", format="html")]


def _run(app: Sphinx, name: str, source: list[str]) -> None:
    path = Path(app.srcdir) / f"{name}.md"
    if path not in pages(Path(app.srcdir) / "theory"):
        return
    try:
        source[0] = render(source[0], str(path.relative_to(Path(app.srcdir).parent)))
    except PageError as fault:
        raise ExtensionError(str(fault)) from fault


def _inline(translator: Any, node: nodes.Element) -> None:
    translator.body.append(mathml(node.astext(), display=False))
    raise nodes.SkipNode


def _displayed(translator: Any, node: nodes.Element) -> None:
    translator.body.append(f'<div class="math">{mathml(node.astext(), display=True)}</div>\n')
    raise nodes.SkipNode
