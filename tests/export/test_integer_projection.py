"""The projection by integer products is the projection, on any processor."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from immunecam.export.integer_projection import integer_constants, integer_product

K, D = 24, 400
RNG = np.random.default_rng(0)
ROWS = RNG.integers(-127, 128, (K, D)).astype(np.int8)
MEAN = RNG.uniform(-1, 1, D).astype(np.float32)


@pytest.fixture(scope="module")
def session():
    nodes = [
        helper.make_node("Transpose", ["rows"], ["columns"], perm=[1, 0]),
        *integer_product(pixels="pixels", weights="weights", rows="rows", columns="columns", output="out"),
    ]
    shown = {"out": (TensorProto.FLOAT, D), "integer.pixels": (TensorProto.UINT8, D)}
    shown |= {"integer.coefficients": (TensorProto.UINT8, K)}
    constants = {"rows": ROWS, **integer_constants(MEAN, ROWS)}
    graph = helper.make_graph(
        nodes,
        "projection",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", s]) for n, s in (("pixels", D), ("weights", K))],
        [helper.make_tensor_value_info(name, kind, ["M", size]) for name, (kind, size) in shown.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([0.0, 0.2, 1.0]), st.floats(-6, 0))
def test_it_agrees_with_float64_and_no_product_overflows(session, seed, faces, used, decades):
    rng = np.random.default_rng(seed)
    grey = rng.choice([0, 1, 127, 128, 254, 255, *range(256)], (faces, D))
    pixels = (grey / 127.5 - 1).astype(np.float32)
    weights = ((rng.random((faces, K)) < used) * 10.0 ** rng.uniform(decades, 0, (faces, K))).astype(np.float32)
    out, digits, coefficients = session.run(None, {"pixels": pixels, "weights": weights})
    rows = ROWS.astype(np.float64)
    kept = weights * ((grey / 127.5 - 1 - MEAN.astype(np.float64)) @ rows.T)
    # Half a step of the coefficients' grid for every row, and what float32 keeps of sums of a million.
    allowed = np.abs(kept).max(1, keepdims=True) * (0.51 / 8191 * np.abs(rows).sum(0).max() + 1e-4)
    assert (np.abs(out - kept @ rows) <= allowed + 1e-6).all()
    for found in (digits, coefficients):
        # Without VNNI two neighbouring products are added in 16 bits.
        assert 2 * int(found.max()) * 127 <= np.iinfo(np.int16).max


def test_an_empty_antibody_leaves_nothing(session):
    out = session.run(["out"], {"pixels": np.ones((2, D), np.float32), "weights": np.zeros((2, K), np.float32)})[0]
    assert not out.any()
