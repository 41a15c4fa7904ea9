"""How small an analyzer and restorer may be: milliseconds against what they still stop.

``python -m immunecam.benchmarks.pareto BUNDLE... --data FOLDER --recognizer R... --json pareto.json``
measures bundles that were trained alike: all by `ShortEvaluation`, and one face after another by their purifiers in
turn, in one process with one thread.

``python -m immunecam.benchmarks.pareto --page docs/pareto.md`` draws the committed figures anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from immunecam.benchmarks.evaluation.metrics import decisions, interval
from immunecam.benchmarks.evaluation.page import markdown_table
from immunecam.benchmarks.in_turn import in_turn
from immunecam.benchmarks.robustness import trained_with
from immunecam.benchmarks.short_evaluation import ShortEvaluation
from immunecam.files import written_whole
from immunecam.reports.plot import Plot
from immunecam.reports.style import COLOURS, INK, MARKERS, PAPER, house_style, new_figure
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.report import machine_in_words, read_report, write_report

__all__ = ["main", "page", "pareto_plot"]

_SCHEMA = "immunecam.pareto/1"
_RESULTS = Path(__file__).parent / "results" / "pareto.json"
_Report = Mapping[str, Any]


def _row(bundle: Bundle, evaluation: ShortEvaluation, milliseconds: Mapping[str, float]) -> dict[str, Any]:
    """A bundle's sizes, time, and accuracy by recogniser: clean, and the mean over all grey-box cases."""
    manifest = bundle.manifest
    same = evaluation.pairs.same
    cases: dict[str, dict[str, list[Any]]] = {}
    for judged in evaluation.judged(bundle, adaptive=False):
        right = [100 * part for part in decisions(judged.both, same, judged.victim.best)]
        kind = "clean" if judged.case == "clean" else "attacked"
        cases.setdefault(judged.victim.name, {}).setdefault(kind, []).append(right)
    accuracy: dict[str, dict[str, list[float]]] = {}
    for victim, found in cases.items():
        for kind, several in found.items():
            # A pair's share over all attacks, so that the interval is over pairs, which attacks have in common.
            parts = [np.mean(part, 0) for part in zip(*several, strict=True)]
            bounds = interval(*(part / 100 for part in parts))
            mean = float(np.mean([part.mean() for part in parts]))
            accuracy.setdefault(victim, {})[kind] = [mean, *(100 * bound for bound in bounds)]
    restorer = manifest.options.get("restorer") or {}
    return {
        "bundle": bundle.name,
        "networks": manifest.precision["analyzer"],
        "analyzer_width": manifest.options.get("width"),
        "analyzer_input": manifest.options.get("input_size", 112),
        "k": bundle.k,
        "restorer_widths": list(restorer.get("widths", [])),
        "restorer_depths": list(restorer.get("depths", [])),
        "separable": bool(restorer.get("separable", False)),
        "megabytes": round(sum(record.bytes for record in manifest.files.values()) / 1e6, 2),
        "steps": manifest.provenance.get("steps_done"),
        "trained_with": trained_with(bundle, evaluation.victims),
        "face_p50_ms": milliseconds["wall_p50_ms"],
        "face_cpu_p50_ms": milliseconds["cpu_p50_ms"],
        "accuracy": accuracy,
    }


def pareto_plot(report: _Report) -> Plot:
    """Accuracy under attack over time a face, a line for each recogniser and precision."""
    rows = sorted(report["rows"], key=lambda row: float(row["face_cpu_p50_ms"]))
    with house_style():
        figure, ((axis,),) = new_figure(7.0, 3.8)
        for number, recognizer in enumerate(rows[0]["accuracy"]):
            seen = "" if recognizer in rows[0]["trained_with"] else " (never seen)"
            for networks, line in dict(zip(dict.fromkeys(row["networks"] for row in rows), "-:", strict=False)).items():
                for longer in (False, True):  # trained for other than the same time, so on no line with the rest
                    alike = [
                        row
                        for row in rows
                        if row["networks"] == networks and (row["bundle"] in report["shipped"]) == longer
                    ]
                    values = [row["accuracy"][recognizer]["attacked"] for row in alike]
                    axis.errorbar(
                        [row["face_cpu_p50_ms"] for row in alike],
                        [value[0] for value in values],
                        yerr=[[value[0] - value[1] for value in values], [value[2] - value[0] for value in values]],
                        color=COLOURS[number],
                        linestyle=line,
                        marker=MARKERS[number],
                        markeredgecolor=PAPER,
                        capsize=3,
                        label=None if longer else f"{recognizer}{seen}, {networks}",
                    )
        for row in rows:
            best = max(found["attacked"][2] for found in row["accuracy"].values())
            place = (row["face_cpu_p50_ms"], best)
            axis.annotate(row["bundle"], place, (0, 4), textcoords="offset points", ha="center", color=INK, rotation=60)
        axis.set_xlabel("time of the processor for one face, milliseconds (one thread)")
        axis.set_ylabel("right decisions under attack, %")
        figure.legend(loc="outside upper left", ncols=2)
    return Plot(
        "pareto",
        "What a faster network costs",
        "Each bundle at its time for one face; accuracy is the mean over grey-box attacks at 8/255 (L2: 1.5), same and "
        "different pairs weighing the same, with 95 % intervals over pairs. Further left and up is better. Lines join "
        "what was trained for as long.",
        figure,
    )


