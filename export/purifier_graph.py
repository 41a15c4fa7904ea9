"""The whole purifier as one ONNX graph, for one session on a CPU; it holds no weight of its own.

Randomness stays outside: the uniforms are an input. The networks' weights are referred to where they lie inside
`analyzer.onnx` and `restorer.onnx`, mean, basis and scale where they lie inside `subspace.safetensors`, as ONNX
external data (file, offset, length), so a bundle stores nothing twice. Networks that compute in int8 do so with uint8
activations here, which stand for the same numbers, and PReLU is written as convolutions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from immunecam.export.active_rows import projection_nodes
from immunecam.export.integer_projection import integer_constants, integer_product
from immunecam.export.integer_shuffles import integer_shuffles
from immunecam.export.quick_slopes import quick_slopes
from immunecam.export.torch_graph import OPSET
from immunecam.export.unsigned_activations import unsigned_activations
from immunecam.export.whole_channels import whole_channels
from immunecam.kernels import Subspace
from immunecam.runtime.subspace_file import tensor_spans

__all__ = ["purifier_graph"]

_SIDE = 112
# Values below this many bytes are written out; a reference would be longer.
_SMALL = 64


def purifier_graph(analyzer: bytes, subspace: Subspace, subspace_file: bytes, restorer: bytes | None = None) -> bytes:
    """Compose analyzer, mutation, projection and restoration.

    Parameters
    ----------
    analyzer : bytes
        Content of `analyzer.onnx`, as `analyzer_graph` writes it.
    subspace : Subspace
        Mean, basis and scale.
    subspace_file : bytes
        Content of `subspace.safetensors`, which holds them.
    restorer : bytes, optional
        Content of `restorer.onnx`, as `restorer_graph` writes it. It gets the projected face rounded to 8 bits, as a
        kernel hands it over.

    Returns
    -------
    bytes
        An ONNX model: `faces` (N, 112, 112) float32, `uniforms` (N, K) float32 in [0, 1) and `expected` () bool to
        `purified` (N, 112, 112) uint8 and `probabilities` (N, K) float32. The antibody is ``uniforms < p``, or p itself
        where `expected` holds; ``p > 1/2`` is had from uniforms of 1/2.
    """
    import onnx
    from onnx import TensorProto, compose, helper, numpy_helper, shape_inference

    model = onnx.load_from_string(analyzer)
    base = model.graph
    types = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8}

    def constant(name: str, value: Any) -> Any:
        return numpy_helper.from_array(np.asarray(value), "purifier." + name)

    initializers = _referring(base.initializer, analyzer, "analyzer.onnx")
    spans = tensor_spans(subspace_file)
    arrays = {"mean": subspace.mean, "basis": subspace.basis}
    if subspace.scale is not None:
        arrays["scale"] = subspace.scale
    for name, array in arrays.items():
        kind = types[array.dtype.name]
        initializers.append(_reference("subspace." + name, kind, array.shape, "subspace.safetensors", *spans[name]))
    initializers += [
        constant("flat", np.array([-1, _SIDE * _SIDE], np.int64)),
        constant("square", np.array([-1, _SIDE, _SIDE], np.int64)),
        constant("one", np.float32(1)),
        constant("half_range", np.float32(127.5)),
        constant("black", np.float32(0)),
        constant("white", np.float32(255)),
    ]
    nodes = list(base.node)
    shapes: dict[str, list[int]] = {}

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = output if output in ("purified",) else "purifier." + output
        nodes.append(helper.make_node(kind, inputs, [name], name="purifier/" + output, **attributes))
        return name

    rows = "subspace.basis"
    if subspace.basis.dtype == np.float16:  # folded when ONNX Runtime loads the graph
        rows = node("Cast", [rows], "rows", to=TensorProto.FLOAT)
    bits = node("Cast", [node("Less", ["uniforms", "probabilities"], "bits")], "drawn", to=TensorProto.FLOAT)
    # The scales of an int8 basis go to the antibody: q_k s_k appears twice.
    antibody = weights = node("Where", ["expected", "probabilities", bits], "antibody")
    if subspace.scale is not None:
        square = node("Mul", ["subspace.scale", "subspace.scale"], "scale_squared")
        weights = node("Mul", [weights, square], "weights")
    pixels = node("Reshape", ["faces", "purifier.flat"], "pixels")
    centred = node("Sub", [pixels, "subspace.mean"], "centred")
    integers = None
    if subspace.basis.dtype == np.int8:
        columns = node("Transpose", [rows], "columns", perm=[1, 0])  # folded, too
        integers = integer_product(pixels=pixels, weights=weights, rows=rows, columns=columns, output="dense.spanned")
        numbers = integer_constants(subspace.mean, subspace.basis)
        initializers += [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()]
    products, constants = projection_nodes(
        subspace.k,
        subspace.d,
        antibody=antibody,
        weights=weights,
        centred=centred,
        rows=rows,
        output="purifier.spanned",
        integers=integers,
    )
    nodes += products
    initializers += constants
    face = node("Add", ["purifier.spanned", "subspace.mean"], "face")
    scaled = node("Mul", [node("Add", [face, "purifier.one"], "shifted"), "purifier.half_range"], "scaled")
    rounded = node("Round", [node("Clip", [scaled, "purifier.black", "purifier.white"], "clipped")], "rounded")
    if restorer is not None:
        projected = node("Reshape", [rounded, "purifier.square"], "projected_pixels")
        projected = node("Sub", [node("Div", [projected, "purifier.half_range"], "ratio"), "purifier.one"], "projected")
        part = shape_inference.infer_shapes(compose.add_prefix(onnx.load_from_string(restorer), "restorer.")).graph
        shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in part.value_info}
        initializers += _referring(part.initializer, restorer, "restorer.onnx")
        renamed = {"restorer.faces": "faces", "restorer.projected": projected}
        for copied in part.node:
            copied.input[:] = [renamed.get(name, name) for name in copied.input]
            nodes.append(copied)
        shifted = node("Add", ["restorer.restored", "purifier.one"], "restored_shifted")
        scaled = node("Mul", [shifted, "purifier.half_range"], "restored_scaled")
        clipped = node("Clip", [scaled, "purifier.black", "purifier.white"], "restored_clipped")
        rounded = node("Round", [clipped], "restored_rounded")
    grey = node("Cast", [rounded], "grey", to=TensorProto.UINT8)
    node("Reshape", [grey, "purifier.square"], "purified")

    nodes, initializers = quick_slopes(nodes, unsigned_activations(nodes, initializers))
    nodes, initializers = integer_shuffles(nodes, initializers, shapes)
    nodes, initializers = whole_channels(nodes, initializers)
    graph = helper.make_graph(
        nodes,
        "purifier",
        [
            helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["N", _SIDE, _SIDE]),
            helper.make_tensor_value_info("uniforms", TensorProto.FLOAT, ["N", subspace.k]),
            helper.make_tensor_value_info("expected", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("purified", TensorProto.UINT8, ["N", _SIDE, _SIDE]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", subspace.k]),
        ],
        initializers,
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=model.ir_version)
    return bytes(whole.SerializeToString(deterministic=True))


def _referring(tensors: Any, content: bytes, location: str) -> list[Any]:
    """Initializers whose bytes stay in the file `location` of that content; small ones are kept as they are."""
    return [
        tensor
        if len(tensor.raw_data) < _SMALL
        else _reference(
            tensor.name, tensor.data_type, tensor.dims, location, content.index(tensor.raw_data), len(tensor.raw_data)
        )
        for tensor in tensors
    ]


def _reference(name: str, kind: int, dims: Any, location: str, offset: int, length: int) -> Any:
    from onnx import TensorProto

    tensor = TensorProto(name=name, data_type=kind, dims=list(dims))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
