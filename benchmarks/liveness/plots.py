"""Heat maps and curves of a report on liveness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.liveness.figures import DIRECTIONS
from immunecam.models.liveness import AUXILIARY
from immunecam.reports.plot import Plot
from immunecam.reports.style import COLOURS, MARKERS, MUTED, WRONG, house_style, new_figure

__all__ = ["grid_of", "liveness_plots"]

_Report = Mapping[str, Any]

# Not the page's paper and ink: a cell keeps its light ground on a dark page, and so must what is written on it.
_GROUND, _WRITTEN = "#f6f1ea", "#141414"


def liveness_plots(report: _Report) -> list[Plot]:
    """The plots of a page, most important first."""
    word = "synthetic set" if report["synthetic"] else str(report["set"])
    levels = ", ".join(f"{level:g}" for level in report["protocol"]["levels"])
    some = len(report["in_detail"]) < len(report["runs"])
    those = " Shown are the networks with most auxiliary tasks." if some else ""
    with house_style():
        plots = [
            Plot(
                "opens",
                f"Spoofs that pass as live, by attacked head ({word})",
                f"Percent of correctly classified spoofs, mean over the budgets {levels} of 255. Rows are networks and "
                f"the heads whose loss is attacked, columns attacks without SFA and with it; darker is worse.{those}",
                _heat(report, DIRECTIONS[0]),
            ),
            Plot(
                "shuts",
                f"Live faces that are stopped, by attacked head ({word})",
                f"The same for live faces that are taken for spoofs, mean over the budgets {levels} of 255.{those}",
                _heat(report, DIRECTIONS[1]),
            ),
            Plot(
                "budgets",
                f"Success against the budget, spoof to live ({word})",
                "Attacks on the head live: broken lines without SFA, whole ones with it; lower is better. Bars are "
                f"intervals of 95 %.{those}",
                _budgets(report),
            ),
            Plot(
                "species",
                f"Errors by species under the strongest attack ({word})",
                "Percent of live faces that are stopped, and of each species of spoof that passes; columns are "
                f"budgets, the first without an attack. Darker is worse.{those}",
                _species(report),
            ),
        ]
        if len(grid_of(report)[0]) > 1 and len(grid_of(report)[1]) > 1:
            plots.insert(
                0,
                Plot(
                    "matrix",
                    f"Spoofs that pass under the strongest attack, by backbone and auxiliary tasks ({word})",
                    f"Percent of spoofs that were stopped before, mean over the budgets {levels} of 255; darker is "
                    "worse. Networks trained against attacks are not among them.",
                    _grid(report),
                ),
            )
        if report["sweep"]:
            plots.append(
                Plot(
                    "sweep",
                    f"What other settings of SFA gain ({word})",
                    "Points of success that SFA adds to the attack alone, a mark for each setting and network, right "
                    "of the line is more; columns of marks share a layer.",
                    _sweep(report),
                )
            )
        if report["purification"]:
            plots.append(
                Plot(
                    "purified",
                    f"Attacked spoofs that pass, without purification and with it ({word})",
                    "Percent of spoofs that the network stops when nothing is attacked or purified; every pair of "
                    "marks is a network, an attack and a budget. Left is better.",
                    _purified(report),
                )
            )
    return plots


def _colours() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("worse", [_GROUND, "#f3b48a", WRONG])


def _matrix(axis: Any, values: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Cells with their numbers, 0 to 100; what is not known stays empty."""
    axis.pcolormesh(values, cmap=_colours(), vmin=0, vmax=100, edgecolors=MUTED, linewidth=0.4)
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            axis.text(x + 0.5, y + 0.5, f"{value:.0f}", ha="center", va="center", color=_WRITTEN, fontsize=8.5)
    axis.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axis.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axis.tick_params(length=0)
    axis.invert_yaxis()
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)


def grid_of(report: _Report) -> tuple[list[str], list[str], dict[tuple[str, str], float]]:
    """Sets of auxiliary tasks, backbones, and how many spoofs pass; means over runs that are alike."""
    usual = [row for row in report["ranking"]["runs"] if not row["adversarial"] and row["opened_percent"] is not None]
    found: dict[tuple[str, str], list[float]] = {}
    for row in usual:
        found.setdefault((row["tasks"], row["backbone"]), []).append(row["opened_percent"])
    tasks, backbones = (sorted({key[place] for key in found}) for place in (0, 1))
    return tasks, backbones, {key: float(np.mean(values)) for key, values in found.items()}


def _grid(report: _Report) -> Any:
    tasks, backbones, found = grid_of(report)
    values = np.array([[found.get((name, backbone), np.nan) for backbone in backbones] for name in tasks])
    figure, axes = new_figure(7.2, 1.0 + 0.3 * len(tasks))
    every = ", ".join(AUXILIARY)
    _matrix(axes[0, 0], values, ["all" if name == every else name for name in tasks], backbones)
    return figure


def _heat(report: _Report, direction: str) -> Any:
    columns = list(dict.fromkeys((row["attack"], row["sfa"]) for row in report["rows"]))
    detailed = set(report["in_detail"])
    rows = list(dict.fromkeys((row["run"], row["head"]) for row in report["rows"] if row["run"] in detailed))
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in report["rows"]:
        if row["direction"] == direction and row["percent"] is not None:
            key = ((row["run"], row["head"]), (row["attack"], row["sfa"]))
            found.setdefault(key, []).append(row["percent"])
    values = np.array([[float(np.mean(found.get((row, column), [np.nan]))) for column in columns] for row in rows])
    figure, axes = new_figure(8.6, 1.0 + 0.27 * len(rows))
    _matrix(
        axes[0, 0],
        values,
        [f"{run}: {head}" for run, head in rows],
        [f"{attack}\n{'with SFA' if sfa else 'alone'}" for attack, sfa in columns],
    )
    return figure


