"""A bundle's graph as a card runs it: whole, simplified, and with the precision written into it.

A strongly typed TensorRT network computes in the types that the file gives its tensors, so fp16 and int8 are decided
here, and checked on any CPU with ONNX Runtime before a card is seen.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.export.quantisation import Feeds, checked_model, is_quantised, quantised
from immunecam.export.unsigned_activations import signed_activations
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.engines.external_data import inline_external_data
from immunecam.runtime.plan_record import PLAN_PRECISIONS, PLAN_ROLES

__all__ = [
    "card_graph",
    "card_roles",
    "compiled_roles",
    "compiled_source",
    "simplified_graph",
]

# Kept in single precision where the rest is in half: a mean of 12544 values, and probabilities.
_ALWAYS_FLOAT = ["ReduceMean", "Sigmoid", "Softmax"]


def card_roles(bundle: Bundle) -> tuple[str, ...]:
    """Graphs of the purifier that run on a card: "analyzer", and "restorer" where there is one."""
    return tuple(role for role in PLAN_ROLES if bundle.graph(role) is not None)


def compiled_roles(bundle: Bundle) -> tuple[str, ...]:
    """All that is compiled for a card: `card_roles`, and the networks of optional parts."""
    return card_roles(bundle) + tuple(role for part in bundle.manifest.parts.values() for role in part.COMPILED)


def compiled_source(bundle: Bundle, role: str) -> bytes:
    """The ONNX file of a role, as it is stored.

    Raises
    ------
    InputError
        If the bundle has none.
    """
    name = bundle.manifest.compiled_file(role)
    if name is None:
        raise InputError(f"The bundle {bundle.path} has no {role}: it has {', '.join(compiled_roles(bundle))}.")
    return bundle.files[name]


def card_graph(bundle: Bundle, role: str, precision: str, calibration: Feeds | None = None) -> bytes:
    """The graph to be compiled.

    Parameters
    ----------
    bundle : Bundle
    role : str
        Of `compiled_roles`.
    precision : str
        "fp32"; "fp16", inputs and outputs still float32; or "int8": Conv and Gemm between explicit
        QuantizeLinear and DequantizeLinear, symmetric, the weights with a scale for every output. A graph that the
        bundle has in int8 already is compiled as it is, whatever else is asked; activations that are stored as uint8
        for a CPU become the int8 that they stand for.
    calibration : Mapping of ndarray, optional
        The graph's inputs (N, 112, 112) of real faces, for "int8", which takes the ranges of its tensors from them.

    Returns
    -------
    bytes
        An ONNX model that refers to no other file, has no operator but ONNX's own, and stores its weights in the
        precision they are computed in.

    Raises
    ------
    UsageError
        For another precision, or "int8" without faces.
    InputError
        If the bundle has no such graph, or it cannot be converted.
    BackendMissingError
        If onnx is missing.
    """
    _require_onnx()
    if precision not in PLAN_PRECISIONS:
        raise UsageError(f"The precision is {precision!r}, but it must be one of {', '.join(PLAN_PRECISIONS)}.")
    data = compiled_source(bundle, role)
    name = str(bundle.path / str(bundle.manifest.compiled_file(role)))
    graph = simplified_graph(inline_external_data(data, bundle.files, name=name), name)
    if is_quantised(graph):
        return _signed(graph)
    if precision == "int8":
        if not calibration:
            raise UsageError("The precision int8 takes its ranges from real faces, but none were given.")
        return quantised(graph, calibration)
    return _half(graph) if precision == "fp16" else graph


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise BackendMissingError(
            f"Graphs are read by onnx, which is missing ({error}): install it with pip install 'immunecam[tensorrt]'."
        ) from None


def simplified_graph(graph: bytes, name: str) -> bytes:
    """With what is constant computed and what does nothing removed, by ONNX Runtime's basic optimisations.

    A weight that is stored in half precision or int8 becomes the float32 that it stands for: TensorRT's parser knows no
    cast from int8.
    """
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as scratch:
        options.optimized_model_filepath = str(Path(scratch) / "simplified.onnx")
        try:
            ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's exceptions have no common base of their own
            reason = str(error).strip().splitlines()[0][:200]
            raise InputError(f"{name} cannot be read by onnxruntime ({reason}): export the bundle again.") from None
        model = onnx.load(options.optimized_model_filepath)
    foreign = sorted({node.op_type for node in model.graph.node if node.domain not in ("", "ai.onnx")})
    if foreign:
        raise InputError(f"{name} has operators that are not ONNX's own ({', '.join(foreign)}): export it again.")
    return checked_model(model)


def _signed(graph: bytes) -> bytes:
    import onnx

    model = onnx.load_from_string(graph)
    kept = signed_activations(model.graph.node, list(model.graph.initializer))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return checked_model(model)


def _half(graph: bytes) -> bytes:
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = convert_float_to_float16(
        onnx.load_from_string(graph), keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_ALWAYS_FLOAT]
    )
    OnnxModel.graph_topological_sort(model.graph)  # the conversion puts its casts at the end
    return checked_model(model)
