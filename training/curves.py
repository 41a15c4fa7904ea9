"""Curves of a training run as one picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

__all__ = ["plot_curves"]

_PANELS = (
    ("loss", "loss"),
    ("pixel", "squared error / pixel"),
    ("identity", "1 - cos"),
    ("sparsity", "eigenfaces with p > 1/2"),
    ("specificity", "Hamming distance between faces"),
    ("mutation", "mean |p - 1/2|"),
)


def plot_curves(source: Path, target: Path, panels: Sequence[tuple[str, str]] = _PANELS) -> None:
    """Draw columns of a run's CSV against the step, one colour a phase; nothing is drawn of an empty run.

    Parameters
    ----------
    source, target : path
        The CSV, with columns `step` and `phase`, and the PNG.
    panels : sequence of (str, str)
        Column and label of each.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return
    rows_of_panels = -(-len(panels) // 3)
    figure, axes = plt.subplots(
        rows_of_panels, 3, figsize=(13, 3.5 * rows_of_panels), constrained_layout=True, squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (column, label) in zip(axes.flat, panels, strict=False):
        for phase in dict.fromkeys(row["phase"] for row in rows):
            points = [(int(row["step"]), float(row[column])) for row in rows if row["phase"] == phase]
            axis.plot(*zip(*points, strict=True), label=phase, linewidth=1)
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes.flat[0].legend()
    figure.savefig(target, dpi=110)
    plt.close(figure)
