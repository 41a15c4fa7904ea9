"""Channels of zeros change no number, and only where an integer convolution has other channels than by fours."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from immunecam.export.quantisation import quantised
from immunecam.export.unsigned_activations import unsigned_activations
from immunecam.export.whole_channels import whole_channels

OPSET = {"opset_imports": [helper.make_opsetid("", 18)], "ir_version": 8}


def network(channels, groups=1):
    """Two convolutions of the same picture, and one of the first's ReLU."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1], group=groups),
        helper.make_node("Relu", ["c1"], ["a1"], name="relu"),
        helper.make_node("Conv", ["x", "w2"], ["c2"], name="beside"),
        helper.make_node("Conv", ["a1", "w3"], ["c3"], name="last"),
        helper.make_node("Add", ["c2", "c3"], ["y"], name="sum"),
    ]
    constants = {"w1": (2 * channels, channels // groups, 3, 3), "b1": (2 * channels,)}
    constants |= {"w2": (5, channels, 1, 1), "w3": (5, 2 * channels, 1, 1)}
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, 6, 6])],
        [numpy_helper.from_array(rng.normal(0, 0.3, s).astype(np.float32), name) for name, s in constants.items()],
    )
    return helper.make_model(made, **OPSET).SerializeToString()


def faces(channels, seed):
    return {"x": np.random.default_rng(seed).normal(0.5, 1, (3, channels, 6, 6)).astype(np.float32)}


def for_cpu(content, whole):
    model = onnx.load_from_string(content)
    nodes = list(model.graph.node)
    initializers = unsigned_activations(nodes, list(model.graph.initializer))
    if whole:
        nodes, initializers = whole_channels(nodes, initializers)
    graph = helper.make_graph(nodes, "cpu", model.graph.input, model.graph.output, initializers)
    made = helper.make_model(graph, **OPSET)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def run(model, given, optimised=None):
    options = ort.SessionOptions()
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, given)[0]


@pytest.mark.parametrize("channels", [1, 3, 6, 9])
def test_the_numbers_are_the_same(channels, tmp_path):
    made = quantised(network(channels), faces(channels, 0), outputs=True)
    given = faces(channels, 1)
    wanted = run(for_cpu(made, whole=False), given)
    assert wanted.std() > 0
    np.testing.assert_array_equal(run(for_cpu(made, whole=True), given, tmp_path / "optimised.onnx"), wanted)
    optimised = onnx.load(tmp_path / "optimised.onnx").graph
    weights = {tensor.name: tensor.dims for tensor in optimised.initializer}
    inputs = [weights[node.input[3]][1] for node in optimised.node if node.op_type == "QLinearConv"]
    assert len(inputs) == 3
    assert all(count % 4 == 0 for count in inputs)  # and folded: no operator is left to fill the weights
    assert Counter(node.op_type for node in optimised.node)["Pad"] in (1, 2, 3)


@pytest.mark.parametrize("case", ["floating point", "groups", "fours"])
def test_other_convolutions_stay(case):
    channels, groups = {"floating point": (3, 1), "groups": (6, 6), "fours": (8, 1)}[case]
    content = network(channels, groups)
    if case != "floating point":
        content = quantised(content, faces(channels, 0), layers=["first"], outputs=True)
    filled = onnx.load_from_string(for_cpu(content, whole=True))
    assert "Pad" not in {node.op_type for node in filled.graph.node}
