"""What can be said of a graph without TensorRT: operators, shapes, precisions, and the memory an engine will want."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from immunecam.errors import InputError
from immunecam.export.tensorrt_operators import ALWAYS, LATER

__all__ = ["GraphCheck", "OperatorRow", "TensorRow", "check_graph"]


@dataclass(frozen=True)
class OperatorRow:
    """A kind of operator with the types it computes in: "float16", or "int8 > float32" from input to output.

    Attributes
    ----------
    operator, types : str
    count : int
    support : str
        "yes", "later" (documented for TensorRT 10.15, perhaps not in an earlier 10), or "no".
    """

    operator: str
    types: str
    count: int
    support: str


@dataclass(frozen=True)
class TensorRow:
    """A value between operators at the largest batch: name, type, shape, and bytes (-1 where a size is not known)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    bytes: int


@dataclass(frozen=True)
class GraphCheck:
    """The report.

    Attributes
    ----------
    batch : int
        Faces that the sizes are for.
    operators : tuple of OperatorRow
    inputs, outputs, values : tuple of TensorRow
    weights_bytes : int
        Of all constants.
    activations_bytes : int
        Largest sum of values that are wanted at a time, in the file's order of operators. TensorRT fuses operators and
        needs less, and scratch memory of its tactics comes on top.
    unknown_shapes : tuple of str
        Values whose shape inference left open.
    """

    batch: int
    operators: tuple[OperatorRow, ...]
    inputs: tuple[TensorRow, ...]
    outputs: tuple[TensorRow, ...]
    values: tuple[TensorRow, ...]
    weights_bytes: int
    activations_bytes: int
    unknown_shapes: tuple[str, ...]

    @property
    def unsupported(self) -> tuple[str, ...]:
        """Operators that no table of TensorRT's parser has."""
        return tuple(sorted({row.operator for row in self.operators if row.support == "no"}))


def check_graph(graph: bytes, batch: int, name: str) -> GraphCheck:
    """Parse a graph and infer its shapes.

    Parameters
    ----------
    graph : bytes
        An ONNX model without external data.
    batch : int
        Faces of a call at most.
    name : str
        What to call the graph in an error.

    Raises
    ------
    InputError
        If onnx does not accept it.
    """
    import onnx

    try:
        model = onnx.load_from_string(graph)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        del model.graph.value_info[:]
        onnx.checker.check_model(model, full_check=True)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx has no common base of its errors
        raise InputError(f"{name} is not accepted by onnx ({str(error).strip().splitlines()[0][:200]}).") from None
    rows = {value.name: _row(value) for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    types = {row.name: row.dtype for row in rows.values()} | {n: str(a.dtype) for n, a in constants.items()}
    kinds: Counter[tuple[str, str]] = Counter()
    for node in model.graph.node:
        before, after = types.get(node.input[0], "?") if node.input else "", types.get(node.output[0], "?")
        label = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        kinds[label, after if before in ("", after) else f"{before} > {after}"] += 1
    operators = tuple(OperatorRow(op, kind, n, _support(op)) for (op, kind), n in sorted(kinds.items()))
    return GraphCheck(
        batch=batch,
        operators=operators,
        inputs=tuple(rows[value.name] for value in model.graph.input),
        outputs=tuple(rows[value.name] for value in model.graph.output),
        values=tuple(rows.values()),
        weights_bytes=sum(array.nbytes for array in constants.values()),
        activations_bytes=_peak(model.graph, rows),
        unknown_shapes=tuple(row.name for row in rows.values() if row.bytes < 0),
    )


def _support(operator: str) -> str:
    return "yes" if operator in ALWAYS else "later" if operator in LATER else "no"


def _row(value: Any) -> TensorRow:
    import onnx

    kind = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim)
    known = all(isinstance(size, int) for size in shape)
    size = int(np.prod([s for s in shape if isinstance(s, int)], dtype=np.int64)) * dtype.itemsize if known else -1
    return TensorRow(value.name, str(dtype), shape, size)


def _peak(graph: Any, rows: dict[str, TensorRow]) -> int:
    """Bytes of the values that are wanted at a time, at most; each from where it is made to where it is used last."""
    last = {name: index for index, node in enumerate(graph.node) for name in node.input}
    kept = {value.name for value in graph.output}
    live = {value.name: max(rows[value.name].bytes, 0) for value in graph.input}
    peak = sum(live.values())
    for index, node in enumerate(graph.node):
        live |= {name: max(rows[name].bytes, 0) for name in node.output if name in rows}
        peak = max(peak, sum(live.values()))
        live = {name: size for name, size in live.items() if name in kept or last.get(name, -1) > index}
    return peak
