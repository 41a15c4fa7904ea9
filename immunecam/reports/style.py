"""The look of every plot: colours that anybody can tell apart, one size of letters, no frame that says nothing."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from immunecam.errors import BackendMissingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "HATCHES",
    "INK",
    "MARKERS",
    "MUTED",
    "PAPER",
    "RIGHT",
    "WRONG",
    "house_style",
    "new_figure",
    "require_plots",
]

# Okabe and Ito (2008) without yellow and black, which are lost on paper and on a dark screen.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of series, in this order; people with any colour vision can tell them apart."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Of series, in this order: colour is never the only difference."""

HATCHES = ("", "//", "\\\\", "xx", "--", "||", "++")
"""Of areas, in this order; lines alone, for dots are a hundred times the bytes in an SVG."""

RIGHT, WRONG = COLOURS[0], COLOURS[1]
"""Of right and of wrong decisions, which words say, too."""

INK, MUTED, PAPER = "#1b2430", "#6b7684", "#ffffff"
"""Of text, of lines that only guide the eye, and of the ground. A page puts its own in their place."""

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "grid.color": MUTED,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6.0,
    "text.color": INK,
    # Names come from files, and a "$" in one is no formula.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.minor.size": 3.5,
    "xtick.minor.pad": 3.5,
    # Text stays text: small files, words that can be searched and read aloud.
    "svg.fonttype": "none",
    # Without it the ids of an SVG are drawn anew every time, and a committed plot would never rest.
    "svg.hashsalt": "immunecam",
}


def require_plots(what: str = "plots") -> None:
    """Raise a BackendMissingError unless what draws plots and makes pages is installed; `what` needs it."""
    missing = [name for name in ("matplotlib", "jinja2", "markdown_it") if importlib.util.find_spec(name) is None]
    if missing:
        raise BackendMissingError(
            f"{what} need {', '.join(missing)}, which is not installed: pip install 'immunecam[plots]'"
        )


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and write in the house style, whatever the user's matplotlib is set to; that is as before afterwards."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes, and no more can be done about it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **more: Any) -> tuple[Figure, Any]:
    """A figure of inches, and its axes (rows, columns); to be called in :func:`house_style`.

    Parameters
    ----------
    width, height : float
        Inches.
    rows, columns : int
        Of axes.
    **more
        As for ``Figure.subplots``.
    """
    # No pyplot: it keeps every figure, and asks for a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **more)
