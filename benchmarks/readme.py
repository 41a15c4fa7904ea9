"""Writes the README's figures from the committed results, so that none is typed by hand.

``python -m immunecam.benchmarks.readme [--check] [README.md]``
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from immunecam.benchmarks.evaluation.page import markdown_table, side_by_side
from immunecam.runtime.report import machine_in_words

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
    "grey-box TI-FGSM 8/255",
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
    return (
        f"With {counts[0]} layers of its analyzer and {counts[1]} of its restorer in int8 the bundled model takes less "
        f"time of the processor than as shipped: it is faster {', '.join(said)}, on {_machine(report)}. "
        f"No figure of recognition that the export measured loses more than {worst:.2f} points."
    )


def _service_load(report: _Report) -> str:
    (row,) = report["rows"]
    p50, p99 = (row[f"{name}_ms"] / 1000 for name in ("p50", "p99"))
    # The first schema's only slope is that of least squares.
    line = " by least squares"
    if report["schema"] != "immunecam.service-load/1":
        line = f" (median slope; {row['rss_least_squares_slope_mib_per_minute']:+.2f} by least squares)"
    return (
        f"{row['clients']} clients that ask without a pause for {row['seconds']:.0f} s, a frame with three faces each, "
        f"on {_machine(report)}: {row['requests_per_s']:.1f} answers a second, {row['server_errors']} server errors, "
        f"{row['lost']} lost, the end by SIGTERM included. Purified frames took {p50:.2f} s (p99 {p99:.2f}), the queue "
        f"included; {row['statuses'].get('429', 0)} requests were told to come later (429). Resident memory "
        f"{row['rss_settled_mib']:.0f} MiB, {row['rss_slope_mib_per_minute']:+.2f} MiB a minute{line}."
    )


def _soak(report: _Report) -> str:
    gate, cameras = report["rows"]
    slopes = [
        f"{row['rss_slope_mb_per_100000_frames']:+.2f} MB per 100,000 frames (median slope; "
        f"{row['rss_least_squares_slope_mb_per_100000_frames']:+.2f} by least squares, for which steps are slopes)"
        for row in (gate, cameras)
    ]
    return (
        f"An hour of one camera at ten times its rate through finder, purifier, recogniser and audit trail: "
        f"{gate['frames']} frames, {gate['taken']} of them taken, {gate['decisions']} decisions; memory {slopes[0]} "
        f"({gate['rss_end_mib']:.0f} MiB at the end), median latency at the end {gate['latency_drift']:.2f} times that "
        f"after settling. {cameras['sources']} cameras at {cameras['frames_per_second_of_each']:g} frames a second "
        f"through one purifier for {cameras['seconds'] / 60:.0f} minutes: {cameras['frames']} frames, "
        f"{cameras['taken']} of them taken; memory {slopes[1]}. On {_machine(report)}."
    )


def _latency(report: _Report) -> str:
    said = []
    for name, rows in _by_bundle(report["rows"]).items():
        faces = {row["threads"]: row for row in rows if (row["form"], row["batch"]) == ("faces", 1)}
        times = []
        for threads, row in sorted(faces.items()):
            value, *bounds = row["times_faster_than_paper"]
            interval = f" ({bounds[0]:.1f} to {bounds[1]:.1f})" if bounds else ""
            times.append(
                f"{row['total_p50_ms']:.1f} ms (p95 {row['total_p95_ms']:.1f}) on {_counted(threads, 'thread')}, "
                f"{value:.1f} times{interval} faster than the published form of AIS in eager PyTorch"
            )
        face = faces[max(faces)]
        said.append(
            f"One aligned face by `{name}` on {_machine(report)}: {'; '.join(times)}. Cold start "
            f"{face['cold_start_p50_s']:.2f} s, peak memory {face['peak_memory_mib']:.0f} MiB."
        )
    for name, rows in _by_bundle(report["live"]).items():
        live = rows[-1]
        said.append(
            f"With a camera of {live['width']}x{live['height']} at {live['frames_per_s']:g} frames a second that shows "
            f"{live['faces'] / max(1, live['purified']):.0f} faces, `{name}` hands over frames that are "
            f"{live['age_p50_ms']:.0f} ms old (p95 {live['age_p95_ms']:.0f}); {live['dropped']} of {live['came']} are "
            f"dropped."
        )
    return "\n".join(said)


def _latency_one_face(report: _Report) -> str:
    said = []
    for name, rows in _by_bundle(report["rows"]).items():
        rates = [
            f"{row['faces_per_s']:.0f} frames a second on {_counted(row['threads'], 'thread')}"
            for row in sorted(rows, key=lambda row: int(row["threads"]))
            if row["form"] == "followed"
        ]
        live = next(row for row in reversed(report["live"]) if row["bundle"] == name)
        said.append(
            f"`{name}` {' and '.join(rates)}, and as a camera at {live['frames_per_s']:g} frames a second "
            f"{live['age_p50_ms']:.0f} ms old when purified (p95 {live['age_p95_ms']:.0f}), {live['dropped']} of "
            f"{live['came']} dropped"
        )
    return (
        f"A clip of {live['width']}x{live['height']} with one face, finding included, faces followed, on "
        f"{_machine(report)}: {'; '.join(said)}."
    )


def _by_bundle(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """In the report's order; rows that are of no bundle left out."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("bundle"):
            found.setdefault(row["bundle"], []).append(row)
    return found


def _shared_analysis(report: _Report) -> str:
    worst = max(report["rows"], key=lambda row: float(row["accuracy_lost_points"]))
    low, high = worst["accuracy_lost_interval"]
    gain, names = report["gain"], dict.fromkeys(row["recognizer"] for row in report["rows"])
    return (
        f"With `--share-analysis` the frames of a followed face share one analysis: {gain['shared']} of "
        f"{gain['faces']} faces of the sample clip are not analysed, and it takes "
        f"{gain['shared_cpu_p50_ms'] / gain['frames']:.1f} instead of {gain['every_cpu_p50_ms'] / gain['frames']:.1f} "
        f"ms of the processor a frame. An attack that begins just after an analysis costs at most "
        f"{worst['accuracy_lost_points']:.2f} points of accuracy ({low:.2f} to {high:.2f}; PGD and MI-FGSM at 8/255, "
        f"{worst['pairs']} pairs, {' and '.join(names)})."
    )


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count > 1)}"


def _machine(report: _Report) -> str:
    return machine_in_words(report["machine"])


_FIGURES: dict[str, Callable[[_Report], str]] = {
    "robustness": _robustness,
    "selection": _selection,
    "sample_clip": _sample_clip,
    "fuzz_bundle": _fuzz_bundle,
    "int8_speed": _int8_speed,
    "service_load": _service_load,
    "soak": _soak,
    "latency": _latency,
    "latency_ais": _latency,
    "latency_one_face": _latency_one_face,
    "shared_analysis": _shared_analysis,
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