def page(report: _Report, picture: str) -> str:
    """The page of `docs/`: plot, table, and how it was measured."""
    head = ["bundle", "networks", "analyzer", "K", "restorer", "MB", "steps", "ms a face", "ms of the processor"]
    names = list(report["rows"][0]["accuracy"])
    for name in names:
        seen = "" if name in report["rows"][0]["trained_with"] else " (never seen)"
        head += [f"{name}{seen}: clean, %", "attacked, %"]
    lines = []
    for row in sorted(report["rows"], key=lambda row: float(row["face_cpu_p50_ms"])):
        shape = ", ".join(
            f"{width} x {depth}" for width, depth in zip(row["restorer_widths"], row["restorer_depths"], strict=True)
        )
        shape += " separable" * row["separable"]
        analyzer = f"{row['analyzer_width']} at {row['analyzer_input']}"
        line = [row["bundle"], row["networks"], analyzer, str(row["k"]), shape, f"{row['megabytes']:.1f}"]
        line += [
            "longer" if row["bundle"] in report["shipped"] else str(row["steps"]),
            f"{row['face_p50_ms']:.1f}",
            f"{row['face_cpu_p50_ms']:.1f}",
        ]
        for name in names:
            for kind in ("clean", "attacked"):
                mean, low, high = row["accuracy"][name][kind]
                line.append(f"{mean:.1f} ({low:.1f} to {high:.1f})")
        lines.append(line)
    plot = pareto_plot(report)
    return "\n".join(
        [
            "# Smaller networks",
            "",
            f"![{plot.title}]({picture})",
            "",
            plot.said,
            "",
            *markdown_table(head, lines),
            "",
            f"Times on {machine_in_words(report['machine'])}, one thread, all "
            "bundles in turn. The analyzer is given as width at the side of the face that it looks at, the restorer as "
            "channels x blocks of each level; int8 is after `immunecam bundle quantize`. Except for the shipped bundle "
            f"({' and '.join(f'`{name}`' for name in report['shipped'])}), which has a longer history, all were "
            "trained alike and from nothing, for as many steps as the table says: what they would be worth after as "
            "long a training, it does not say. "
            f"{report['pairs']} pairs of LFW fold 8; attacks as in `immunecam.benchmarks.short_evaluation`, none of "
            "them through the purifier.",
            "",
            "Written by `python -m immunecam.benchmarks.pareto --page` from `benchmarks/results/pareto.json`.",
            "",
        ]
    )


def _measured(given: argparse.Namespace) -> None:
    bundles = [Bundle.load(path) for path in given.bundles]
    evaluation = ShortEvaluation(given.data, given.recognizer, pairs=given.pairs, work=given.work)
    face = evaluation.pairs.left[:1]
    purifiers = {bundle.name: Purifier.load(bundle, provider="cpu", threads=1) for bundle in bundles}
    times = in_turn(
        {name: (lambda purifier=purifier: purifier.purify(face)) for name, purifier in purifiers.items()},  # type: ignore[misc]
        repeats=given.repeats,
        warm_up=10,
    )
    rows = []
    for bundle in bundles:
        row = _row(bundle, evaluation, times[bundle.name])
        row["steps"] += 0 if bundle.name in given.shipped else given.steps_before
        print(row, flush=True)
        rows.append(row)
    write_report(given.json, _SCHEMA, rows, bundle_sha256=None, pairs=len(evaluation.pairs), shipped=given.shipped)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="*")
    parser.add_argument("--data", type=Path, help="folder with lfw/")
    parser.add_argument("--recognizer", type=Path, action="append", default=[])
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--shipped", action="append", default=[], help="bundle that has a longer history, by name")
    parser.add_argument("--steps-before", type=int, default=0, help="of the runs that the others were started from")
    parser.add_argument("--work", type=Path, default=Path(".immunecam-evaluation"))
    parser.add_argument("--json", type=Path, default=_RESULTS)
    parser.add_argument("--page", type=Path, help="page to write, with pareto.png beside it")
    given = parser.parse_args(arguments)
    if given.bundles:
        if given.data is None or not given.recognizer:
            parser.error("bundles want --data and --recognizer")
        _measured(given)
    if given.page is not None:
        report = read_report(given.json, _SCHEMA, "python -m immunecam.benchmarks.pareto")
        plot = pareto_plot(report)
        plot.write(given.page.parent, ["png"])
        with written_whole(given.page) as partial:
            partial.write_text(page(report, "pareto.png"), encoding="utf-8")


if __name__ == "__main__":
    main()
