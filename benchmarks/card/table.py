"""The report of a card as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["markdown"]


def markdown(report: Mapping[str, Any]) -> str:
    """Tables of what was checked and measured; every figure comes from the report."""
    card, failed = report["card"], [row for row in report["checks"] if row["failures"]]
    lines = ["# On a card", "", _summary(report, card), "", "## Checks", ""]
    worst = max((row["relative_error"] for row in report["checks"]), default=0.0)
    differing = max((row["differing_pixels_percent"] for row in report["checks"]), default=0.0)
    equal = all(row["bit_equal_runs"] for row in report["checks"])
    lines.append(
        f"{len(report['checks'])} cases against a float64 reference, outputs poisoned before each: {len(failed)} "
        f"failed; largest relative error {worst:.1e}; {differing:.3f} % of pixels differ at most, by one grey level; "
        f"equal runs are {'' if equal else 'not '}bit-equal."
    )
    lines += [f"- {row['form']} {row['basis']} batch {row['batch']} {row['mode']}: {'; '.join(row['failures'])}"
              for row in failed]  # fmt: skip
    if report.get("sanitizer"):
        lines.append(f"compute-sanitizer: {report['sanitizer']['said']}.")
    if report["kernels"]:
        lines += ["", "## Mutation and projection", "", _kernels_reading(report), ""]
        lines += _table(
            ["kernel", "basis", "form", "batch", "cache", "us (p50)", "us (p95)", "MB", "of copy bandwidth"],
            [
                [
                    row["kernel"], row["basis"], row["form"], str(row["batch"]), row["cache"], f"{row['p50_us']:.2f}",
                    f"{row['p95_us']:.2f}", f"{row['bytes'] / 1e6:.2f}", f"{100 * row['fraction_of_copy']:.0f} %",
                ]
                for row in report["kernels"]
            ],
        )  # fmt: skip
    if report["forms"]:
        lines += ["", "## The same in PyTorch", ""]
        lines += _table(
            ["form", "basis", "batch", "us (p50)", "times the kernels (cold)"],
            [
                [row["form"], row["basis"], str(row["batch"]), f"{row['p50_us']:.1f}", _against(row, report["kernels"])]
                for row in report["forms"]
            ],
        )
    if report["purifications"]:
        lines += ["", "## Whole purifications", "", "Networks by PyTorch in float32; no TensorRT is involved.", ""]
        lines += _table(
            ["bundle", "batch", "form", "us (p50)", "us a face", "mean difference from the CPU, grey levels"],
            [
                [
                    row["bundle"], str(row["batch"]), row["form"], f"{row['p50_us']:.1f}",
                    f"{row['p50_us'] / row['batch']:.1f}", str(row.get("mean_difference_grey", "")),
                ]
                for row in report["purifications"]
            ],
        )  # fmt: skip
    if report["left_out"]:
        lines += ["", "## Left out", "", *(f"- {reason}" for reason in report["left_out"])]
    return "\n".join([*lines, ""])


def _summary(report: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    copied = report.get("copy_gigabytes_per_second")
    return (
        f"{card['name']}, compute capability {card['compute_capability']}, {card['multiprocessors']} multiprocessors, "
        f"{card['shared_memory_bytes'] // 1024} KiB of shared memory a block, "
        f"{card['l2_cache_bytes'] // 2**20} MiB of L2 cache"
        + (f"; copies {copied:g} GB/s, read and written counted" if copied else "")
        + f". Kernels by {report['built']['used']}."
    )


def _kernels_reading(report: Mapping[str, Any]) -> str:
    return (
        f"K = {report['kernels'][0]['k']}, half of the rows active. Many launches in one graph between two events, the "
        "median of its replays. Cold: inputs are rotated through three times the L2 cache. Bytes: each row that is "
        "active in some face once, faces in, pixels and floats out, antibodies."
    )


def _against(row: Mapping[str, Any], kernels: Sequence[Mapping[str, Any]]) -> str:
    """How many times the fastest form of the kernels it takes, at the same batch and basis."""
    same = [
        one["p50_us"]
        for one in kernels
        if one["kernel"] == "mutate + project"
        and (one["batch"], one["basis"], one["cache"]) == (row["batch"], row["basis"], "cold")
    ]
    return f"{row['p50_us'] / min(same):.1f}" if same else ""


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(line) + " |" for line in lines),
    ]
