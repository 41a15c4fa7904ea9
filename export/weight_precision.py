"""Weights of a network as a bundle stores them: half precision, or int8 with a scale for every output.

Only the file gets smaller. A cast (and a product with the scales) stands before the operator, ONNX Runtime folds both
when it loads the graph, and the arithmetic stays float32. Arithmetic in int8 is another matter, of quantisation.
"""

from __future__ import annotations

import numpy as np

from immunecam.errors import UsageError
from immunecam.export.int8 import int8_rows

__all__ = ["WEIGHT_PRECISIONS", "with_stored_weights"]

WEIGHT_PRECISIONS = ("fp32", "fp16", "int8")
# Biases, slopes and small filters stay as they are: they weigh nothing and matter much.
_SMALLEST = 2048


def with_stored_weights(graph: bytes, precision: str) -> bytes:
    """The same graph with its large weights in another storage format.

    Parameters
    ----------
    graph : bytes
        As `graph_from_module` writes it.
    precision : str
        "fp32" changes nothing; "fp16"; "int8": ``w[o] = scale[o] * q[o]``, q in [-127, 127], o the first axis.

    Raises
    ------
    UsageError
        For another precision.
    """
    if precision not in WEIGHT_PRECISIONS:
        raise UsageError(f"weight precision {precision!r} is unknown: use one of {', '.join(WEIGHT_PRECISIONS)}")
    if precision == "fp32":
        return graph
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(graph)
    initializers, nodes = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.ndim < 2 or values.size < _SMALLEST:
            initializers.append(tensor)
            continue
        name = tensor.name
        if precision == "fp16":
            initializers.append(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
            continue
        quantised, scale = int8_rows(values)
        initializers += [
            numpy_helper.from_array(quantised, f"{name}.int8"),
            numpy_helper.from_array(scale, f"{name}.scale"),
        ]
        nodes += [
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.cast"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name]),
        ]
    del model.graph.initializer[:]
    model.graph.initializer.extend(initializers)
    whole = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(whole)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
