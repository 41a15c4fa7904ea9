"""Which layers of a network bear int8, by measurement: each is quantised alone, and the worst are left in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.export.plan_parity import run_graph
from immunecam.export.quantisation import Feeds, layers_of, quantised

__all__ = ["LayerHarm", "QuantisedNetwork", "quantised_as_far_as_borne"]


@dataclass(frozen=True)
class LayerHarm:
    """What int8 in one layer changes, everything else in float32.

    Attributes
    ----------
    layer : str
        Name of its operator in the graph.
    weight : str
        Name of its weights, which tells more.
    error : float
        Change of the network's output, in the network's own unit.
    quantised : bool
        Whether it is in the end; False is left in float32.
    """

    layer: str
    weight: str
    error: float
    quantised: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {"layer": self.layer, "weight": self.weight, "error": self.error, "quantised": self.quantised}

    def __str__(self) -> str:
        return f"{self.layer} ({self.weight})"


@dataclass(frozen=True)
class QuantisedNetwork:
    """A network in int8 as far as it bears it.

    Attributes
    ----------
    graph : bytes
        An ONNX model, see :func:`immunecam.export.quantisation.quantised`.
    layers : tuple of LayerHarm
        The most sensitive first.
    error : float
        Change of the output by all that is quantised, in the network's own unit.
    limit : float or None
        What was allowed; None is anything.
    """

    graph: bytes
    layers: tuple[LayerHarm, ...]
    error: float
    limit: float | None

    @property
    def worst(self) -> LayerHarm | None:
        """The most sensitive of the layers that are quantised; None if none is."""
        return next((layer for layer in self.layers if layer.quantised), None)


def quantised_as_far_as_borne(
    graph: bytes,
    output: str,
    *,
    calibration: Feeds,
    trial: Feeds,
    measure: Callable[[NDArray[np.float32], NDArray[np.float32]], float],
    limit: float | None,
    tell: Callable[[str], None] = lambda what: None,
) -> QuantisedNetwork:
    """Quantise each layer alone, then all but the worst ones until the output changes by no more than the limit.

    Parameters
    ----------
    graph : bytes
        Float32, see :func:`immunecam.export.quantisation.quantised`.
    output : str
        Its output's name.
    calibration, trial : Mapping of ndarray
        Its inputs (N, 112, 112): for the ranges, and others for the measurement.
    measure : callable
        Output as it was and as it is to the change, 0 or more.
    limit : float, optional
        Largest change; None quantises every layer.
    tell : callable, optional
        Called with what is being done.
    """
    wanted = run_graph(graph, output)(trial)

    def error(candidate: bytes) -> float:
        return measure(wanted, run_graph(candidate, output)(trial))

    alone: dict[str, float] = {}
    for layer in layers_of(graph):
        tell(f"{layer} alone in int8")
        alone[layer] = error(quantised(graph, calibration, layers=[layer], outputs=True))
    ranked = sorted(alone, key=lambda layer: -alone[layer])
    for kept in range(len(ranked) + 1):
        tell(f"all but {kept} layers in int8")
        candidate = quantised(graph, calibration, layers=ranked[kept:], outputs=True)
        found = error(candidate)
        if limit is None or found <= limit:  # holds at the latest where nothing is quantised
            break
    weights = _weights(graph)
    layers = tuple(
        LayerHarm(layer, weights[layer], alone[layer], number >= kept) for number, layer in enumerate(ranked)
    )
    return QuantisedNetwork(candidate, layers, found, limit)


def _weights(graph: bytes) -> dict[str, str]:
    import onnx

    model = onnx.load_from_string(graph)
    return {node.name: node.input[1] for node in model.graph.node if len(node.input) > 1}
