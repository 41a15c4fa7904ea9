"""Formulas as SVG, made while the site is built: they need no script, no font of the reader's and no network.

MathML would be shorter, but a browser without a mathematical font, as on many Linux machines, sets it badly.
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import ziamath
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

__all__ = ["formula", "setup"]

_log = logging.getLogger(__name__)
_SIZE = 17.0  # pixels of an em, as far as the drawing goes; the page scales it with its text

ziamath.config.math.color = "currentColor"  # light on dark where the page is
ziamath.config.svg2 = False  # else every formula of a page would name the same glyphs again


def formula(latex: str, display: str) -> str:
    """A formula as an SVG element that stands on the line of its text and tells its LaTeX to who cannot see it.

    Parameters
    ----------
    latex : str
    display : {"inline", "block"}

    Raises
    ------
    ValueError
        If the formula has something that the converter does not know: it leaves it standing as text, or gives no XML.
    """
    element = convert(latex, display=display)
    try:
        parts = list(ElementTree.fromstring(element).iter())
    except ElementTree.ParseError as error:
        raise ValueError(f"the formula {latex!r} cannot be read ({error})") from None
    unknown = [part.text for part in parts if part.text and "\\" in part.text]
    if unknown:
        raise ValueError(f"the formula {latex!r} has {', '.join(unknown)}, which the converter does not know")
    drawn = ziamath.Math(element, size=_SIZE)
    svg = drawn.svgxml()
    for side in ("width", "height"):
        svg.set(side, f"{float(svg.get(side, '0')) / _SIZE:.3f}em")
    svg.set("style", f"vertical-align: {drawn.getyofst() / _SIZE:.3f}em")
    svg.set("class", "formula")
    svg.set("role", "img")
    svg.set("aria-label", latex)
    return ElementTree.tostring(svg, encoding="unicode")


def _write(translator: Any, node: nodes.Node, display: str) -> None:
    try:
        drawn = formula(node.astext(), display)
    except Exception as error:  # the libraries' exceptions have no common base
        _log.warning("%s: %s", type(error).__name__, error, location=node)
        drawn = translator.encode(node.astext())
    # A formula that is wider than a phone scrolls by itself.
    block = '<div class="math" style="overflow-x: auto; text-align: center; margin: 1em 0">{}</div>\n'
    translator.body.append(drawn if display == "inline" else block.format(drawn))
    raise nodes.SkipNode


def _inline(translator: Any, node: nodes.math) -> None:
    _write(translator, node, "inline")


def _block(translator: Any, node: nodes.math_block) -> None:
    _write(translator, node, "block")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("svg", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.config.html_math_renderer = "svg"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
