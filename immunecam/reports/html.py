"""A page that opens offline: text in Markdown and plots, all in one file without a script."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from immunecam.files import written_whole
from immunecam.reports.plot import Plot
from immunecam.reports.style import INK, MUTED, PAPER

__all__ = ["html_page", "write_html"]

# The only HTML of our own Markdown; whatever else looks like it is text, for names come from files and reports.
_FOLD = re.compile(r"^(<details><summary>[^<>]*</summary>|</details>)$", re.MULTILINE)

# Inks of a plot, which a page has its own of: dark on paper, light on a dark screen.
_INKS = {INK: "var(--ink)", MUTED: "var(--muted)", PAPER: "var(--paper)"}


def html_page(markdown: str, plots: Sequence[Plot]) -> str:
    """The page: what stands before the first second-level heading, then the plots, then the rest.

    Parameters
    ----------
    markdown : str
        CommonMark with tables, beginning with ``# Title``. Pictures that it refers to are left out, because they would
        be other files.
    plots : sequence of Plot
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    text = re.sub(r"^!\[[^\]]*\]\([^)]*\)\n", "", markdown, flags=re.MULTILINE)
    before, heading, after = text.partition("\n## ")
    environment = Environment(
        loader=PackageLoader("immunecam.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    title = re.search(r"^# (.+)$", markdown, re.MULTILINE)
    return environment.get_template("page.html.jinja").render(
        title=title[1] if title else "Report",
        before=Markup(_html(before)),
        after=Markup(_html(heading + after)),
        plots=[(plot, Markup(_inlined(plot))) for plot in plots],
    )


def write_html(file: Path, markdown: str, plots: Sequence[Plot]) -> None:
    """Write :func:`html_page` whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    with written_whole(file) as partial:
        partial.write_text(html_page(markdown, plots), encoding="utf-8")


def _html(markdown: str) -> str:
    from markdown_it import MarkdownIt

    reader = MarkdownIt("js-default")  # tables, and no HTML
    html = "".join(part if _FOLD.fullmatch(part) else reader.render(part) for part in _FOLD.split(markdown))
    # A wide table moves within its own frame, so that the page does not.
    return html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")


def _inlined(plot: Plot) -> str:
    """The plot's SVG with ids of its own on the page, the page's inks, and a size that fits the page."""
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{plot.name}-", plot.svg())
    for ink, variable in _INKS.items():
        svg = re.sub(re.escape(ink), variable, svg, flags=re.IGNORECASE)
    head, end, rest = svg.partition(">")
    width = re.search(r'\bwidth="([\d.]+)pt"', head)
    head = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", head)
    named = f' role="img" aria-labelledby="{plot.name}-title {plot.name}-said"'
    wide = f' style="max-width: {float(width[1]) * 4 / 3:.0f}px"' if width else ""
    return head + named + wide + end + rest
