"""A training run as a page: what was trained on what, how, and with which curves."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from immunecam.reports.html import write_html
from immunecam.training.curves import DISTILLATION_PANEL, PURIFIER_PANELS, training_plot

__all__ = ["write_run_report"]

_LAST = {
    "loss": "loss",
    "identity": "identity, 1 - cosine",
    "pixel": "squared error per pixel",
    "sparsity": "active eigenfaces",
}


def write_run_report(folder: Path) -> None:
    """Write `curves.png`, `curves.svg` and `report.html` of the run in a folder; nothing of a run without a step.

    Raises
    ------
    OSError
        If one cannot be written.
    """
    with (folder / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return
    panels = [panel for panel in (*PURIFIER_PANELS, DISTILLATION_PANEL) if panel[0] in rows[0]]
    plot = training_plot(rows, panels, "Identity is what a recogniser makes of a purified face: lower is better.")
    plot.write(folder)
    identity = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_html(folder / "report.html", _page(folder.stem, identity, rows[-1]), [plot])


def _page(name: str, identity: Mapping[str, Any], last: Mapping[str, str]) -> str:
    """Markdown of a run; every figure is of its own files."""
    config, faces = identity["config"], identity["faces"]
    known = ", ".join(one["name"] for one in identity["recognizers"]) or "no recogniser"
    # How long the run took is not said: runs that are equal leave equal pages.
    parts = [
        f"# Training of {name}",
        "",
        f"{int(last['step']):,} steps on {faces['count']:,} faces, with {known}; model `{config['kind']}`, "
        f"{config['k']} eigenfaces, seed {config['seed']}.",
        "",
        "## Where it ended",
        "",
        *_table(("mean of the last steps", "value"), ((said, last[column]) for column, said in _LAST.items())),
        "",
        "These are figures of training faces. What a model is worth is what `immunecam evaluate` says of it.",
        "",
        "## Configuration",
        "",
        *_table(("setting", "value"), ((key, _value(value)) for key, value in _settings(config))),
        "",
        "## What it was trained on",
        "",
        *_table(
            ("what", "SHA-256"),
            [
                (f"faces ({faces['count']:,})", faces["sha256"]),
                *((f"recogniser {one['name']}", one["sha256"]) for one in identity["recognizers"]),
            ],
        ),
        "",
    ]
    return "\n".join(parts)


def _settings(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested settings with its path; phases are numbered."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{before}{key}.")
        elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            for number, one in enumerate(value, 1):
                yield from _settings(one, f"{before}{key} {number}.")
        else:
            yield before + key, value


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(head: tuple[str, str], lines: Any) -> list[str]:
    cells = [head, ("---", "---"), *lines]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in cells]
