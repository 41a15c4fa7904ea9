"""All attacks on one sheet: a row for each, from the enrolled face to the purified one."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from immunecam.benchmarks.demonstration.panel import NOISE_GAIN, Panel, noise
from immunecam.benchmarks.demonstration.trial import Trial, counted
from immunecam.files import written_whole
from immunecam.reports.style import MUTED, house_style

__all__ = ["title_of", "write_sheet"]

_LIMITS = (
    "Score: cosine with the enrolled face; accepted from the threshold on. The attacker knows the recogniser, and not "
    "the purifier:\none who computes gradients through both gets through. A few faces show how it works, not how well; "
    "that is what\nimmunecam evaluate measures."
)

_WIDTH, _ROW, _FOOT = 12.0, 3.75, 2.0  # inches

_COLUMNS = ("enrolled", "clean", "attacked", f"noise x {NOISE_GAIN}", "purified")


def title_of(trial: Trial, person: int, level: float) -> str:
    """What happens in a row."""
    name, aim = trial.names[person], trial.aims[person]
    wish = "does not want to be recognised" if trial.goal == "dodging" else f"wants to be taken for {aim}"
    return f"{trial.goal}, {trial.attack} at {level:g}/255: {name} {wish}"


def write_sheet(trials: Sequence[Trial], level: float, about: str, file: Path) -> None:
    """Write the sheet as PNG: of each trial the first person who was not shown yet.

    Parameters
    ----------
    trials : sequence of Trial
    level : float
        Budget in grey levels of 255.
    about : str
        One line: which faces, recogniser and bundle.
    file : path

    Raises
    ------
    OSError
        If it cannot be written.
    """
    from matplotlib.figure import Figure

    with house_style():
        figure = Figure(figsize=(_WIDTH, _ROW * len(trials) + _FOOT))
        parts: Any = figure.subfigures(len(trials) + 1, 1, height_ratios=[*(_ROW for _ in trials), _FOOT])
        for number, (trial, part) in enumerate(zip(trials, parts, strict=False)):
            person = number % len(trial.names)
            part.text(0.02, 0.95, title_of(trial, person, level), va="top", weight="bold", fontsize=11.5)
            borders = {"left": 0.02, "right": 0.98, "top": 0.79, "bottom": 0.04, "hspace": 0.02, "wspace": 0.12}
            axes = part.subplots(2, len(_COLUMNS), height_ratios=[2.9, 1], gridspec_kw=borders)
            panels = [Panel(axes[0][n], axes[1][n]) for n in range(len(_COLUMNS))]
            for axis, name in zip(axes[0], _COLUMNS, strict=True):
                axis.set_title(name, loc="center", weight="normal")
            face = {stage: faces[person] for stage, faces in trial.faces.items()}
            added = noise(face["clean"], face["attacked"])
            change = int(np.abs(face["attacked"].astype(int) - face["clean"]).max())
            panels[0].say(face["enrolled"], "enrolled as", trial.aims[person])
            panels[3].say(added, f"at most {change} of 255", "grey levels of a pixel")
            for column, stage in ((1, "clean"), (2, "attacked"), (4, "purified")):
                panels[column].decide(
                    face[stage],
                    trial.aims[person],
                    float(trial.cosines[stage][person]),
                    trial.threshold,
                    right=bool(trial.right(stage)[person]),
                )
        told = "\n".join([*textwrap.wrap(about, 118), *(f"{line}." for line in counted(trials))])
        parts[-1].text(0.02, 0.92, told, va="top", linespacing=1.5)
        parts[-1].text(0.02, 0.27, _LIMITS, va="top", fontsize=8.5, linespacing=1.5, color=MUTED)
        stream = io.BytesIO()
        figure.savefig(stream, dpi=110, format="png", metadata={"Software": None})
    with written_whole(file) as partial:
        partial.write_bytes(stream.getvalue())
