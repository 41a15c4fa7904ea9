"""A liveness network as ONNX: faces in, the probability of a live face out; in float32, or in int8 for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from immunecam.errors import InputError
from immunecam.export.card_graph import simplified_graph
from immunecam.export.layer_sensitivity import QuantisedNetwork, quantised_as_far_as_borne
from immunecam.export.plan_parity import run_graph
from immunecam.export.quantised_bundle import MOST_POINTS, Figure
from immunecam.export.torch_graph import graph_from_module
from immunecam.export.unsigned_activations import unsigned_activations
from immunecam.models.liveness import LivenessNetwork
from immunecam.models.liveness_loss import LIVE

__all__ = ["LIMIT_INT8", "LIMIT_SCORE", "LivenessGraph", "liveness_graph"]

LIMIT_SCORE = 1e-4
"""Largest difference of a score between ONNX Runtime and PyTorch, both in float32."""

LIMIT_INT8 = 0.01
"""Largest mean absolute change of a score by int8; layers stay in float32 until it holds."""

_INPUT, _OUTPUT = "faces", "scores"


@dataclass(frozen=True)
class LivenessGraph:
    """An exported network.

    Attributes
    ----------
    data : bytes
        ONNX, `faces` (N, 3, side, side) float32 RGB in [-1, 1] to `scores` (N,) float32.
    precision : str
        "fp32" or "int8".
    parity : dict
        Faces that were compared, the largest difference of a score to PyTorch in float32, and for int8 what it changes.
    """

    data: bytes
    precision: str
    parity: dict[str, Any]

    def scores(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) of faces (N, 3, side, side) in [-1, 1], by ONNX Runtime on the CPU."""
        return _scores(self.data, faces)


class _Scores(nn.Module):
    def __init__(self, network: LivenessNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, faces: Tensor) -> Tensor:
        return self.network(faces)["live"].softmax(1)[:, LIVE]


def liveness_graph(
    network: LivenessNetwork,
    *,
    precision: str,
    calibration: NDArray[np.float32],
    trial: NDArray[np.float32],
    live: NDArray[np.bool_],
    threshold: float,
    limit: float = LIMIT_INT8,
    most_points: float = MOST_POINTS,
    tell: Callable[[str], None] = lambda what: None,
) -> LivenessGraph:
    """Export a network, and compare what came out with it.

    Parameters
    ----------
    network : LivenessNetwork
        In evaluation mode, on the CPU.
    precision : str
        "fp32", or "int8": explicit QuantizeLinear and DequantizeLinear, symmetric, the weights with a scale for every
        output, layers that do not bear it left in float32.
    calibration : ndarray
        (M, 3, side, side) float32 in [-1, 1]; ranges are taken from them.
    trial, live : ndarray
        (N, 3, side, side) other faces, and whether each is live.
    threshold : float
        Score from which a face passes.
    limit : float
        Largest mean change of a score by int8.
    most_points : float
        Right decisions, of live faces or of spoofs, that int8 may cost, in percentage points.
    tell : callable, optional
        Called with what is being done.

    Raises
    ------
    InputError
        If ONNX Runtime and PyTorch differ by `LIMIT_SCORE` or more, no layer bears int8, or it costs too many right
        decisions.
    """
    tell("exporting")
    shape = (3, network.side, network.side)
    graph = simplified_graph(
        graph_from_module(_Scores(network), [_INPUT], _OUTPUT, shape=shape), "the exported network"
    )
    random = np.random.default_rng(0).uniform(-1, 1, (8, *shape)).astype(np.float32)
    with torch.no_grad():
        wanted = np.concatenate([_Scores(network)(part).numpy() for part in torch.from_numpy(trial).split(32)])
        worst = float(np.abs(_Scores(network)(torch.from_numpy(random)).numpy() - _scores(graph, random)).max())
    exact = _scores(graph, trial)
    worst = max(worst, float(np.abs(exact - wanted).max()))
    if not worst < LIMIT_SCORE:
        raise InputError(f"ONNX and PyTorch differ by {worst:.2g} in a liveness score, allowed is {LIMIT_SCORE:g}")
    parity: dict[str, Any] = {"faces": len(trial) + len(random), "max_abs_score": worst}
    if precision == "fp32":
        return LivenessGraph(graph, precision, parity)
    found = quantised_as_far_as_borne(
        graph,
        _OUTPUT,
        calibration={_INPUT: calibration},
        trial={_INPUT: trial},
        measure=lambda before, after: float(np.abs(before - after).mean()),
        limit=limit,
        tell=tell,
    )
    if found.worst is None:
        raise InputError(
            f"no layer of the network bears int8 within {limit:g} of a liveness score: export it with --precision fp32"
        )
    data = _for_cpu(found.graph)
    figures = _figures(exact, _scores(data, trial), live, threshold)
    costly = max(figures, key=lambda figure: figure.cost)
    if costly.cost > most_points:
        raise InputError(
            f"int8 costs {costly.cost:.2f} points of {costly.name} ({costly.before:.2f} to {costly.after:.2f} %), "
            f"allowed are {most_points:g}: nothing was written; the most sensitive layer is {found.worst}, so export "
            "with --precision fp32, or measure on more faces"
        )
    return LivenessGraph(data, precision, parity | {"int8": _record(found, len(calibration), figures)})


def _scores(graph: bytes, faces: NDArray[np.float32]) -> NDArray[np.float32]:
    run = run_graph(graph, _OUTPUT)
    return np.concatenate([run({_INPUT: faces[start : start + 32]}) for start in range(0, len(faces), 32)])


def _for_cpu(graph: bytes) -> bytes:
    """The same numbers with the uint8 activations that ONNX Runtime has integer kernels for on x86."""
    import onnx

    model = onnx.load_from_string(graph)
    kept = unsigned_activations(model.graph.node, list(model.graph.initializer))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _figures(
    before: NDArray[np.float32], after: NDArray[np.float32], live: NDArray[np.bool_], threshold: float
) -> list[Figure]:
    """Right decisions of each class, in percent."""
    figures = []
    for name, chosen, passes in (("live faces that pass", live, True), ("spoofs that are stopped", ~live, False)):
        if chosen.any():
            right = [100 * float(((scores[chosen] >= threshold) == passes).mean()) for scores in (before, after)]
            figures.append(Figure(name, *right))
    return figures


def _record(found: QuantisedNetwork, faces: int, figures: list[Figure]) -> dict[str, Any]:
    return {
        "calibration_faces": faces,
        "mean_abs_score": found.error,
        "limit": found.limit,
        "layers": [layer.to_dict() for layer in found.layers],
        "figures": [asdict(figure) for figure in figures],
    }
