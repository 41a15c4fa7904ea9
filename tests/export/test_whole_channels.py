"""Channels of zeros change no number, and only where an integer convolution has other channels than by fours."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from immunecam.export.quantisation import quantised
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


def whole(nodes, initializers, shapes):
    return whole_channels(nodes, initializers)


@pytest.mark.parametrize("channels", [1, 3, 6, 9])
def test_the_numbers_are_the_same(channels, tmp_path, for_cpu, run):
    made = quantised(network(channels), faces(channels, 0), outputs=True)
    given = faces(channels, 1)
    wanted = run(for_cpu(made), given)
    assert wanted.std() > 0
    np.testing.assert_array_equal(run(for_cpu(made, whole), given, tmp_path / "optimised.onnx"), wanted)
    optimised = onnx.load(tmp_path / "optimised.onnx").graph
    weights = {tensor.name: tensor.dims for tensor in optimised.initializer}
    inputs = [weights[node.input[3]][1] for node in optimised.node if node.op_type == "QLinearConv"]
    assert len(inputs) == 3
    assert all(count % 4 == 0 for count in inputs)  # and folded: no operator is left to fill the weights
    assert Counter(node.op_type for node in optimised.node)["Pad"] in (1, 2, 3)


@pytest.mark.parametrize("case", ["floating point", "groups", "fours"])
def test_other_convolutions_stay(case, for_cpu):
    channels, groups = {"floating point": (3, 1), "groups": (6, 6), "fours": (8, 1)}[case]
    content = network(channels, groups)
    if case != "floating point":
        content = quantised(content, faces(channels, 0), layers=["first"], outputs=True)
    filled = onnx.load_from_string(for_cpu(content, whole))
    assert "Pad" not in {node.op_type for node in filled.graph.node}
