"""A small but whole bundle: a real analyzer and a real whole-purifier graph over a tiny eigenspace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from immunecam.kernels import Subspace
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.bundle_writer import write_bundle
from immunecam.runtime.subspace_file import subspace_to_bytes, tensor_spans

K = 64
SIDE = 112
OPSET = 20


@dataclass
class BundleParts:
    """What a bundle is made of, so that a test can spoil one part and write the rest as it was."""

    kind: str = "edge"
    k: int = K
    precision: dict[str, str] = field(default_factory=lambda: {"analyzer": "fp32", "basis": "int8"})
    graphs: dict[str, str] = field(default_factory=lambda: {"analyzer": "analyzer.onnx", "purifier": "purifier.onnx"})
    files: dict[str, bytes] = field(default_factory=dict)

    def write(self, path: Path, **more: Any) -> Bundle:
        return write_bundle(
            path,
            kind=self.kind,
            k=self.k,
            precision=self.precision,
            graphs=self.graphs,
            files=self.files,
            provenance={"made by": "the tests"},
            **more,
        )


def tensors(k: int, basis: str, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Mean, orthonormal rows and scales, in the precision asked for."""
    rng = np.random.default_rng(seed)
    d = SIDE * SIDE
    # The first cosines: orthonormal, and quicker than a decomposition.
    angles = np.pi / d * (np.arange(d) + 0.5) * np.arange(1, k + 1)[:, None]
    rows = (np.cos(angles) * np.sqrt(2 / d)).astype(np.float32)
    mean = rng.uniform(-0.5, 0.5, SIDE * SIDE).astype(np.float32)
    if basis == "int8":
        scale = np.abs(rows).max(axis=1) / np.float32(127)
        return {"mean": mean, "basis": np.rint(rows / scale[:, None]).astype(np.int8), "scale": scale}
    return {"mean": mean, "basis": rows.astype(np.float16 if basis == "fp16" else np.float32)}


def build_parts(*, k: int = K, basis: str = "int8", gives: int | None = None, whole: bool = True) -> BundleParts:
    """Parts of a valid bundle; ``gives`` makes the analyzer's own K another than the subspace's."""
    onnx = pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")
    parts = BundleParts(k=k, precision={"analyzer": "fp32", "basis": basis})
    arrays = tensors(k, basis)
    subspace = subspace_to_bytes(Subspace(**arrays))
    analyzer = _analyzer(onnx, k if gives is None else gives)
    parts.files = {"subspace.safetensors": subspace, "analyzer.onnx": analyzer}
    if whole:
        parts.files["purifier.onnx"] = _purifier(onnx, analyzer, subspace, arrays)
    else:
        parts.graphs = {"analyzer": "analyzer.onnx"}
    return parts


