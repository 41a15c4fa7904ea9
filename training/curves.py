"""Curves of a training run as one picture."""

from __future__ import annotations

import csv
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


def plot_curves(source: Path, target: Path) -> None:
    """Draw every column of a run's CSV against the step, one colour a phase; nothing is drawn of an empty run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), constrained_layout=True)
    for axis, (column, label) in zip(axes.flat, _PANELS, strict=True):
        for phase in dict.fromkeys(row["phase"] for row in rows):
            points = [(int(row["step"]), float(row[column])) for row in rows if row["phase"] == phase]
            axis.plot(*zip(*points, strict=True), label=phase, linewidth=1)
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes.flat[0].legend()
    figure.savefig(target, dpi=110)
    plt.close(figure)
