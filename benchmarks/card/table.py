"""The report of a card as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from immunecam.benchmarks.card.goals import goals

__all__ = ["markdown"]

_Row = Mapping[str, Any]

_MOST = 20  # checks that failed, line by line: one fault fails many


def markdown(report: Mapping[str, Any]) -> str:
    """Tables of what was checked and measured, as far as it was; every figure comes from the report."""
    parts = ["# On a card", _summary(report)]
    for title, table in (
        ("Checks", _checks(report["checks"], report["sanitizer"])),
        ("Faces in and out", _pixels(report["pixels"])),
        ("Mutation and projection", _kernels(report["kernels"])),
        ("The same in PyTorch", _forms(report["forms"], report["kernels"])),
        ("Whole purifications", _purifications(report["purifications"])),
        ("The runtime's purifier", _runtime(report["runtime"])),
        ("Frames", _frames(report["frames"], report["kernels"])),
        ("Left out", [f"- {reason}" for reason in report["left_out"]]),
        ("Goals", [f"- {goal}" for goal in goals(report)]),
    ):
        if table:
            parts += ["", f"## {title}", "", *table]
    return "\n".join([*parts, ""])


def _summary(report: Mapping[str, Any]) -> str:
    if not report["build"]:
        return "\nNothing could be built."
    built = report["build"][-1]
    card, copied = built["card"], [row for row in report["kernels"] if row["kernel"] == "copy"]
    return (
        f"\n{card['name']}, compute capability {card['compute_capability']}, {card['multiprocessors']} "
        f"multiprocessors, {card['shared_memory_bytes'] // 1024} KiB of shared memory a block, "
        f"{card['l2_cache_bytes'] // 2**20} MiB of L2 cache"
        + (f"; copies {copied[0]['gigabytes_per_second']:g} GB/s, read and written counted" if copied else "")
        + f". Kernels by {built['used']}; faces are {_faces(built)}; "
        + ", ".join(f"{name} {version}" for name, version in built["packages"].items() if version)
        + "."
    )


def _faces(built: _Row) -> str:
    count = built["real_faces"]
    return f"random, and {count} crops of a real picture" if count else "random (a real picture was not to be read)"


def _checks(checks: Sequence[_Row], sanitizer: Sequence[_Row]) -> list[str]:
    if not checks:
        return []
    failed = [row for row in checks if row["failures"]]
    whole = [row for row in checks if "error" not in row]
    lines = [f"{len(checks)} cases against a float64 reference, outputs poisoned before each: {len(failed)} failed."]
    if whole:
        equal = all(row["bit_equal_runs"] for row in whole)
        lines[0] += (
            f" Largest relative error {max(row['relative_error'] for row in whole):.1e}; at most "
            f"{max(row['differing_pixels_percent'] for row in whole):.3f} % of a case's pixels differ, by "
            f"{max(row['largest_grey_difference'] for row in whole)} grey levels at most; equal runs are "
            f"{'' if equal else 'not '}bit-equal."
        )
    lines += [
        f"- {row['form']} {row['basis']} K = {row['k']}, batch {row['batch']}, {row['mode']}: "
        + "; ".join(row["failures"])
        for row in failed[:_MOST]
    ]
    lines += [f"- and {len(failed) - _MOST} more"] * (len(failed) > _MOST)
    return lines + [f"- compute-sanitizer {row['tool']}, {row['cases']} cases: {row['said']}" for row in sanitizer]


def _pixels(rows: Sequence[_Row]) -> list[str]:
    if not rows:
        return []
    failed = [row for row in rows if row["failures"]]
    return [
        f"{len(rows)} cases, which must give the CPU's values to the last bit: {len(failed)} failed.",
        *(f"- {row['kernel']}, batch {row['batch']}: {'; '.join(row['failures'])}" for row in failed),
    ]


def _kernels(rows: Sequence[_Row]) -> list[str]:
    timed = [row for row in rows if row["kernel"] != "copy"]
    if not timed:
        return []
    lines = [
        [row["kernel"], row["basis"], row["form"], str(row["batch"]), row["cache"], str(row["rotated_megabytes"]),
         f"{row['p50_us']:.2f}", f"{row['bytes'] / 1e6:.2f}", f"{100 * row['fraction_of_copy']:.0f} %"]
        for row in timed
    ]  # fmt: skip
    head = ["kernel", "basis", "form", "batch", "cache", "MB rotated", "us (p50)", "MB", "of copy bandwidth"]
    return [
        f"K = {timed[0]['k']}, half of the rows active. Many launches in one graph between two events, the median of "
        "its replays. Cold: inputs are rotated through more memory than the L2 cache has. Bytes: each row that is "
        "active in some face once, faces in, pixels and floats out, antibodies.",
        "",
        *_table(head, lines),
    ]


def _forms(rows: Sequence[_Row], kernels: Sequence[_Row]) -> list[str]:
    if not rows:
        return []
    lines = [
        [row["form"], row["basis"], str(row["batch"]), f"{row['p50_us']:.1f}" if "p50_us" in row else row["error"],
         _against(row, kernels)]
        for row in rows
    ]  # fmt: skip
    return [
        "In a graph: as the kernels are timed, cold. The others are called from Python, and their launches count.",
        "",
        *_table(["form", "basis", "batch", "us (p50)", "times the kernels"], lines),
    ]


def _against(row: _Row, kernels: Sequence[_Row]) -> str:
    """How many times the fastest form of the kernels it takes; only of what is timed in the same way."""
    same = [
        one["p50_us"]
        for one in kernels
        if one["kernel"] == "mutate + project"
        and (one["batch"], one["basis"], one["cache"]) == (row["batch"], row["basis"], "cold")
    ]
    return f"{row['p50_us'] / min(same):.1f}" if same and "p50_us" in row and row["form"].endswith("in a graph") else ""


def _purifications(rows: Sequence[_Row]) -> list[str]:
    if not rows:
        return []
    paper = {(row["bundle"], row["batch"]): row["p50_us"] for row in rows if row["form"] == "paper, eager"}
    lines = []
    for row in rows:
        head_ = [row["bundle"], str(row["batch"]), row["networks"], row["form"]]
        if "error" in row:
            lines.append([*head_, row["error"], "", "", ""])
            continue
        against = paper.get((row["bundle"], row["batch"]))
        lines.append(
            [
                *head_,
                f"{row['p50_us']:.1f}",
                f"{row['p50_us'] / row['batch']:.1f}",
                f"{against / row['p50_us']:.1f}" if against else "",
                str(row.get("mean_difference_grey", "")),
            ]
        )
    head = ["bundle", "batch", "networks", "form", "us (p50)", "us a face", "times faster than the paper's form",
            "mean difference from the CPU, grey levels"]  # fmt: skip
    return [
        "Analysis, mutation, projection and restoration of faces that are on the card; networks by PyTorch, no "
        "TensorRT. Finding, alignment, paste-back and copies from and to the host are not in it.",
        "",
        *_table(head, lines),
    ]


def _runtime(rows: Sequence[_Row]) -> list[str]:
    if not rows:
        return []
    lines = [
        [row["provider"], row["bundle"], str(row["batch"]), row["path"], "yes" if row["graph"] else "no",
         f"{row['p50_us']:.1f}", f"{row['p95_us']:.1f}", str(row.get("mean_difference_grey", "")),
         str(row.get("largest_difference_grey", "")), "; ".join(row["failures"]) or "no"]
        for row in rows
        if "missing" not in row
    ]  # fmt: skip
    head = ["provider", "bundle", "batch", "path", "graph", "us (p50)", "us (p95)", "mean grey levels from the CPU",
            "largest", "failed"]  # fmt: skip
    said = [f"- {row['provider']}, {row['bundle']}: {row['missing']}" for row in rows if "missing" in row]
    explained = "By the host's clock, from the call to its results; waiting is in it."
    return [*([explained, "", *_table(head, lines)] if lines else []), *([""] if lines and said else []), *said]


def _frames(rows: Sequence[_Row], kernels: Sequence[_Row]) -> list[str]:
    copied = [1e9 * row["gigabytes_per_second"] for row in kernels if row["kernel"] == "copy"]

    def fraction(row: _Row) -> str:
        return f"{100 * row['bytes'] / (1e-6 * row['p50_us']) / copied[0]:.1f} %" if copied else ""

    lines = [
        [row["kernel"], str(row["batch"]),
         *([f"{row['p50_us']:.2f}", f"{row['bytes'] / 1e6:.2f}", fraction(row)] if "p50_us" in row else [""] * 3),
         f"{row['mean_difference_grey']:.2f}", f"{row['p99_difference_grey']:.1f}", "; ".join(row["failures"]) or "no"]
        for row in rows
    ]  # fmt: skip
    head = ["kernel", "faces", "us (p50)", "MB", "of copy bandwidth", "mean difference from OpenCV", "in 99 % at most",
            "failed"]  # fmt: skip
    return _table(head, lines) if lines else []


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(line) + " |" for line in lines),
    ]
