"""Draws the pictures of docs/how-it-works.md from the installed bundle and the sample clip, whose people do not exist.

``python -m immunecam.benchmarks.method_pictures --out docs/how-it-works``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.files import written_whole
from immunecam.kernels import dequantize_faces, mutate, project_float, quantize_faces
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.runtime.engines import OnnxRuntimeEngine
from immunecam.runtime.faces import align, face_finder
from immunecam.runtime.frames import FrameSource

__all__ = ["FaceSteps", "clip_faces", "main", "steps_of"]

_SEED = 0
_SHOWN = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512)
# Told apart by people with any colour vision (Okabe and Ito, 2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73")
_NAMES = ("first face, as the camera saw it", "second face, attacked at 8/255", "third face, attacked at 8/255")


@dataclass(frozen=True, eq=False)
class FaceSteps:
    """What becomes of N faces on their way.

    Attributes
    ----------
    faces : ndarray of float32, shape (N, 112, 112)
        As they came, in [-1, 1].
    probabilities : ndarray of float32, shape (N, K)
    antibody : ndarray of bool, shape (N, K)
        Drawn with the seed 0; face n has the number n.
    projected, restored : ndarray of uint8, shape (N, 112, 112)
        The restored faces are what the purifier hands on; without a restorer they are the projected ones.
    """

    faces: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    antibody: NDArray[np.bool_]
    projected: NDArray[np.uint8]
    restored: NDArray[np.uint8]


def clip_faces() -> NDArray[np.float32]:
    """The aligned faces of the sample clip's first frame from left to right, (3, 112, 112) in [-1, 1]."""
    with FrameSource.open(Path(str(resources.files("immunecam") / "data" / "sample.mp4"))) as source:
        frame = next(iter(source)).image
    found = sorted(face_finder().find(frame), key=lambda face: float(face.box[0]))
    return align(frame, found).grey


def steps_of(faces: NDArray[np.float32], bundle: Bundle) -> FaceSteps:
    """Purify faces (N, 112, 112) step by step, on the CPU."""
    engine = OnnxRuntimeEngine.from_bundle(bundle, provider="cpu", threads=1)
    p = engine.analyze(faces)
    antibody = mutate(p, mode="sample", seed=_SEED, images=range(len(faces)))
    projected = quantize_faces(project_float(faces, antibody, bundle.subspace))
    restored = projected
    if bundle.graph("restorer") is not None:
        restored = quantize_faces(engine.restore(faces, dequantize_faces(projected)))
    return FaceSteps(faces, p, antibody.astype(bool), projected, restored)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pictures; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    folder = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    bundle = Bundle.load(default_bundle())
    steps = steps_of(clip_faces(), bundle)
    for name, figure in (
        ("eigenfaces", _eigenfaces(bundle)),
        ("antibodies", _antibodies(steps)),
        ("subspaces", _subspaces(steps, bundle)),
        ("steps", _steps(steps)),
    ):
        with written_whole(folder / f"{name}.png") as partial:
            figure.savefig(partial, dpi=100, format="png", metadata={"Software": None})
        print(folder / f"{name}.png")
    return 0


def _eigenfaces(bundle: Bundle) -> Any:
    space = bundle.subspace
    scale = 1.0 if space.scale is None else space.scale[:, None]
    basis = space.basis.astype(np.float32) * scale
    pictures = [("mean face", space.mean, 1.0)]
    # Each in a range of its own: the brightest and the darkest pixel say nothing about the strength of an eigenface.
    pictures += [(f"eigenface {k}", basis[k - 1], float(np.abs(basis[k - 1]).max())) for k in _SHOWN if k <= bundle.k]
    return _grid(
        [
            [(name, values.reshape(112, 112), span) for name, values, span in pictures[:6]],
            [(name, values.reshape(112, 112), span) for name, values, span in pictures[6:]],
        ]
    )


def _antibodies(steps: FaceSteps) -> Any:
    figure, (above, below) = _figure(2, 1, (9.6, 5.2), height_ratios=(3, 1))
    k = np.arange(1, steps.probabilities.shape[1] + 1)
    for p, colour, name in zip(steps.probabilities, _COLOURS, _NAMES, strict=True):
        above.plot(k, p, ".", markersize=3, color=colour, label=name)
    above.set(ylabel="probability $p_k$", ylim=(-0.03, 1.03), xlim=(0, k[-1] + 1))
    above.grid(alpha=0.3)
    above.legend(loc="lower left", fontsize=8, framealpha=0.9)
    below.imshow(
        steps.antibody, aspect="auto", interpolation="nearest", cmap="Greys", extent=(0.5, k[-1] + 0.5, 3.5, 0.5)
    )
    active = [f"{bits.sum()} of {bits.size}" for bits in steps.antibody]
    below.set_yticks([1, 2, 3], [f"face {n}: {text}" for n, text in enumerate(active, 1)], fontsize=8)
    below.set(xlabel="eigenface $k$, the strongest first", title="antibodies: black is 1, the eigenface stays")
    return figure


def _subspaces(steps: FaceSteps, bundle: Bundle) -> Any:
    face = steps.faces[1:2]
    row = [("as it came", face[0], 1.0)]
    for size in (8, 32, 128, 512):
        if size <= bundle.k:
            bits = np.arange(bundle.k)[None] < size
            row.append((f"first {size} eigenfaces", project_float(face, bits, bundle.subspace)[0], 1.0))
    row.append((f"its antibody: {steps.antibody[1].sum()}", dequantize_faces(steps.projected[1]), 1.0))
    return _grid([row])


def _steps(steps: FaceSteps) -> Any:
    rows = []
    for n in range(len(steps.faces)):
        came, after = steps.faces[n], dequantize_faces(steps.restored[n])
        rows.append(
            [
                (f"face {n + 1} as it came", came, 1.0),
                ("projected", dequantize_faces(steps.projected[n]), 1.0),
                ("restored", after, 1.0),
                ("what was removed, x 10", came - after, 0.1),
            ]
        )
    return _grid(rows)


def _grid(rows: list[list[tuple[str, NDArray[Any], float]]]) -> Any:
    """Faces with a title each; values from -span to span go from black to white."""
    columns = len(rows[0])
    figure, axes = _figure(len(rows), columns, (1.6 * columns, 1.85 * len(rows)))
    for axis, (name, values, span) in zip(axes.ravel(), [cell for row in rows for cell in row], strict=True):
        axis.imshow(values, cmap="gray", vmin=-span, vmax=span, interpolation="nearest")
        axis.set_title(name, fontsize=8)
        axis.set_axis_off()
    return figure


def _figure(rows: int, columns: int, size: tuple[float, float], **ratios: Any) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=ratios)
    return figure, axes.ravel() if columns == 1 else axes


if __name__ == "__main__":
    sys.exit(main())
