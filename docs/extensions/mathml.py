"""Formulas as MathML, made while the site is built: they need no script, no font and no network to be read."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

__all__ = ["mathml", "setup"]

_log = logging.getLogger(__name__)


def mathml(formula: str, display: str) -> str:
    """A formula as a MathML element.

    Parameters
    ----------
    formula : str
        LaTeX.
    display : {"inline", "block"}

    Raises
    ------
    ValueError
        If the formula has something that the converter does not know: it leaves it standing as text, or gives no XML.
    """
    element = convert(formula, display=display)
    try:
        parts = list(ElementTree.fromstring(element).iter())
    except ElementTree.ParseError as error:
        raise ValueError(f"the formula {formula!r} gives no MathML ({error})") from None
    unknown = [part.text for part in parts if part.text and "\\" in part.text]
    if unknown:
        raise ValueError(f"the formula {formula!r} has {', '.join(unknown)}, which the converter does not know")
    return element


def _write(translator: Any, node: nodes.Node, display: str) -> None:
    try:
        translator.body.append(mathml(node.astext(), display))
    except Exception as error:  # the converter's exceptions have no common base
        _log.warning("%s: %s", type(error).__name__, error, location=node)
        translator.body.append(translator.encode(node.astext()))
    raise nodes.SkipNode


def _inline(translator: Any, node: nodes.math) -> None:
    _write(translator, node, "inline")


def _block(translator: Any, node: nodes.math_block) -> None:
    _write(translator, node, "block")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
