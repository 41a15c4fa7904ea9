"""Plots of a report: whole calls with their tails, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from immunecam.benchmarks.latency.run import STAGES
from immunecam.benchmarks.latency.table import label
from immunecam.reports.plot import Plot
from immunecam.reports.style import COLOURS, HATCHES, INK, MARKERS, MUTED, PAPER, house_style, new_figure

__all__ = ["latency_plots"]

_Row = Mapping[str, Any]


def latency_plots(report: Mapping[str, Any]) -> list[Plot]:
    """Whole calls, and their stages; a line for every row of the report but those of the reference work."""
    rows = [row for row in report["rows"] if row["form"] != "reference"]
    with house_style():
        return [
            Plot(
                "latency",
                "How long a call takes",
                "Every line is one way of running: from the median to the slowest of 20 (p95) and of 100 calls (p99), "
                "as far as enough calls were measured. The axis is logarithmic; further left is faster.",
                _latency(rows),
            ),
            Plot(
                "stages",
                "Where the time of a call goes",
                "Medians of the stages one after another, in milliseconds; the number behind a bar is their sum. "
                "Colours and hatches follow the legend from left to right.",
                _stages(rows),
            ),
        ]


def _latency(rows: Sequence[_Row]) -> Any:
    figure, ((axis,),) = _lines(rows)
    for place, row in enumerate(rows):
        found = [row[f"total_{q}_ms"] for q in ("p50", "p95", "p99") if f"total_{q}_ms" in row]
        axis.plot([min(found), max(found)], [place, place], color=MUTED, linewidth=1.2, zorder=1)
        axis.annotate(
            _milliseconds(found[0]),
            (found[0], place),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=INK,
        )
    for number, q in enumerate(("p50", "p95", "p99")):
        points = [(row[f"total_{q}_ms"], place) for place, row in enumerate(rows) if f"total_{q}_ms" in row]
        if points:
            style = {"color": COLOURS[number], "markeredgecolor": PAPER, "markersize": 8}
            axis.plot(*zip(*points, strict=True), MARKERS[number], label=_PERCENTILES[q], **style)
    axis.set_xscale("log", subs=(2, 5))
    for numbers in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        numbers("{x:g}")
    axis.set_xlabel("time of a whole call, milliseconds (logarithmic)")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


_PERCENTILES = {"p50": "median (p50)", "p95": "p95", "p99": "p99"}


def _stages(rows: Sequence[_Row]) -> Any:
    figure, ((axis,),) = _lines(rows)
    left = [0.0] * len(rows)
    for number, stage in enumerate(stage for stage in STAGES if stage != "total"):
        widths = [float(row.get(f"{stage}_p50_ms", 0.0)) for row in rows]
        if any(widths):
            style = {"color": (*COLOURS, MUTED)[number % 7], "hatch": HATCHES[(number + number // 7) % len(HATCHES)]}
            axis.barh(range(len(rows)), widths, 0.55, left=left, label=stage, edgecolor=PAPER, linewidth=0.5, **style)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    for place, end in enumerate(left):
        axis.annotate(_milliseconds(end), (end, place), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
    axis.set_xlim(0, 1.12 * max([*left, 1e-9]))
    axis.set_xlabel("medians of the stages, milliseconds")
    figure.legend(loc="outside upper left", ncols=6)
    return figure


def _lines(rows: Sequence[_Row]) -> tuple[Any, Any]:
    """A figure with a named line for every row, the first one on top."""
    figure, axes = new_figure(9.2, 1.5 + 0.52 * len(rows))
    axis = axes[0][0]
    axis.set_yticks(range(len(rows)), [_tick(row) for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.7)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    return figure, axes


def _milliseconds(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _tick(row: _Row) -> str:
    batch = "" if row["batch"] is None else f", batch {row['batch']}"
    return f"{label(row)}\n{row['provider']}, {row['threads']} thread{'s' * (row['threads'] > 1)}{batch}"
