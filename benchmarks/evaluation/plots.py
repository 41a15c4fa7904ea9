"""Curves of a report, and the contact sheet of faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.files import written_whole

__all__ = ["contact_sheet", "plot_budgets", "plot_price", "plot_roc"]


def plot_budgets(report: Mapping[str, Any], file: Path) -> None:
    """Success of grey-box PGD-40 and of the adaptive attacker against the budget, by goal; undefended beside it."""
    figure, axes, recognizers = _grid(report, 2)
    for row, recognizer in enumerate(recognizers):
        for column, (goal, key) in enumerate(
            (("dodging", "same_accepted_percent"), ("impersonation", "different_rejected_percent"))
        ):
            axis = axes[row][column]
            for defence in ["none", *report["bundles"]]:
                for threat, attack, style in (("grey-box", "PGD-40", "--"), ("adaptive", "strongest", "-")):
                    points = sorted(
                        (float(r["budget"].split("/")[0]), 100 - r[key])
                        for r in report["rows"]
                        if (r["recognizer"], r["defence"], r["threat"], r["purified"])
                        == (recognizer, defence, threat, "both")
                        and r["attack"].startswith(attack)
                        and r["budget"].endswith("/255")
                    )
                    if points:
                        axis.plot(*zip(*points, strict=True), style, marker="o", label=f"{defence}, {threat}")
            axis.set(
                title=f"{recognizer}: {goal}", xlabel="budget, grey levels of 255", ylabel="success, %", ylim=(-3, 103)
            )
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    _save(figure, file)


def plot_roc(report: Mapping[str, Any], file: Path) -> None:
    """True accepts against false matches, before and after purification, clean and attacked."""
    figure, axes, recognizers = _grid(report, 2)
    for row, recognizer in enumerate(recognizers):
        for column, threat in enumerate(("clean", "grey-box")):
            axis = axes[row][column]
            for curve in report["roc"]:
                if (curve["recognizer"], curve["threat"]) == (recognizer, threat):
                    axis.plot(curve["fmr"], curve["tar"], label=curve["defence"])
            title = "clean" if threat == "clean" else "grey-box PGD-40 at 8/255"
            axis.set(
                title=f"{recognizer}: {title}", xlabel="false match rate", ylabel="true accept rate", ylim=(-0.02, 1.02)
            )
            axis.set_xscale("symlog", linthresh=1e-3)
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    _save(figure, file)


def plot_price(report: Mapping[str, Any], file: Path) -> None:
    """What resistance to the adaptive attacker costs: clean accuracy against the attacker's success, by goal.

    Every defence is a point; the plain projections are joined, from the largest subspace to the smallest.
    """
    figure, axes, recognizers = _grid(report, 2)
    for row, recognizer in enumerate(recognizers):
        rows = [r for r in report["rows"] if r["recognizer"] == recognizer and r["purified"] == "both"]
        clean = {r["defence"]: r["accuracy_percent"] for r in rows if r["threat"] == "clean"}
        for column, (goal, key) in enumerate(
            (("dodging", "same_accepted_percent"), ("impersonation", "different_rejected_percent"))
        ):
            axis = axes[row][column]
            for budget, marker in (("4/255", "o"), ("8/255", "s")):
                success: dict[str, float] = {}
                for r in rows:
                    if (r["threat"], r["budget"]) == ("adaptive", budget):
                        success[r["defence"]] = max(success.get(r["defence"], 0.0), 100 - r[key])
                fixed = [name for name in success if name.startswith("first ")]
                axis.plot([success[n] for n in fixed], [clean[n] for n in fixed], ":", color="grey")
                for name, x in success.items():
                    label = name if budget == "8/255" else None
                    colour = f"C{list(clean).index(name) % 10}"
                    axis.plot(x, clean[name], marker, color=colour, label=label)
            axis.set(
                title=f"{recognizer}: {goal} (o 4/255, square 8/255)",
                xlabel="success of the adaptive attacker, %",
                ylabel="clean accuracy, %",
                xlim=(-3, 103),
            )
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    _save(figure, file)


def _grid(report: Mapping[str, Any], columns: int) -> tuple[Any, Any, list[str]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    recognizers = list(dict.fromkeys(row["recognizer"] for row in report["rows"]))
    figure, axes = pyplot.subplots(
        len(recognizers), columns, figsize=(6 * columns, 4 * len(recognizers)), squeeze=False, layout="constrained"
    )
    return figure, axes, recognizers


def _save(figure: Any, file: Path) -> None:
    from matplotlib import pyplot

    with written_whole(file) as partial:
        figure.savefig(partial, dpi=90, format="png")
    pyplot.close(figure)


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
