"""Whether a converted graph, or the plan compiled from it, still computes what the bundle's graph computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.export.quantisation import Feeds
from immunecam.kernels import dequantize_faces, mutate, project
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.engines import OnnxRuntimeEngine
from immunecam.runtime.engines.external_data import inline_external_data
from immunecam.runtime.engines.onnxruntime_session import add_in_32_bits
from immunecam.runtime.plan_record import LIVENESS, MASK, MASKED_RECOGNIZER

__all__ = ["LIMITS", "OUTPUTS", "PlanParity", "Reference", "run_graph"]

OUTPUTS = {
    "analyzer": "probabilities",
    "restorer": "restored",
    LIVENESS: "scores",
    MASK: "channels",
    MASKED_RECOGNIZER: "embedding",
}

# What differences are told in, and how much of that 1 is; of all others it is a probability.
_UNITS = {
    "restorer": ("grey level", 127.5),
    MASK: ("standard deviation of a channel", 1.0),
    MASKED_RECOGNIZER: ("component of a unit embedding", 1.0),
}

# Largest and mean difference allowed, by graph and precision: in a probability, and in grey levels of a restored face.
# On a CPU the bundled model's fp16 is off by 7e-4 and 8e-6 in p and by 0.9 and 0.03 grey levels, its int8 by 3e-2 and
# 1.3e-4 in p; a card rounds in another order, so it gets room.
LIMITS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "analyzer": {"fp32": (1e-3, 1e-4), "fp16": (2e-2, 5e-4), "int8": (1e-1, 3e-3)},
    # A restorer in int8 is a bundle's own: on a CPU nothing differs, on a card a rounding that goes the other way is a
    # step of int8.
    "restorer": {"fp32": (0.5, 0.05), "fp16": (4.0, 0.25), "int8": (8.0, 0.5)},
    # One number a face, from which a face passes or not.
    LIVENESS: {"fp32": (1e-3, 1e-4), "fp16": (2e-2, 5e-3), "int8": (1e-1, 2e-2)},
    # High frequencies vary little, so rounding counts for more there: in half precision six masks that were fitted to
    # photos are off by up to 0.15, and by up to 0.007 on average.
    MASK: {"fp32": (1e-3, 1e-4), "fp16": (5e-1, 2e-2), "int8": (1.0, 5e-2)},
    MASKED_RECOGNIZER: {"fp32": (1e-3, 1e-4), "fp16": (2e-2, 2e-3), "int8": (1e-1, 1e-2)},
}


@dataclass(frozen=True)
class PlanParity:
    """Differences on real faces.

    Attributes
    ----------
    faces : int
        How many were compared.
    unit : str
        "probability", "grey level", "standard deviation of a channel" or "component of a unit embedding".
    largest, mean : float
        Of the absolute difference from ONNX Runtime on the bundle's own graph, in that unit.
    """

    faces: int
    unit: str
    largest: float
    mean: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest and reports."""
        return asdict(self)


class Reference:
    """What a bundle's graphs give for real faces, by ONNX Runtime on the CPU.

    Parameters
    ----------
    bundle : Bundle
    faces : ndarray of float32, shape (N, 112, 112)
        In [-1, 1].

    Attributes
    ----------
    feeds : Mapping
        Inputs of each graph by role.
    outputs : Mapping of ndarray
        Output of each graph by role.
    """

    def __init__(self, bundle: Bundle, faces: NDArray[np.float32]) -> None:
        self._bundle = bundle
        engine = OnnxRuntimeEngine.from_bundle(bundle, provider="cpu", whole=False)
        p = engine.analyze(faces)
        self.feeds: dict[str, Feeds] = {"analyzer": {"faces": faces}}
        self.outputs: dict[str, NDArray[np.float32]] = {"analyzer": p}
        if bundle.graph("restorer") is not None:
            # The restorer is given what it is given at work: the face and its projection, rounded to pixels.
            projected = dequantize_faces(project(faces, mutate(p, mode="threshold"), bundle.subspace))
            self.feeds["restorer"] = {"faces": faces, "projected": projected}
            self.outputs["restorer"] = engine.restore(faces, projected)
        if (record := bundle.manifest.liveness) is not None:
            # The aligned grey face in place of the wide coloured one: it is the rounding that is compared.
            wide = _as_wide(faces, record.side)
            self.feeds[LIVENESS] = {"faces": wide}
            self._run(LIVENESS)
        if bundle.manifest.masking is not None:
            # The recogniser is given channels that no key has ordered, for no key is at hand: likewise.
            self.feeds[MASK] = {"faces": faces}
            self._run(MASK)
            self.feeds[MASKED_RECOGNIZER] = {"channels": self.outputs[MASK]}
            self._run(MASKED_RECOGNIZER)

    def _run(self, role: str) -> None:
        """What a part's network gives for its feed."""
        name = str(self._bundle.manifest.compiled_file(role))
        graph = inline_external_data(self._bundle.files[name], {}, name=name)
        self.outputs[role] = run_graph(graph, OUTPUTS[role])(self.feeds[role])

    def compare(self, role: str, precision: str, run: Callable[[Feeds], NDArray[np.float32]], what: str) -> PlanParity:
        """Run all faces through something else, and measure how far it is.

        Parameters
        ----------
        role, precision : str
            Which limits hold.
        run : callable
            From the graph's inputs to its output.
        what : str
            Its name in an error.

        Raises
        ------
        InputError
            If it differs by more than `LIMITS`, or gives what is no number.
        """
        found, wanted = run(self.feeds[role]), self.outputs[role]
        if role == MASKED_RECOGNIZER:  # only directions are compared at work
            found, wanted = _directions(found), _directions(wanted)
        unit, scale = _UNITS.get(role, ("probability", 1.0))
        off = np.abs(found.astype(np.float64) - wanted) * scale
        parity = PlanParity(len(wanted), unit, float(off.max()), float(off.mean()))
        largest, mean = LIMITS[role][precision]
        if not (parity.largest <= largest and parity.mean <= mean):  # so written that NaN does not pass
            raise InputError(
                f"{what} differs from the bundle's {role} by {parity.largest:.2g} and on average by {parity.mean:.2g} "
                f"in a {unit}, but in {precision} only {largest:g} and {mean:g} are allowed: nothing was stored, "
                "take a finer precision."
            )
        return parity


def _directions(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(lengths, np.float32(1e-12)), np.float32)


def _as_wide(faces: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """(N, 3, side, side) of grey faces (N, 112, 112), all colours alike."""
    import cv2

    resized = [cv2.resize(face, (side, side), interpolation=cv2.INTER_LINEAR) for face in faces]
    return np.repeat(np.stack(resized).astype(np.float32)[:, None], 3, 1)


def run_graph(graph: bytes, output: str) -> Callable[[Feeds], NDArray[np.float32]]:
    """A graph as a function of its inputs, by ONNX Runtime on the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    add_in_32_bits(options)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(feeds: Feeds) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run([output], dict(feeds))[0]
        return found

    return run
