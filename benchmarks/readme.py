"""Writes the README's figures from the committed results, so that none is typed by hand.

``python -m immunecam.benchmarks.readme [--check] [README.md]``
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from immunecam.benchmarks.evaluation.page import markdown_table, side_by_side

__all__ = ["main"]

_Report = dict[str, Any]

# Columns of the page's table that the README shows, as far as they were measured.
_COLUMNS = (
    "clean",
    "transfer MI-FGSM 8/255",
    "transfer TI-FGSM 8/255",
    "grey-box PGD 4/255",
    "grey-box PGD 8/255",
    "grey-box MI-FGSM 8/255",
    "resampled PGD 8/255",
    "L2-PGD",
    "adaptive 4/255",
    "adaptive 8/255",
)


def _robustness(report: _Report) -> str:
    shown = ["none", "Gaussian 1.5", "first 300 eigenfaces", *report["bundles"]]
    lines: list[list[str]] = []
    head: list[str] = []
    for name in report["thresholds"]:
        head, found = side_by_side(report["rows"], name, shown)
        kept = [0, *(n for n, column in enumerate(head) if column in _COLUMNS)]
        head, found = [head[n] for n in kept], [[line[n] for n in kept] for line in found]
        seen = "" if any(name in names for names in report["trained_with"].values()) else " (never seen)"
        lines += [[name + seen, *line] for line in found]
    quick = ", the quick form of the protocol" if report["protocol"]["name"] == "quick" else ""
    said = (
        f"Same pairs accepted / different pairs rejected, in %, of {report['pairs']} pairs of LFW fold "
        f"{report['protocol']['fold']}{quick}; the adaptive attacker on {report['adaptive_pairs']} of them."
    )
    return "\n".join([*markdown_table(["recogniser", *head], lines), "", said])


def _selection(report: _Report) -> str:
    ours, naive = report["rows"]
    memory = [row["peak_memory_above_inputs_mib"] for row in report["rows"]]
    return (
        f"The pixel losses of {report['clones']} clones of each of {report['batch']} faces at K = {report['k']} take "
        f"{ours['step_p50_ms']:.1f} ms among coefficients and {naive['step_p50_ms']:.0f} ms with the basis masked per "
        f"clone: {report['times_faster']:.0f} times faster. Above its inputs it needs {memory[0]:.1f} against "
        f"{memory[1]:.0f} MiB: {report['times_smaller']:.0f} times smaller. On {report['threads']} cores of "
        f"{_machine(report)}."
    )


def _sample_clip(report: _Report) -> str:
    (row,) = report["rows"]
    names = ("find", "align", "mutate", "engine", "paste")
    stages = ", ".join(f"{name} {row[f'{name}_p50_ms']:.1f}" for name in names)
    return (
        f"The sample clip ({row['frames']} frames, {row['faces']} faces) takes {row['face_p50_ms']:.1f} ms per face "
        f"(p95 {row['face_p95_ms']:.1f}) from alignment to paste-back on {_machine(report)}; median milliseconds of a "
        f"frame's stages: {stages}."
    )


def _fuzz_bundle(report: _Report) -> str:
    alone = report["stopped_by_signature_or_version_alone"]
    return (
        f"Of {report['count']} mutated bundles, folders and archives, {report['failures']} crashed or were accepted "
        f"with a change; {report['refused']} were refused, {alone} of these by their signature or version alone, and "
        "the rest held the original's bytes (a file that nobody lists, the time of a zip member)."
    )


def _int8_speed(report: _Report) -> str:
    rows = [row for row in report["rows"] if row["stage"] == "purifier"]
    said = []
    for row in rows:
        value, low, high = row["times_faster_by_cpu"]
        faces, threads = (_counted(row[name], one) for name, one in (("batch", "face"), ("threads", "thread")))
        said.append(f"{value:.2f} times ({low:.2f} to {high:.2f}) for {faces} on {threads}")
    networks = report["quantisation"]["networks"]
    counts = [f"{sum(layer['quantised'] for layer in n['layers'])} of {len(n['layers'])}" for n in networks.values()]
    worst = max(figure["before"] - figure["after"] for figure in report["quantisation"]["cost"]["figures"])
    flags = ", ".join(report["processor_flags"])
    return (
        f"With {counts[0]} layers of its analyzer and {counts[1]} of its restorer in int8 the bundled model takes less "
        f"time of the processor than as shipped: it is faster {', '.join(said)}, on {_machine(report)} with {flags}. "
        f"No figure of recognition that the export measured loses more than {worst:.2f} points."
    )


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count > 1)}"


def _machine(report: _Report) -> str:
    machine = report["machine"]
    return f"{machine['processor']} ({machine['architecture']}, {machine['cores']} cores)"


_FIGURES: dict[str, Callable[[_Report], str]] = {
    "robustness": _robustness,
    "selection": _selection,
    "sample_clip": _sample_clip,
    "fuzz_bundle": _fuzz_bundle,
    "int8_speed": _int8_speed,
}


def main(arguments: list[str] | None = None) -> int:
    """Rewrite the marked parts; with --check only say whether they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readme", type=Path, nargs="?", default=Path("README.md"))
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args(arguments)
    before = text = given.readme.read_text(encoding="utf-8")
    for name, render in _FIGURES.items():
        report = json.loads((given.readme.parent / "benchmarks" / "results" / f"{name}.json").read_text())
        mark = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)", re.DOTALL)
        place = mark.search(text)
        if place is None:
            print(f"{given.readme} has no place for {name}", file=sys.stderr)
            return 3
        text = f"{text[: place.end(1)]}{render(report)}\n{text[place.start(2) :]}"
    if given.check:
        if text != before:
            print(f"{given.readme} is not what the results say: run python -m immunecam.benchmarks.readme")
        return int(text != before)
    given.readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
