"""The attacks as a moving picture: the perturbation grows, the score falls or rises, the purified face holds or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.demonstration.panel import NOISE_GAIN, Panel, noise
from immunecam.benchmarks.demonstration.sheet import title_of
from immunecam.benchmarks.demonstration.trial import Judge, Trial
from immunecam.reports.style import MUTED, house_style
from immunecam.runtime.frames.sink import VideoSink

__all__ = ["write_clip"]

_WIDTH, _HEIGHT, _RATE = 960, 480, 12.0  # pixels, pixels, frames a second
_GROWING, _HELD = 20, 14  # frames of a scene


def write_clip(
    trials: Sequence[Trial],
    judge: Judge,
    level: float,
    file: Path,
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> None:
    """Write a scene for each row of the sheet; every frame's scores are computed, not drawn between two.

    Parameters
    ----------
    trials : sequence of Trial
    judge : Judge
        That they were tried by.
    level : float
        Budget in grey levels of 255.
    file : path
        Video of a suffix that `VideoSink` takes.
    tell : callable
        Hears of progress.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    with VideoSink(file, fps=_RATE, width=_WIDTH, height=_HEIGHT) as sink, house_style():
        for number, trial in enumerate(trials):
            tell("clip", number, len(trials))
            for frame in _scene(trial, number % len(trial.names), judge, level):
                sink.write(frame)


def _scene(trial: Trial, person: int, judge: Judge, level: float) -> Iterator[NDArray[np.uint8]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 100, _HEIGHT / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    borders = {"left": 0.03, "right": 0.97, "top": 0.8, "bottom": 0.09, "hspace": 0.02}
    axes = figure.subplots(2, 3, height_ratios=[3.9, 1], gridspec_kw=borders)
    title = title_of(trial, person, level)
    figure.text(0.03, 0.95, title, va="center", weight="bold", fontsize=12 if len(title) < 90 else 9.5)
    told = figure.text(0.03, 0.04, "", va="center", color=MUTED, fontsize=9)
    panels = [Panel(axes[0][n], axes[1][n]) for n in range(3)]
    for axis, name in zip(axes[0], ("without purification", f"noise x {NOISE_GAIN}", "purified"), strict=True):
        axis.set_title(name, loc="center", weight="normal")
    clean, attacked = (trial.faces[stage][person] for stage in ("clean", "attacked"))
    shares = np.linspace(0, 1, _GROWING)
    change = attacked.astype(np.float64) - clean
    faces = np.rint(clean + shares[:, None, None] * change).astype(np.uint8)
    purified = judge.purified(faces)
    enrolled = np.repeat(trial.faces["enrolled"][person][None], len(faces), 0)
    bare, behind = judge.cosines(faces, enrolled), judge.cosines(purified, judge.purified(enrolled[:1]))
    for n, share in enumerate(shares):
        for panel, face, cosine in ((panels[0], faces[n], bare[n]), (panels[2], purified[n], behind[n])):
            right = bool(cosine >= trial.threshold) == (trial.goal == "dodging")
            panel.decide(face, trial.aims[person], float(cosine), trial.threshold, right=right)
        strongest = int(np.abs(faces[n].astype(int) - clean).max())
        panels[1].say(noise(clean, faces[n]), f"at most {strongest} of 255", "grey levels of a pixel")
        told.set_text(f"{100 * share:.0f} % of the perturbation")
        image = _drawn(canvas)
        for _ in range(_HELD if n == len(shares) - 1 else 1):
            yield image


def _drawn(canvas: Any) -> NDArray[np.uint8]:
    """The canvas as (H, W, 3) BGR."""
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., 2::-1])
