"""The projection inside the whole purifier: few rows or all of them, it is the same projection."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from immunecam.export.active_rows import SHARE, projection_nodes

K, D = 40, 60


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((K, D)).astype(np.float32)


@pytest.fixture(scope="module")
def session(rows):
    nodes, constants = projection_nodes(
        K, D, antibody="antibody", weights="weights", centred="centred", rows="rows", output="out"
    )
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])
        for name, size in (("antibody", K), ("weights", K), ("centred", D))
    ]
    outputs = [
        helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", D]),
        helper.make_tensor_value_info("active.pays", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph(nodes, "projection", inputs, outputs, [*constants, numpy_helper.from_array(rows, "rows")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("faces", [1, 3])
@pytest.mark.parametrize("used", [0, 1, int(SHARE * K) - 1, int(SHARE * K), K])
def test_few_rows_are_copied_and_many_are_not(session, rows, faces, used):
    rng = np.random.default_rng(used)
    antibody = np.zeros((faces, K), np.float32)
    chosen = rng.permutation(K)[:used]
    antibody[:, chosen] = rng.random((faces, used)) < 0.5
    antibody[rng.integers(faces), chosen] = 1  # a row counts if any face uses it
    weights = antibody * rng.random(K).astype(np.float32)
    centred = rng.standard_normal((faces, D)).astype(np.float32)
    out, pays = session.run(None, {"antibody": antibody, "weights": weights, "centred": centred})
    assert pays == (used < int(SHARE * K))
    exact = (weights * (centred.astype(np.float64) @ rows.T)) @ rows
    assert np.abs(out - exact).max() < 1e-4
