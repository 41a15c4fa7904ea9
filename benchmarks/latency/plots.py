"""Plots of a report: whole calls with their tails, and where the time goes."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from immunecam.benchmarks.latency.run import STAGES
from immunecam.benchmarks.latency.table import label
from immunecam.errors import BackendMissingError
from immunecam.files import written_whole

__all__ = ["require_plots", "write_plots"]

# Told apart by people with any colour vision (Okabe and Ito, 2008), and by hatches in print.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--", "", "", "..")
_PLAIN = "#999999", "#444444", "#000000"


def require_plots() -> None:
    """Raise a BackendMissingError unless matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BackendMissingError(
            "plots need matplotlib, which is not installed: pip install 'immunecam[train]', or leave --plots out"
        )


def write_plots(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write latency and stages, each as PNG and SVG, into a folder that is there; the files.

    Raises
    ------
    OSError
        If one cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    files = []
    rows = [row for row in report["rows"] if row["form"] != "reference"]
    with pyplot.rc_context({"svg.hashsalt": "immunecam", "hatch.linewidth": 0.5}):
        for name, draw in (("latency", _latency), ("stages", _stages)):
            figure, axis = pyplot.subplots(figsize=(9, 1.6 + 0.45 * len(rows)), layout="constrained")
            draw(axis, rows)
            axis.set_yticks(range(len(rows)), [_tick(row) for row in rows])
            axis.invert_yaxis()
            axis.grid(axis="x", alpha=0.3)
            for kind in ("png", "svg"):
                file = folder / f"{name}.{kind}"
                with written_whole(file) as partial:
                    figure.savefig(partial, dpi=120, format=kind, metadata={"Date": None} if kind == "svg" else None)
                files.append(file)
            pyplot.close(figure)
    return files


def _latency(axis: Any, rows: list[Mapping[str, Any]]) -> None:
    for number, (q, marker) in enumerate((("p50", "o"), ("p95", "s"), ("p99", "^"))):
        points = [(row[f"total_{q}_ms"], place) for place, row in enumerate(rows) if f"total_{q}_ms" in row]
        if points:
            axis.plot(*zip(*points, strict=True), marker, color=_COLOURS[number], label=q)
    axis.set_xscale("log", subs=(2, 5))
    for numbers in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        numbers("{x:g}")
    axis.margins(y=0.2)
    axis.set(xlabel="whole call, milliseconds (logarithmic)", title="Latency of a call")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _stages(axis: Any, rows: list[Mapping[str, Any]]) -> None:
    left = [0.0] * len(rows)
    for number, stage in enumerate(stage for stage in STAGES if stage != "total"):
        widths = [float(row.get(f"{stage}_p50_ms", 0.0)) for row in rows]
        if any(widths):
            style = {"color": (_COLOURS + _PLAIN)[number], "hatch": _HATCHES[number]}
            axis.barh(range(len(rows)), widths, left=left, label=stage, edgecolor="white", **style)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.set(xlabel="median of a stage, milliseconds", title="Stages of a call")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _tick(row: Mapping[str, Any]) -> str:
    batch = "" if row["batch"] is None else f", batch {row['batch']}"
    return f"{label(row)}\n{row['provider']}, {row['threads']} thread{'s' * (row['threads'] > 1)}{batch}"
