"""PReLU split into vector operators gives the very same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from immunecam.export.split_prelu import split_prelu

SLOPES = np.array([-0.7, 0.0, 0.25, 1.0, 3.5], np.float32).reshape(5, 1, 1)


def run(nodes, x):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, 6, 6])],
        [numpy_helper.from_array(SLOPES, "slope")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def test_the_same_numbers_whatever_the_slope():
    nodes = [
        helper.make_node("Neg", ["x"], ["negated"], name="negate"),
        helper.make_node("PRelu", ["negated", "slope"], ["kept"], name="first"),
        helper.make_node("PRelu", ["kept", "slope"], ["y"], name="second"),
    ]
    x = np.random.default_rng(0).normal(0, 4, (2, 5, 6, 6)).astype(np.float32)
    x[0, :, 0] = 0
    split = split_prelu(nodes)
    assert [node.op_type for node in split] == ["Neg", *2 * ["Relu", "Sub", "Mul", "Add"]]
    assert len({node.name for node in split}) == len(split)
    np.testing.assert_array_equal(run(split, x), run(nodes, x))
    negated = -x
    once = np.where(negated > 0, negated, SLOPES * negated)
    np.testing.assert_allclose(run(split, x), np.where(once > 0, once, SLOPES * once), rtol=1e-6)