def _budgets(report: _Report) -> Any:
    runs = list(report["in_detail"])
    across = min(2, len(runs))
    down = -(-len(runs) // across)
    figure, axes = new_figure(4.6 * across, 0.6 + 2.9 * down, down, across)
    attacks = list(dict.fromkeys(row["attack"] for row in report["rows"]))
    for number, axis in enumerate(axes.flat):
        if number >= len(runs):
            axis.set_axis_off()
            continue
        axis.grid()
        for index, attack in enumerate(attacks):
            for sfa, style in ((False, "--"), (True, "-")):
                own = sorted(
                    (row["level"], row["percent"], row["low_percent"], row["high_percent"])
                    for row in report["rows"]
                    if (row["run"], row["head"], row["attack"], row["sfa"], row["direction"])
                    == (runs[number], "live", attack, sfa, DIRECTIONS[0])
                    and row["percent"] is not None
                )
                if own:
                    x, y, low, high = (np.array(column) for column in zip(*own, strict=True))
                    # Side by side, for marks of several attacks often lie on one value.
                    axis.errorbar(
                        x * 2 ** (0.05 * (2 * index + sfa - len(attacks) + 0.5)),
                        y,
                        [np.maximum(0, y - low), np.maximum(0, high - y)],
                        linestyle=style,
                        color=COLOURS[index % len(COLOURS)],
                        marker=MARKERS[index % len(MARKERS)],
                        markerfacecolor="none" if not sfa else COLOURS[index % len(COLOURS)],
                        elinewidth=0.8,
                        linewidth=1.4,
                        label=f"{attack}{' with SFA' if sfa else ''}",
                    )
        axis.set_xscale("log", base=2)
        levels = report["protocol"]["levels"]
        axis.set_xticks(levels, [f"{level:g}" for level in levels])
        axis.minorticks_off()
        axis.set(title=runs[number], xlabel="budget, grey levels of 255", ylabel="spoofs that pass, %", ylim=(-3, 103))
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=3 if across > 1 else 2)
    return figure


def _species(report: _Report) -> Any:
    levels = [0.0, *report["protocol"]["levels"]]
    detailed = set(report["in_detail"])
    rows = list(dict.fromkeys((row["run"], row["species"]) for row in report["errors"] if row["run"] in detailed))
    found = {(row["run"], row["species"], row["level"]): row["percent"] for row in report["errors"]}
    values = np.array(
        [[np.nan if (x := found.get((*row, level))) is None else x for level in levels] for row in rows], float
    )
    figure, axes = new_figure(7.2, 1.0 + 0.27 * len(rows))
    names = [f"{run}: {'live, stopped' if kind == 'live' else kind + ', passes'}" for run, kind in rows]
    _matrix(axes[0, 0], values, names, ["no attack", *(f"{level:g}/255" for level in levels[1:])])
    return figure


def _sweep(report: _Report) -> Any:
    rows = report["sweep"]
    groups = list(dict.fromkeys((row["layer"], row["operator"]) for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure, axes = new_figure(8.0, 1.2 + 0.32 * len(groups))
    axis = axes[0, 0]
    axis.axvline(0, color=MUTED, linewidth=1)
    for number, run in enumerate(runs):
        own = [row for row in rows if row["run"] == run]
        places = [groups.index((row["layer"], row["operator"])) + 0.16 * (number - (len(runs) - 1) / 2) for row in own]
        mark = {"color": COLOURS[number % len(COLOURS)], "linestyle": "none", "markersize": 4.5, "alpha": 0.8}
        axis.plot([row["gain_points"] for row in own], places, MARKERS[number % len(MARKERS)], label=run, **mark)
    axis.set_yticks(range(len(groups)), [f"{layer}, {operator}" for layer, operator in groups])
    axis.set(xlabel="gain, points of success", ylim=(len(groups) - 0.5, -0.5))
    axis.grid(axis="x")
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def _purified(report: _Report) -> Any:
    rows = [
        row for row in report["purification"] if row["direction"] == DIRECTIONS[0] and row["with_percent"] is not None
    ]
    names = []
    for row in rows:
        attack = "no attack" if row["attack"] == "none" else f"{row['attack']}{' + SFA' if row['sfa'] else ''}"
        names.append(f"{row['run']}: {attack} {row['budget'] if row['level'] else ''}".strip())
    figure, axes = new_figure(8.0, 1.2 + 0.26 * len(rows))
    axis, places = axes[0, 0], np.arange(len(rows))
    for number, where in enumerate(("without", "with")):
        values = [row[f"{where}_percent"] for row in rows]
        axis.plot(values, places, MARKERS[number], color=COLOURS[number], label=f"{where} purification", clip_on=False)
    axis.set_yticks(places, names)
    axis.set(xlabel="spoofs that pass, %", xlim=(-3, 103), ylim=(len(rows) - 0.5, -0.5))
    axis.grid(axis="x")
    figure.legend(loc="outside upper left", ncols=2)
    return figure
