"""The report as tables: totals, stages, comparisons, and a page of Markdown. Every figure comes from the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from immunecam.benchmarks.evaluation.page import markdown_table
from immunecam.benchmarks.latency.masked_work import BUDGET_MS
from immunecam.benchmarks.latency.run import STAGES
from immunecam.runtime.report import machine_in_words

__all__ = ["Table", "comparison", "label", "live", "page", "said", "stages", "totals"]

_Row = Mapping[str, Any]

Table = tuple[list[str], list[list[str]]]
"""Head and lines."""

_FORMS = {
    "faces": "faces, as shipped",
    "stages": "faces, by stages",
    "masked": "faces, recognised masked",
    "frames": "frames",
    "followed": "frames, faces followed",
    "paper": "the paper's form",
    "reference": "reference work",
}


_NETWORKS = ("analyzer", "restorer")


def label(row: _Row) -> str:
    """What was measured."""
    return " ".join(filter(None, (row.get("bundle"), _FORMS[row["form"]])))


def totals(report: Mapping[str, Any]) -> Table:
    """Percentiles of whole calls, faces a second, memory, start, energy, and how many times faster than the paper's."""
    head = ["what", "precision", "provider", "threads", "batch", "p50 ms", "p95 ms", "p99 ms", "faces/s", "peak MiB",
            "cold start s", "J/face", "times faster than the paper's form"]  # fmt: skip
    lines = [
        [
            label(row),
            ", ".join(f"{part} {stored}" for part, stored in (row["precision"] or {}).items()),
            row["provider"],
            str(row["threads"]),
            _number(row["batch"], 0),
            *(_number(row.get(f"total_{q}_ms"), 2) for q in ("p50", "p95", "p99")),
            _number(row["faces_per_s"], 1),
            _number(row["peak_memory_mib"], 0),
            _number(row["cold_start_p50_s"], 2),
            _number(row["joules_per_face"], 3),
            _ratio(row.get("times_faster_than_paper")),
        ]
        for row in report["rows"]
    ]
    return head, lines


def stages(report: Mapping[str, Any]) -> Table:
    """Median milliseconds by stage."""
    rows = [row for row in report["rows"] if row["form"] != "reference"]
    shown = [stage for stage in STAGES if any(f"{stage}_p50_ms" in row for row in rows)]
    lines = [
        [
            label(row),
            row["provider"],
            str(row["threads"]),
            _number(row["batch"], 0),
            *(_number(row.get(f"{stage}_p50_ms"), 2) for stage in shown),
        ]
        for row in rows
    ]
    return ["p50, ms", "provider", "threads", "batch", *shown], lines


def live(report: Mapping[str, Any]) -> Table:
    """How old a camera's frames were when they were purified."""
    lines = [
        [
            row["bundle"],
            row["provider"],
            str(row["threads"]),
            f"{row['width']}x{row['height']} at {row['frames_per_s']:g}/s",
            _number(row["faces"] / max(1, row["purified"]), 1),
            *(str(row[name]) for name in ("came", "dropped", "searches")),
            *(_number(row.get(f"age_{q}_ms"), 1) for q in ("p50", "p95", "p99")),
        ]
        for row in report.get("live", ())
    ]
    head = ["bundle", "provider", "threads", "camera", "faces a frame", "frames", "dropped", "searched", "age p50 ms",
            "p95 ms", "p99 ms"]  # fmt: skip
    return head, lines


def comparison(rows: Sequence[_Row]) -> Table:
    """Verdicts, and new times over old ones with their intervals."""
    head = ["what", "provider", "threads", "batch", "verdict", "new / old", "the same in reference work"]
    lines = [
        [label(row), row["provider"], str(row["threads"]), _number(row["batch"], 0), row["verdict"],
         _ratio(row["ratio"]), _ratio(row["ratio_to_reference"])]
        for row in rows
    ]  # fmt: skip
    return head, lines


def said(report: Mapping[str, Any]) -> list[str]:
    """How it was measured, a sentence each."""
    pinned = report["pinned_to_cores"]
    launches, rounds = report["launches"], report["rounds"]
    where = "not pinned" if pinned is None else f"pinned to the cores {', '.join(map(str, pinned))}"
    return [
        f"{machine_in_words(report['machine'])}, {where}.",
        f"{launches} launch{'es' * (launches > 1)} of each process; in each, after {report['warm_up_s']:g} s "
        f"of warm-up that are not counted, {rounds} block{'s' * (rounds > 1)} of {report['block_s']:g} s (3 calls at "
        "least), all processes in turn. "
        "A percentile that too few calls lie beyond is left out.",
        f"Cold start: {report['cold_start']}; the median of the launches. Peak memory: resident memory of the process, "
        f"not a card's. Energy: {report['energy']}.",
        _paper(report),
        "Live: the clip as a camera, again and again, the newest frame purified; an age runs from the end of decoding "
        "until the frame is purified.",
        *_masked(report),
        *([_INT8_BY_STAGES] if _has_int8_networks(report) else []),
        f"The base package and what it depends on take {report['installed_total_mib']:.0f} MiB on the disk.",
    ]


def _paper(report: Mapping[str, Any]) -> str:
    said = f"The paper's form: {report['paper']}"
    if not any(row["form"] == "paper" for row in report["rows"]):
        return f"{said}."
    intervals = f"{100 * report['confidence']:g} % intervals over launches"
    return f"{said}; its projection draws the bits, too. Ratios with {intervals}."


_INT8_BY_STAGES = (
    "By stages, networks in int8 are the files that a card takes, with int8 activations, which ONNX Runtime computes "
    "slowly on x86; what a CPU runs as shipped has uint8 ones."
)


def _masked(report: Mapping[str, Any]) -> list[str]:
    """Whether masked faces keep their budget, which is for two cores; a sentence for each row."""
    return [
        f"{row['bundle']}: masking and recognising takes {row['mask_and_recognise_ms_per_face']:.2f} ms a face "
        f"(threads {row['threads']}, batch {row['batch']}, {row['provider']}); the goal is less than {BUDGET_MS:g} ms "
        "on two cores."
        for row in report["rows"]
        if "mask_and_recognise_ms_per_face" in row
    ]


def _has_int8_networks(report: Mapping[str, Any]) -> bool:
    return any((row["precision"] or {}).get(network) == "int8" for row in report["rows"] for network in _NETWORKS)


def page(report: Mapping[str, Any]) -> str:
    """All of it as Markdown."""
    parts = ["# Latency", "", *said(report)]
    tables = [("Whole calls", totals(report)), ("Stages", stages(report)), ("Live", live(report))]
    for title, (head, lines) in tables:
        if not lines:
            continue
        parts += ["", f"## {title}", "", *markdown_table(head, lines)]
    return "\n".join([*parts, ""])


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _ratio(values: Sequence[float] | None) -> str:
    if values is None:
        return ""
    if len(values) == 1:
        return f"{values[0]:.2f} (no interval: too few launches)"
    return "{:.2f} ({:.2f} to {:.2f})".format(*values)
