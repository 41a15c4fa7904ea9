"""Pixel shuffles stay within integers, and move the very same numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from immunecam.export.integer_shuffles import integer_shuffles
from immunecam.export.quantisation import quantised

OPSET = {"opset_imports": [helper.make_opsetid("", 18)], "ir_version": 8}


def network(block, kept, mode="CRD"):
    """A convolution, shuffled, added to a picture, and another convolution."""
    rng = np.random.default_rng(0)
    wide = kept * block**2
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["c1"], ["s1"], name="shuffle", blocksize=block, mode=mode),
        helper.make_node("Conv", ["large", "w2", "b2"], ["c2"], name="beside", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "s1"], ["sum"], name="sum"),
        helper.make_node("Conv", ["sum", "w3", "b3"], ["y"], name="last", pads=[1, 1, 1, 1]),
    ]
    constants = {"w1": (wide, 8, 3, 3), "b1": (wide,), "w2": (kept, 3, 3, 3), "b2": (kept,)}
    constants |= {"w3": (2, kept, 3, 3), "b3": (2,)}
    inputs = {"x": ["N", 8, 5, 7], "large": ["N", 3, 5 * block, 7 * block]}
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 5 * block, 7 * block])],
        [numpy_helper.from_array(rng.normal(0, 0.3, s).astype(np.float32), name) for name, s in constants.items()],
    )
    return helper.make_model(made, **OPSET).SerializeToString()


def feeds(block, seed, faces=3):
    rng = np.random.default_rng(seed)
    shapes = {"x": (faces, 8, 5, 7), "large": (faces, 3, 5 * block, 7 * block)}
    return {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(("block", "kept"), [(2, 16), (2, 1), (3, 5), (4, 2)])
def test_the_numbers_are_the_same(block, kept, tmp_path, for_cpu, run):
    """With channels that fill what is computed at once, and with fewer."""
    made = quantised(network(block, kept), feeds(block, 0), outputs=True)
    plain, quick = for_cpu(made), for_cpu(made, integer_shuffles)
    for faces in (1, 3):
        given = feeds(block, 1, faces)
        wanted = run(plain, given)
        assert wanted.std() > 0
        np.testing.assert_array_equal(run(quick, given, tmp_path / "optimised.onnx"), wanted)
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert not kinds["DepthToSpace"]
    assert not kinds["Gather"]  # folded
    assert kinds["QLinearAdd"] == 1  # the sum after it is one of integers


@pytest.mark.parametrize("case", ["floating point", "other order"])
def test_other_shuffles_stay(case, for_cpu, run):
    content = network(2, 4, "DCR" if case == "other order" else "CRD")
    if case == "other order":
        content = quantised(content, feeds(2, 0), outputs=True)
    given = feeds(2, 1)
    quick = for_cpu(content, integer_shuffles)
    assert "DepthToSpace" in {node.op_type for node in onnx.load_from_string(quick).graph.node}
    np.testing.assert_array_equal(run(quick, given), run(for_cpu(content), given))
