"""What a bundle is worth beside another one, in every figure of a report of `immunecam evaluate` that has both.

``immunecam evaluate --bundle edge.immune --bundle edge-int8.immune --mode sample --json REPORT ...`` measures;
``python -m immunecam.benchmarks.bundle_difference REPORT... --before edge --after edge-int8 --page docs/int8.md``
writes the differences of one report or several.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from immunecam.benchmarks.evaluation.page import markdown_table
from immunecam.benchmarks.robustness import load_report
from immunecam.errors import InputError
from immunecam.files import written_whole

__all__ = ["differences", "main", "page"]

_Row = Mapping[str, Any]
_CASE = ("recognizer", "threat", "attack", "budget", "source", "purified")
_TOLD = 0.5
"""Points that a quantisation may cost."""


def differences(rows: Sequence[_Row], before: str, after: str) -> list[tuple[_Row, _Row]]:
    """The rows of two defences that are of one case, in the order of the report.

    Only those with both sides of a pair purified: what a door does, and where adaptive attackers are judged, too.
    """
    found: dict[tuple[Any, ...], dict[str, _Row]] = {}
    for row in rows:
        if row["purified"] == "both" and row["defence"] in (before, after):
            found.setdefault(tuple(row[name] for name in _CASE), {})[row["defence"]] = row
    return [(of[before], of[after]) for of in found.values() if len(of) == 2]


def page(reports: Sequence[Mapping[str, Any]], before: str, after: str) -> str:
    """The differences as Markdown.

    Parameters
    ----------
    reports : sequence of mapping
        Of `immunecam evaluate`.
    before, after : str
        Names of two bundles.

    Raises
    ------
    InputError
        If a report does not have both.
    """
    parts = [
        f"# `{after}` beside `{before}`",
        "Right decisions, and same pairs accepted where one of 1,000 different pairs is (TAR), in per cent: "
        f"`{before}` -> `{after}`, the same pairs, attacks and random numbers, both sides of a pair purified. A "
        "difference has no interval of its own here; how far a figure alone is uncertain, its report says.",
    ]
    for report in reports:
        names = [_mode_of(report, name) for name in (before, after)]
        pairs = differences(report["rows"], *names)
        if not pairs:
            raise InputError(
                f"the report has no case that both {before!r} and {after!r} stand in: measure them together"
            )
        decisions = 2 * min(row["pairs"] * row["draws"] for pair in pairs for row in pair)
        quick = " (the quick form)" if report["protocol"]["name"] == "quick" else ""
        machine = report["machine"]
        parts.append(f"## {report['pairs']} pairs{quick}")
        parts.append(_summary(pairs))
        head = ["recogniser", "threat", "attack", "budget", "right, %", "points", "TAR, %", "points"]
        parts.append("\n".join(markdown_table(head, [_line(*pair) for pair in pairs])))
        parts.append(
            f"LFW fold {report['protocol']['fold']}, {report['pairs']} pairs; the figure of fewest decisions has "
            f"{decisions}. Attacks on {report['device']}, {machine['processor']}, {machine['cores']} cores."
        )
    return "\n\n".join(parts) + (
        "\n\nWritten by `python -m immunecam.benchmarks.bundle_difference` from reports of `immunecam evaluate`.\n"
    )


def _mode_of(report: Mapping[str, Any], name: str) -> str:
    """The defence of a bundle's name, with the mutation mode that it was judged in."""
    found = [bundle for bundle in report["bundles"] if bundle.rpartition(" (")[0] == name]
    if len(found) != 1:
        raise InputError(
            f"the report has {len(found)} defences of a bundle {name!r}, wanted is one: it has "
            f"{', '.join(report['bundles'])}"
        )
    return str(found[0])


def _summary(pairs: Sequence[tuple[_Row, _Row]]) -> str:
    losses = [(old["accuracy_percent"] - new["accuracy_percent"], old) for old, new in pairs]
    more = [f"{_case(row)} ({loss:.2f})" for loss, row in sorted(losses, key=lambda of: -of[0]) if loss > _TOLD]
    told = f"It loses more than {_TOLD:g} points of right decisions in {len(more)} of {len(losses)} cases"
    return f"{told}{': ' if more else ''}{', '.join(more)}."


def _case(row: _Row) -> str:
    source = f" from {row['source']}" if row["source"] else ""
    return f"{row['threat']} {row['attack']}{source} {row['budget']}" if row["threat"] != "clean" else "clean faces"


def _line(old: _Row, new: _Row) -> list[str]:
    cells = [old["recognizer"], old["threat"], old["attack"] + (f" from {old['source']}" if old["source"] else "")]
    cells.append(str(old["budget"]))
    for figure in ("accuracy_percent", "tar_at_fmr_percent"):
        cells += [f"{old[figure]:.1f} -> {new[figure]:.1f}", f"{new[figure] - old[figure]:+.1f}"]
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+", help="of immunecam evaluate")
    parser.add_argument("--before", required=True, help="name of a bundle")
    parser.add_argument("--after", required=True, help="name of another")
    parser.add_argument("--page", type=Path, required=True, help="page to write")
    given = parser.parse_args(arguments)
    reports = [load_report(path) for path in given.reports]
    with written_whole(given.page) as partial:
        partial.write_text(page(reports, given.before, given.after), encoding="utf-8")


if __name__ == "__main__":
    main()
