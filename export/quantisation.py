"""Static quantisation of a graph by ONNX Runtime: Conv, Gemm and MatMul between QuantizeLinear and DequantizeLinear.

Everything is symmetric int8 with a zero point of 0, the weights with a scale for every output, and biases stay float32:
that is what TensorRT takes.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Feeds", "checked_model", "is_quantised", "layers_of", "quantised"]

Feeds = Mapping[str, NDArray[np.float32]]
"""A graph's inputs by name."""

# What int8 pays for. The rest stays in single precision.
_QUANTISED = ["Conv", "Gemm", "MatMul"]

# What is computed within the operator before it: its output is quantised in the other's place.
_WITHIN = "Relu"


def layers_of(graph: bytes) -> tuple[str, ...]:
    """Names of the operators that :func:`quantised` quantises, in the file's order.

    Those of constants are none, nor are filters from one channel to one, which int8 makes slower.
    """
    import onnx

    model = onnx.load_from_string(graph)
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return tuple(
        node.name
        for node in model.graph.node
        if node.op_type in _QUANTISED
        and not constants.keys() >= set(node.input)
        and not (node.op_type == "Conv" and constants.get(node.input[1], ())[:2] == (1, 1))
    )


def is_quantised(graph: bytes) -> bool:
    """Whether it computes in int8 already; told by the operator's name, so that onnx is not needed."""
    return b"QuantizeLinear" in graph


def quantised(
    graph: bytes, calibration: Feeds, *, layers: Collection[str] | None = None, outputs: bool = False
) -> bytes:
    """The graph with int8 between explicit QuantizeLinear and DequantizeLinear.

    Parameters
    ----------
    graph : bytes
        Float32, with a name for every node and no cast of a weight.
    calibration : Mapping of ndarray
        Its inputs (N, ...) of real faces; ranges are those of their smallest and largest values.
    layers : collection of str, optional
        Names of the operators to quantise; None means all of :func:`layers_of`.
    outputs : bool
        Quantise what comes out of an operator, or of the ReLU after it, too. ONNX Runtime has integer kernels for such
        a Conv only; TensorRT does better without.

    Returns
    -------
    bytes
        An ONNX model, passed by onnx's full checker.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    chosen = set(layers_of(graph) if layers is None else layers)
    if not chosen:
        return graph
    after = _activations_after(graph, chosen) if outputs else {}
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        source, target = Path(scratch) / "fp32.onnx", Path(scratch) / "int8.onnx"
        source.write_bytes(graph)
        quantize_static(
            str(source),
            str(target),
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_QUANTISED, _WITHIN] if after else _QUANTISED,
            nodes_to_quantize=sorted(chosen | after.keys()),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": [] if outputs else _QUANTISED,
            },
        )
        model = onnx.load(str(target))
        _join(model.graph, after)
        return checked_model(model)


def _activations_after(graph: bytes, chosen: Collection[str]) -> dict[str, str]:
    """Names of ReLUs, and of what the chosen operators give to them and to nothing else."""
    import onnx

    model = onnx.load_from_string(graph)
    given = {node.output[0] for node in model.graph.node if node.name in chosen}
    uses = Counter(name for node in model.graph.node for name in node.input)
    return {
        node.name: node.input[0]
        for node in model.graph.node
        if node.op_type == _WITHIN and node.input[0] in given and uses[node.input[0]] == 1
    }


def _join(graph: Any, after: Mapping[str, str]) -> None:
    """Take out the quantisation between an operator and its ReLU."""
    pairs = {node.output[0]: node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for node in graph.node:
        if node.name in after:
            dequantise = pairs[node.input[0]]
            quantise = pairs[dequantise.input[0]]
            node.input[0] = after[node.name]
            graph.node.remove(dequantise)
            graph.node.remove(quantise)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantisation logs hints on the root logger, which have been followed."""
    root = logging.getLogger()

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


class _Reader:
    """Faces one by one, as the calibration wants them."""

    def __init__(self, feeds: Feeds) -> None:
        count = len(next(iter(feeds.values())))
        self._each = iter([{name: array[n : n + 1] for name, array in feeds.items()} for n in range(count)])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._each, None)


def checked_model(model: Any) -> bytes:
    """Without the names of domains that no node is of, and passed by onnx's full checker."""
    import onnx

    used: Sequence[str] = [node.domain or "ai.onnx" for node in model.graph.node]
    kept = [opset for opset in model.opset_import if (opset.domain or "ai.onnx") in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
