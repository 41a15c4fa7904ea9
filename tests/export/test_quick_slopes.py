"""PReLU as convolutions is the same function, whatever the slopes and however they are stored."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from immunecam.export.quick_slopes import quick_slopes, with_quick_slopes

SLOPES = np.array([-0.7, 0.0, 0.25, 1.0, 3.5], np.float32)


def model(slopes, *, cast=False, shape=("N", 5, 6, 6)):
    nodes = [
        helper.make_node("Cast", ["stored"], ["slope"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Neg", ["x"], ["negated"], name="negate"),
        helper.make_node("PRelu", ["negated", "slope"], ["kept"], name="first"),
        helper.make_node("PRelu", ["kept", "slope"], ["y"], name="second"),
    ]
    stored = numpy_helper.from_array(slopes.astype(np.float16), "stored")
    graph = helper.make_graph(
        nodes if cast else nodes[1:],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [stored if cast else numpy_helper.from_array(slopes, "slope")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def run(graph, x):
    return ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("shape", [(5, 1, 1), (1, 5, 1, 1)])
def test_the_same_function_whatever_the_slope(shape, cast):
    source = model(SLOPES.reshape(shape), cast=cast)
    x = np.random.default_rng(0).normal(0, 4, (2, 5, 6, 6)).astype(np.float32)
    x[0, :, 0] = 0
    quick = with_quick_slopes(source)
    assert "PRelu" not in {node.op_type for node in onnx.load_from_string(quick).graph.node}
    assert with_quick_slopes(quick) == quick
    slopes = SLOPES.astype(np.float16 if cast else np.float32).astype(np.float64).reshape(5, 1, 1)
    once = np.where(-x > 0, -x, -slopes * x)
    wanted = np.where(once > 0, once, slopes * once)
    np.testing.assert_allclose(run(quick, x), wanted, rtol=1e-5, atol=1e-6)


def test_slopes_of_vectors_and_unknown_ones_stay():
    vectors = onnx.load_from_string(model(SLOPES, shape=("N", 5)))
    nodes, initializers = quick_slopes(vectors.graph.node, vectors.graph.initializer)
    assert nodes == list(vectors.graph.node)
    assert initializers == list(vectors.graph.initializer)
    unknown = [helper.make_node("PRelu", ["x", "given"], ["y"], name="open")]
    assert quick_slopes(unknown, []) == (unknown, [])
