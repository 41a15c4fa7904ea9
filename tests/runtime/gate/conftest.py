"""A recogniser small enough to be made in a test, a key, and unit embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")

from immunecam.runtime.gate.keys import GateKey
from immunecam.runtime.gate.store_header import Setting

SIZE = 32

TOML = """name = "{name}"
[model]
file = "{file}"
sha256 = "{sha256}"
[input]
width = {width}
height = {height}
layout = "{layout}"
colour = "{colour}"
range = [{low}, {high}]
{more}
"""


@pytest.fixture
def key() -> GateKey:
    return GateKey(bytes(range(32)))


@pytest.fixture
def setting() -> Setting:
    return Setting("r" * 64, "none", SIZE, "small", "no purification")


@pytest.fixture
def unit() -> Callable[..., NDArray[np.float32]]:
    """Unit embeddings (count, size), the same for the same seed."""

    def make(count: int, seed: int = 0, size: int = SIZE) -> NDArray[np.float32]:
        rows = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return make


@pytest.fixture(scope="session")
def recognizer_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes an ONNX recogniser of averaged 8x8 blocks and a random matrix, and its description."""
    onnx = pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")
    folder = tmp_path_factory.mktemp("recognizer")

    def make(
        *,
        layout: str = "NCHW",
        colour: str = "BGR",
        side: int = 112,
        batch: Any = "n",
        unit_length: bool = False,
        low: float = 0,
        high: float = 255,
        more: str = "",
    ) -> Path:
        h, types = onnx.helper, onnx.TensorProto
        channels = 1 if colour == "GREY" else 3
        cells = (side // 8) ** 2 * channels
        matrix = np.random.default_rng(3).standard_normal((cells, SIZE)).astype(np.float32)
        nodes = [h.make_node("Transpose", ["face"], ["chw"], perm=[0, 3, 1, 2])] if layout == "NHWC" else []
        source = "chw" if layout == "NHWC" else "face"
        nodes += [
            h.make_node("AveragePool", [source], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
            h.make_node("Flatten", ["pooled"], ["flat"]),
            h.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
            h.make_node("Sub", ["flat", "mean"], ["centred"]),
            h.make_node("MatMul", ["centred", "matrix"], ["embedding" if not unit_length else "raw"]),
        ]
        if unit_length:
            nodes.append(h.make_node("LpNormalization", ["raw"], ["embedding"], axis=1, p=2))
        shape = [batch, channels, side, side] if layout == "NCHW" else [batch, side, side, channels]
        graph = h.make_graph(
            nodes,
            "recognizer",
            [h.make_tensor_value_info("face", types.FLOAT, shape)],
            [h.make_tensor_value_info("embedding", types.FLOAT, [batch, SIZE])],
            [onnx.numpy_helper.from_array(matrix, "matrix")],
        )
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8)
        data = model.SerializeToString()
        name = hashlib.sha256(data + f"{colour}{low}{high}{more}".encode()).hexdigest()[:12]
        (folder / f"{name}.onnx").write_bytes(data)
        about = TOML.format(
            name="small",
            file=f"{name}.onnx",
            sha256=hashlib.sha256(data).hexdigest(),
            width=side,
            height=side,
            layout=layout,
            colour=colour,
            low=low,
            high=high,
            more=more,
        )
        path = folder / f"{name}.toml"
        path.write_text(about)
        return path

    return make