def _analyzer(onnx: Any, k: int) -> bytes:
    """16x16 average pooling, one linear layer, sigmoid."""
    h = onnx.helper
    rng = np.random.default_rng(1)
    weight = (rng.standard_normal((49, k)) * 2).astype(np.float32)
    nodes = [
        h.make_node("Unsqueeze", ["faces", "axis1"], ["image"]),
        h.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
        h.make_node("Flatten", ["pooled"], ["features"], axis=1),
        h.make_node("MatMul", ["features", "weight"], ["logits"]),
        h.make_node("Sigmoid", ["logits"], ["probabilities"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array([1], np.int64), "axis1"),
        onnx.numpy_helper.from_array(weight, "weight"),
    ]
    graph = h.make_graph(
        nodes,
        "analyzer",
        [h.make_tensor_value_info("faces", onnx.TensorProto.FLOAT, ["N", SIDE, SIDE])],
        [h.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["N", k])],
        constants,
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _purifier(onnx: Any, analyzer: bytes, subspace: bytes, arrays: dict[str, NDArray[Any]]) -> bytes:
    """The analyzer's nodes, then mutation and projection; big tensors are references, not copies."""
    h, types = onnx.helper, onnx.TensorProto
    base = onnx.load_from_string(analyzer).graph
    k = arrays["basis"].shape[0]
    quantised = arrays["basis"].dtype == np.int8
    half = arrays["basis"].dtype == np.float16
    nodes = list(base.node)
    nodes += [
        h.make_node("Less", ["uniforms", "probabilities"], ["bits"]),
        h.make_node("Cast", ["bits"], ["drawn"], to=types.FLOAT),
        h.make_node("Where", ["expected", "probabilities", "drawn"], ["antibody"]),
    ]
    weights = "antibody"
    if quantised:
        # A row's scale stands on both sides of its bit, so the big tensor is only cast. A DequantizeLinear
        # without a zero point, then transposed, is a graph that ONNX Runtime 1.18 to 1.23 cannot load.
        weights = "weights"
        nodes += [
            h.make_node("Mul", ["scale", "scale"], ["gain"]),
            h.make_node("Mul", ["antibody", "gain"], ["weights"]),
        ]
    nodes += [
        h.make_node("Cast", ["basis"], ["rows"], to=types.FLOAT),
        h.make_node("Reshape", ["faces", "flat"], ["pixels"]),
        h.make_node("Sub", ["pixels", "mean"], ["centred"]),
        h.make_node("Gemm", ["centred", "rows"], ["coefficients"], transB=1),
        h.make_node("Mul", ["coefficients", weights], ["kept"]),
        h.make_node("MatMul", ["kept", "rows"], ["spanned"]),
        h.make_node("Add", ["spanned", "mean"], ["face"]),
        h.make_node("Add", ["face", "one"], ["shifted"]),
        h.make_node("Mul", ["shifted", "half_range"], ["scaled"]),
        h.make_node("Clip", ["scaled", "black", "white"], ["clipped"]),
        h.make_node("Round", ["clipped"], ["rounded"]),
        h.make_node("Cast", ["rounded"], ["bytes"], to=types.UINT8),
        h.make_node("Reshape", ["bytes", "square"], ["purified"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array(value), name)
        for name, value in {
            "axis1": np.array([1], np.int64),
            "flat": np.array([-1, SIDE * SIDE], np.int64),
            "square": np.array([-1, SIDE, SIDE], np.int64),
            "one": np.float32(1),
            "half_range": np.float32(127.5),
            "black": np.float32(0),
            "white": np.float32(255),
        }.items()
    ]
    weight = next(tensor for tensor in base.initializer if tensor.name == "weight")
    offset = analyzer.index(weight.raw_data)
    constants.append(external(onnx, "weight", types.FLOAT, weight.dims, "analyzer.onnx", offset, len(weight.raw_data)))
    kinds = {"basis": types.INT8 if quantised else types.FLOAT16 if half else types.FLOAT}
    spans = tensor_spans(subspace)
    for name, array in arrays.items():
        offset, length = spans[name]
        kind = kinds.get(name, types.FLOAT)
        constants.append(external(onnx, name, kind, array.shape, "subspace.safetensors", offset, length))
    graph = h.make_graph(
        nodes,
        "purifier",
        [
            h.make_tensor_value_info("faces", types.FLOAT, ["N", SIDE, SIDE]),
            h.make_tensor_value_info("uniforms", types.FLOAT, ["N", k]),
            h.make_tensor_value_info("expected", types.BOOL, []),
        ],
        [
            h.make_tensor_value_info("purified", types.UINT8, ["N", SIDE, SIDE]),
            h.make_tensor_value_info("probabilities", types.FLOAT, ["N", k]),
        ],
        constants,
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", OPSET)], ir_version=9)
    return bytes(model.SerializeToString())


def external(onnx: Any, name: str, kind: int, dims: Any, location: str, offset: int, length: int) -> Any:
    """A tensor whose values are bytes of another file."""
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=list(dims))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.fixture(scope="session")
def parts() -> Callable[..., BundleParts]:
    """Makes fresh parts of a valid bundle; the slow sums are done once for each set of options."""
    cache: dict[tuple[tuple[str, Any], ...], BundleParts] = {}

    def make(**options: Any) -> BundleParts:
        key = tuple(sorted(options.items()))
        if key not in cache:
            cache[key] = build_parts(**options)
        made = cache[key]
        return BundleParts(made.kind, made.k, dict(made.precision), dict(made.graphs), dict(made.files))

    return make


@pytest.fixture(scope="session")
def bundle(parts: Callable[..., BundleParts], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A valid bundle with an int8 basis and both graphs."""
    return parts().write(tmp_path_factory.mktemp("bundle") / "tiny.immune")


@pytest.fixture(scope="session")
def split_bundle(parts: Callable[..., BundleParts], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same bundle without the whole-purifier graph."""
    return parts(whole=False).write(tmp_path_factory.mktemp("split") / "tiny.immune")


@pytest.fixture
def faces() -> NDArray[np.float32]:
    """Five faces of 8-bit values in [-1, 1]."""
    rng = np.random.default_rng(5)
    return (rng.integers(0, 256, (5, SIDE, SIDE)) / 127.5 - 1).astype(np.float32)
