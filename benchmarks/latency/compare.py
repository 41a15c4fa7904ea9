"""Two reports of ``immunecam bench``: faster, slower, or no difference shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from immunecam.benchmarks.latency.ratio import LEAST_LAUNCHES, Ratio, unpaired_ratio
from immunecam.benchmarks.latency.run import OF_A_SOURCE, OURS, SCHEMA
from immunecam.errors import InputError
from immunecam.runtime.report import read_report as report_of

__all__ = ["COMPARE_SCHEMA", "compare", "read_report"]

COMPARE_SCHEMA = "immunecam.bench-compare/1"


def read_report(path: Path) -> dict[str, Any]:
    """A report of ``immunecam bench``.

    Raises
    ------
    InputError
        If it cannot be read, or is another report.
    """
    content = report_of(path, SCHEMA, "immunecam bench")
    try:
        for row in content["rows"]:
            times = row["launch_medians_ms"]
            if not times or not all(isinstance(time, int | float) and 0 < time < float("inf") for time in times):
                raise ValueError
            _key(row, several=True)
            if "beside" not in row:
                raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"the report {str(path)!r} is damaged: measure again") from None
    return content


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What became of every row that both reports have.

    A row is faster or slower only if two intervals agree: that of its times, and that of its times in units of the
    reference work, which was measured beside it. The first alone would blame the code for a machine that was busy with
    something else; the second alone, for one on which that something shares the caches with one of the two.

    Parameters
    ----------
    old, new : mapping
        From :func:`read_report`. Bundles of different names are compared if each report has one only; frames only if
        they are of sources of the same name.

    Returns
    -------
    list of dict
        With "verdict" ("faster", "slower" or "no difference shown", of the new), and "ratio" and "ratio_to_reference"
        of new times to old ones: value, low, high.

    Raises
    ------
    InputError
        If the reports have nothing in common, or too few launches to know the noise between processes.
    """
    several = any(len({row["bundle"] for row in report["rows"] if row["bundle"]}) > 1 for report in (old, new))
    sides = [{_key(row, several): row for row in report["rows"] if row["form"] in OURS} for report in (old, new)]
    if old.get("source") != new.get("source"):
        sides = [{key: row for key, row in side.items() if row["form"] not in OF_A_SOURCE} for side in sides]
    references = [
        {(row["threads"], row["beside"]): row for row in report["rows"] if row["form"] == "reference"}
        for report in (old, new)
    ]
    common = [key for key in sides[0] if key in sides[1]]
    if not common:
        raise InputError("the two reports have no row in common: measure the same provider, threads and batch in both")
    found = []
    for key in common:
        rows = [side[key] for side in sides]
        times = [row["launch_medians_ms"] for row in rows]
        least = min(map(len, times))
        if least < LEAST_LAUNCHES:
            raise InputError(
                f"a report has {least} launch{'es' * (least > 1)}, but {LEAST_LAUNCHES} or more are needed to know the "
                "noise between processes: measure again with --launches 5"
            )
        plain = unpaired_ratio(times[1], times[0])
        scaled = unpaired_ratio(*(_in_reference_units(rows[n], references[n]) for n in (1, 0)))
        assert plain is not None
        assert scaled is not None
        row = rows[1]
        found.append(
            {
                **{name: row[name] for name in ("form", "bundle", "provider", "threads", "batch")},
                "verdict": _verdict(plain, scaled),
                "ratio": plain.to_list(),
                "ratio_to_reference": scaled.to_list(),
            }
        )
    return found


def _key(row: Mapping[str, Any], several: bool) -> tuple[Any, ...]:
    return row["form"], row["provider"], row["threads"], row["batch"], row["bundle"] if several else None


def _in_reference_units(row: Mapping[str, Any], references: Mapping[Any, Mapping[str, Any]]) -> Sequence[float]:
    """Launch by launch, for the two were measured in turn."""
    reference = references.get((row["threads"], row["bundle"]))
    if reference is None or len(reference["launch_medians_ms"]) != len(row["launch_medians_ms"]):
        raise InputError("a report lacks the reference work that belongs to its rows: measure again")
    return [a / b for a, b in zip(row["launch_medians_ms"], reference["launch_medians_ms"], strict=True)]


def _verdict(*ratios: Ratio) -> str:
    if all(ratio.high < 1 for ratio in ratios):
        return "faster"
    if all(ratio.low > 1 for ratio in ratios):
        return "slower"
    return "no difference shown"
