"""Curves of a training run as one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from immunecam.reports.plot import Plot
from immunecam.reports.style import COLOURS, MUTED, house_style, new_figure

__all__ = ["DISTILLATION_PANEL", "PURIFIER_PANELS", "Panel", "training_plot"]

Panel: TypeAlias = tuple[str, str, str]
"""Column of the CSV file, title of its panel, what its axis says."""

PURIFIER_PANELS: tuple[Panel, ...] = (
    ("loss", "Loss", "weighted sum of all terms"),
    ("identity", "Identity", "1 - cosine to the clean face"),
    ("pixel", "Pixels", "squared error per pixel"),
    ("sparsity", "Active eigenfaces", "number with p > 1/2"),
    ("specificity", "Difference between faces", "Hamming distance, bits"),
    ("mutation", "Certainty", "mean |p - 1/2|"),
)

DISTILLATION_PANEL: Panel = ("distillation", "Distance to the teacher", "KL divergence a bit, nats")

_ENOUGH = 40  # points of a phase from which a mean of neighbours says more than they do


def training_plot(rows: Sequence[Mapping[str, str]], panels: Sequence[Panel], said: str) -> Plot:
    """Columns of a run's CSV file against the step, one colour a phase.

    Parameters
    ----------
    rows : sequence of mappings
        Lines of the file, at least one, with "step" and "phase" among their columns.
    panels : sequence of Panel
        One or more.
    said : str
        What a reader should know of the columns.
    """
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    with house_style():
        lines = -(-len(panels) // 3)
        figure, axes = new_figure(11, 3.1 * lines, lines, 3, sharex=True)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, (column, title, unit) in zip(axes.flat, panels, strict=False):
            for number, phase in enumerate(phases):
                colour = COLOURS[number % len(COLOURS)]
                steps, values = zip(
                    *((int(row["step"]), float(row[column])) for row in rows if row["phase"] == phase), strict=True
                )
                several = len(steps) >= _ENOUGH
                axis.plot(steps, values, color=colour, linewidth=1, alpha=0.35 if several else 1, marker=_mark(steps))
                if several:
                    axis.plot(steps, _smooth(values), color=colour)
                if number:
                    axis.axvline(steps[0], color=MUTED, linestyle=":", linewidth=1)
            axis.set(title=title, ylabel=unit)
            axis.xaxis.set_major_formatter("{x:,.0f}")
            axis.locator_params(axis="x", nbins=5)
            axis.margins(x=0.02)
            axis.grid()
        for axis in axes.flat[max(0, len(panels) - 3) : len(panels)]:
            axis.set_xlabel("step")
            axis.tick_params(labelbottom=True)
        marks = [axes[0][0].plot([], [], color=COLOURS[number % len(COLOURS)])[0] for number in range(len(phases))]
        figure.legend(marks, phases, loc="outside upper left", ncols=6)
        return Plot(
            "curves",
            "Terms of the objective, step by step",
            "A colour is a phase of training; where there are many points, the strong line is their mean over a "
            f"twentieth of the phase. {said}",
            figure,
        )


def _mark(steps: Sequence[int]) -> str:
    return "o" if len(steps) == 1 else ""


def _smooth(values: Sequence[float]) -> list[Any]:
    """Means over a twentieth of the values around each, fewer at both ends."""
    half = max(1, len(values) // 40)
    return [
        sum(values[max(0, n - half) : n + half + 1]) / len(values[max(0, n - half) : n + half + 1])
        for n in range(len(values))
    ]
