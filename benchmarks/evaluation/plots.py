"""Curves of a report, and the contact sheet of faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation.page import picked
from immunecam.files import written_whole
from immunecam.reports.plot import Plot
from immunecam.reports.style import COLOURS, MARKERS, MUTED, PAPER, house_style, new_figure

__all__ = ["contact_sheet", "evaluation_plots"]

_Report = Mapping[str, Any]

_GOALS = {"dodging": "same_accepted_percent", "impersonation": "different_rejected_percent"}

# What is seen at a glance: name, threat, attack (a beginning), budget.
_GLANCE = (
    ("clean faces", "clean", "", "0"),
    ("grey-box MI-FGSM 8/255", "grey-box", "MI-FGSM", "8/255"),
    ("grey-box PGD 8/255", "grey-box", "PGD-40", "8/255"),
    ("adaptive 8/255", "adaptive", "", "8/255"),
)


def evaluation_plots(report: _Report) -> list[Plot]:
    """The plots of a page, most important first; that of the price only where defences were attacked adaptively."""
    with house_style():
        plots = [
            Plot(
                "glance",
                "Right decisions, by defence and attacker",
                "Half the sum of same pairs accepted and different pairs rejected, for the attack that does most; "
                "further right is better. The gap between a defence's marks is what an attacker gains.",
                _glance(report),
            ),
            Plot(
                "budgets",
                "Success of the attacker against the budget",
                "How often the attacker gets through, against how much a pixel may change; lower is better. Broken "
                "lines are attackers who do not know of the defence, whole ones those who attack through it.",
                _budgets(report),
            ),
            Plot(
                "roc",
                "Accepted people against false matches",
                "True accepts over all thresholds, on clean faces (left) and under grey-box PGD-40 at 8/255 (right); "
                "higher is better, and further left is stricter. False match rates below the smallest one that these "
                "pairs can tell are not drawn.",
                _roc(report),
            ),
        ]
        if any(row["threat"] == "adaptive" for row in report["rows"]):
            plots.append(
                Plot(
                    "price",
                    "What resistance to the adaptive attacker costs",
                    "Every mark is a defence: clean accuracy against the success of an attacker who knows of it; up "
                    "and to the left is better. Open marks are 4/255, filled ones 8/255; plain projections are joined, "
                    "from the largest subspace to the smallest.",
                    _price(report),
                )
            )
    return plots


def _glance(report: _Report) -> Any:
    defences = list(dict.fromkeys(row["defence"] for row in report["rows"]))
    figure, axes, recognizers = _grid(report, 1, height=0.9 + 0.36 * len(defences))
    for recognizer, (axis,) in zip(recognizers, axes, strict=True):
        for number, (name, *which) in enumerate(_GLANCE):
            points = [
                (sum(min(row[key] for row in rows) for key in _GOALS.values()) / 2, place)
                for place, defence in enumerate(defences)
                if (rows := picked(report["rows"], recognizer, defence, *which))
            ]
            if points:
                # Each threat has a height of its own, for marks of a defence often lie on one value.
                values, places = zip(*((value, place + 0.18 * (number - 1.5)) for value, place in points), strict=True)
                style = {"color": COLOURS[number], "markeredgecolor": PAPER, "markersize": 7.5, "clip_on": False}
                axis.plot(values, places, MARKERS[number], label=name, **style)
        for place in range(0, len(defences), 2):
            axis.axhspan(place - 0.5, place + 0.5, color=MUTED, alpha=0.08, linewidth=0)
        axis.grid(visible=False, axis="y")
        axis.set(title=recognizer, xlabel="right decisions, %", xlim=(-3, 103), ylim=(len(defences) - 0.5, -0.5))
        axis.set_yticks(range(len(defences)), defences)
        for name in axis.get_yticklabels():
            name.set_fontweight("bold" if name.get_text() in report["bundles"] else "normal")
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
    _legend(figure, axes, [name for name, *_ in _GLANCE])
    return figure


def _budgets(report: _Report) -> Any:
    figure, axes, recognizers = _grid(report, 2)
    for row, recognizer in enumerate(recognizers):
        for axis, (goal, key) in zip(axes[row], _GOALS.items(), strict=True):
            levels = set[float]()
            for number, defence in enumerate(["none", *report["bundles"]]):
                for threat, attack, style in (("grey-box", "PGD-40", "--"), ("adaptive", "strongest", "-")):
                    points = sorted(
                        (float(r["budget"].split("/")[0]), 100 - r[key])
                        for r in report["rows"]
                        if (r["recognizer"], r["defence"], r["threat"], r["purified"])
                        == (recognizer, defence, threat, "both")
                        and r["attack"].startswith(attack)
                        and r["budget"].endswith("/255")
                    )
                    levels |= {level for level, _ in points}
                    if points:
                        # An open mark and a filled one can lie on one spot and both be seen.
                        mark = {"marker": MARKERS[number % 8], "clip_on": False} | (
                            {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.8}
                            if threat == "adaptive"
                            else {}
                        )
                        name = f"{'no defence' if defence == 'none' else defence}, {threat}"
                        axis.plot(*zip(*points, strict=True), style, color=_colour(number), label=name, **mark)
            axis.set(
                title=f"{recognizer}: {goal}",
                xlabel="budget, grey levels of 255",
                ylabel="success of the attacker, %",
                ylim=(0, 104),
            )
            axis.set_xticks(sorted(levels))
            axis.margins(x=0.08)
    _legend(figure, axes)
    return figure


def _roc(report: _Report) -> Any:
    figure, axes, recognizers = _grid(report, 2)
    # What a single different pair is in per cent: no lower rate than that can be told.
    lowest = 200 / report["pairs"]
    for row, recognizer in enumerate(recognizers):
        for axis, threat in zip(axes[row], ("clean", "grey-box"), strict=True):
            curves = [c for c in report["roc"] if (c["recognizer"], c["threat"]) == (recognizer, threat)]
            for number, curve in enumerate(curves):
                points = [(100 * x, 100 * y) for x, y in zip(curve["fmr"], curve["tar"], strict=True) if x]
                name = "no defence" if curve["defence"] == "none" else curve["defence"]
                style = {"color": _colour(number), "linestyle": ("-", "--", ":", "-.")[number % 4]}
                axis.step(*zip(*points, strict=True), where="post", label=name, linewidth=2.2, **style)
            axis.set_xscale("log", subs=(2, 5))
            title = "clean faces" if threat == "clean" else "grey-box PGD-40 at 8/255"
            axis.set(
                title=f"{recognizer}: {title}",
                xlabel="different pairs accepted (FMR), %, logarithmic",
                ylabel="same pairs accepted (TAR), %",
                xlim=(min(lowest, 50), 100),
                ylim=(-2, 104),
            )
            for numbers in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
                numbers("{x:g}")
    _legend(figure, axes)
    return figure


def _price(report: _Report) -> Any:
    figure, axes, recognizers = _grid(report, 2)
    order = list(dict.fromkeys(row["defence"] for row in report["rows"]))
    for row, recognizer in enumerate(recognizers):
        rows = [r for r in report["rows"] if r["recognizer"] == recognizer and r["purified"] == "both"]
        clean = {r["defence"]: r["accuracy_percent"] for r in rows if r["threat"] == "clean"}
        for axis, (goal, key) in zip(axes[row], _GOALS.items(), strict=True):
            heights = [100.0]
            for budget, filled in (("4/255", False), ("8/255", True)):
                success: dict[str, float] = {}
                for r in rows:
                    if (r["threat"], r["budget"]) == ("adaptive", budget):
                        success[r["defence"]] = max(success.get(r["defence"], 0.0), 100 - r[key])
                fixed = [name for name in success if name.startswith("first ")]
                axis.plot([success[n] for n in fixed], [clean[n] for n in fixed], ":", color=MUTED, zorder=1)
                for name, x in success.items():
                    number = order.index(name)
                    colour = _colour(number)
                    style = {"color": colour, "markerfacecolor": colour if filled else "none", "markersize": 9}
                    mark = MARKERS[number % len(MARKERS)]
                    axis.plot(x, clean[name], mark, label=name if filled else None, clip_on=False, **style)
                    heights.append(clean[name])
            axis.set(
                title=f"{recognizer}: {goal}",
                xlabel="success of the adaptive attacker, %",
                ylabel="clean accuracy, %",
                xlim=(-3, 104),
                ylim=(max(0, min(heights) - 8), 101),
            )
            axis.text(0.02, 0.06, "↖ better", transform=axis.transAxes, color=MUTED)
    _legend(figure, axes)
    return figure


def _grid(report: _Report, columns: int, height: float = 3.1) -> tuple[Any, Any, list[str]]:
    """A figure with a row of axes for each recogniser."""
    recognizers = list(dict.fromkeys(row["recognizer"] for row in report["rows"]))
    figure, axes = new_figure(9.6, 0.6 + height * len(recognizers), len(recognizers), columns)
    for axis in axes.flat:
        axis.grid()
    return figure, axes, recognizers


def _colour(number: int) -> str:
    return (*COLOURS, MUTED)[number % (len(COLOURS) + 1)]


def _legend(figure: Any, axes: Any, order: Sequence[str] = ()) -> None:
    """One legend above all axes, each name once, those of `order` first."""
    found = {name: mark for axis in axes.flat for mark, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    names = [name for name in dict.fromkeys([*order, *found]) if name in found]
    if names:
        figure.legend([found[name] for name in names], names, loc="outside upper left", ncols=4)


def contact_sheet(
    clean: NDArray[np.uint8], attacked: NDArray[np.uint8], purified: Mapping[str, NDArray[np.uint8]], file: Path
) -> None:
    """A row for each face: clean, attacked, ten times the noise, and what each defence makes of the attacked one.

    Faces of real people: for looking at, not for publishing.
    """
    noise = np.clip(128 + 10.0 * (attacked.astype(np.float32) - clean), 0, 255).astype(np.uint8)
    columns: Sequence[NDArray[np.uint8]] = [clean, attacked, noise, *purified.values()]
    titles = ["clean", "attacked", "noise x 10", *purified]
    sheet = np.vstack([np.hstack([column[row] for column in columns]) for row in range(len(clean))])
    sheet = cv2.copyMakeBorder(sheet, 18, 0, 0, 0, cv2.BORDER_CONSTANT, value=255)
    for number, title in enumerate(titles):
        cv2.putText(sheet, title, (number * 112 + 3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 0, 1, cv2.LINE_AA)
    with written_whole(file) as partial:
        partial.write_bytes(cv2.imencode(".png", sheet)[1].tobytes())
