"""Where int8 begins and ends in a graph, and that ONNX Runtime computes it with integers, ReLU and all."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from immunecam.export.quantisation import layers_of, quantised


def graph(activation):
    """Two convolutions around an activation, added to what they got."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node(activation, ["c1", "slope"] if activation == "PRelu" else ["c1"], ["a1"], name="between"),
        helper.make_node("Conv", ["a1", "w2", "b2"], ["c2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["x", "c2"], ["y"], name="residual"),
    ]
    constants = {f"w{n}": rng.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32) for n in (1, 2)}
    constants |= {f"b{n}": rng.normal(0, 0.1, 8).astype(np.float32) for n in (1, 2)}
    if activation == "PRelu":
        constants["slope"] = np.full((8, 1, 1), 0.2, np.float32)
    shape = ["N", 8, 12, 12]
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    ).SerializeToString()  # fmt: skip


def faces(seed):
    return {"x": np.random.default_rng(seed).normal(0, 1, (4, 8, 12, 12)).astype(np.float32)}


@pytest.mark.parametrize("activation", ["Relu", "PRelu"])
def test_int8_is_near(activation, for_cpu, run):
    source = graph(activation)
    made = quantised(source, faces(0), outputs=True)
    wanted = run(source, faces(1))
    for model in (made, for_cpu(made)):
        assert 0 < np.abs(run(model, faces(1)) - wanted).mean() < 0.02 * np.abs(wanted).mean()


def test_a_relu_is_rounded_once_and_in_the_convolution(tmp_path, for_cpu, run):
    made = onnx.load_from_string(quantised(graph("Relu"), faces(0), outputs=True))
    by_output = {node.output[0]: node for node in made.graph.node}
    (relu,) = (node for node in made.graph.node if node.op_type == "Relu")
    assert by_output[relu.input[0]].op_type == "Conv"  # nothing is rounded between
    (after,) = (node for node in made.graph.node if relu.output[0] in node.input)
    assert after.op_type == "QuantizeLinear"
    unsigned = onnx.load_from_string(for_cpu(made.SerializeToString()))
    zeros = {tensor.name: numpy_helper.to_array(tensor) for tensor in unsigned.graph.initializer}
    found = {node.input[0]: zeros[node.input[2]] for node in unsigned.graph.node if node.op_type == "QuantizeLinear"}
    assert found.pop(relu.output[0]) == 0
    assert {int(zero) for zero in found.values()} == {128}
    run(unsigned.SerializeToString(), faces(1), tmp_path / "optimised.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["QLinearConv"] == 2
    assert not kinds["Relu"]
    assert not kinds["Conv"]


def test_layers_that_stay_in_floating_point_keep_their_relu(run):
    made = onnx.load_from_string(quantised(graph("Relu"), faces(0), layers=["second"], outputs=True))
    assert Counter(node.op_type for node in made.graph.node)["QuantizeLinear"] == 2  # its input and its output
    assert np.isfinite(run(made.SerializeToString(), faces(1))).all()


def test_a_filter_of_one_channel_is_none_of_the_layers():
    """As the restorer's, which tells noise: ONNX Runtime needs five times as long for it in int8."""
    nodes = [
        helper.make_node("Conv", ["x", "one"], ["c"], name="filter"),
        helper.make_node("Conv", ["c", "more"], ["y"], name="widen"),
    ]
    constants = {"one": np.ones((1, 1, 3, 3), np.float32), "more": np.ones((8, 1, 3, 3), np.float32)}
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert layers_of(model.SerializeToString()) == ("widen",)
