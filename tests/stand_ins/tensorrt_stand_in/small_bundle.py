"""A bundle that takes no time: analyzer and restorer are real graphs of a few operators."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from immunecam.kernels import Subspace
from immunecam.runtime.bundle_writer import write_bundle
from immunecam.runtime.subspace_file import subspace_to_bytes

K, SIDE, OPSET = 16, 112, 20


def small_bundle(path, *, restorer=True, unknown=False):
    """Written to `path`; `unknown` puts in an operator that TensorRT's parser does not have."""
    graphs = {"analyzer": "analyzer.onnx"} | ({"restorer": "restorer.onnx"} if restorer else {})
    made = {"analyzer": analyzer(unknown=unknown), "restorer": restoring()}
    angles = np.pi / SIDE**2 * (np.arange(SIDE**2) + 0.5) * np.arange(1, K + 1)[:, None]
    rows = (np.cos(angles) * np.sqrt(2 / SIDE**2)).astype(np.float32)
    files = {name: made[role] for role, name in graphs.items()}
    files["subspace.safetensors"] = subspace_to_bytes(Subspace(np.zeros(SIDE**2, np.float32), rows))
    precision = {"basis": "fp32"} | dict.fromkeys(graphs, "fp32")
    return write_bundle(path, kind="edge", k=K, files=files, graphs=graphs, precision=precision)


def analyzer(*, k=K, unknown=False, names=("faces", "probabilities")):
    """Pooling, a linear layer whose weights are stored in int8, sigmoid."""
    rng = np.random.default_rng(1)
    quantised = rng.integers(-127, 128, (k, 49)).astype(np.int8)
    nodes = [
        helper.make_node("Unsqueeze", [names[0], "axis1"], ["image"], name="unsqueeze"),
        helper.make_node("AveragePool", ["image"], ["pooled"], name="pool", kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["pooled"], ["features"], name="flatten", axis=1),
        helper.make_node("Cast", ["weight.int8"], ["weight.cast"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["weight.cast", "scale"], ["weight"], name="scale_weights"),
        helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"], name="linear", transB=1),
    ]
    constants = {
        "axis1": np.array([1]),
        "weight.int8": quantised,
        "scale": np.full((k, 1), 0.03, np.float32),
        "bias": np.linspace(-1, 1, k, dtype=np.float32),
    }
    last = "logits"
    if unknown:
        nodes += [
            helper.make_node("Det", [names[0]], ["det"], name="determinant"),
            helper.make_node("Unsqueeze", ["det", "axis1"], ["column"], name="column"),
            helper.make_node("Tanh", ["column"], ["small"], name="small"),
            helper.make_node("Add", ["logits", "small"], ["more"], name="more"),
        ]
        last = "more"
    nodes.append(helper.make_node("Sigmoid", [last], [names[1]], name="sigmoid"))
    return model(nodes, {names[0]: ["N", SIDE, SIDE]}, {names[1]: ["N", k]}, constants)


def restoring():
    """Two convolutions on both faces, added to the projected one."""
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("Unsqueeze", ["faces", "axis1"], ["one"], name="one"),
        helper.make_node("Unsqueeze", ["projected", "axis1"], ["two"], name="two"),
        helper.make_node("Concat", ["one", "two"], ["both"], name="both", axis=1),
        helper.make_node("Conv", ["both", "w1"], ["wide"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["wide", "slope"], ["bent"], name="prelu"),
        helper.make_node("Conv", ["bent", "w2"], ["narrow"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["narrow", "two"], ["sum"], name="add"),
        helper.make_node("Squeeze", ["sum", "axis1"], ["restored"], name="squeeze"),
    ]
    constants = {
        "axis1": np.array([1]),
        "w1": (0.2 * rng.standard_normal((4, 2, 3, 3))).astype(np.float32),
        "w2": (0.05 * rng.standard_normal((1, 4, 3, 3))).astype(np.float32),
        "slope": np.full((4, 1, 1), 0.25, np.float32),
    }
    face = ["N", SIDE, SIDE]
    return model(nodes, {"faces": face, "projected": face}, {"restored": face}, constants)


def model(nodes, inputs, outputs, constants, dtype=TensorProto.FLOAT):
    """A serialised ONNX model that onnx's checker accepts."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def crops(folder, count=5):
    """Aligned faces as pictures of 112x112: smooth, as faces are, but nobody's."""
    import cv2

    rng = np.random.default_rng(3)
    folder.mkdir()
    for number in range(count):
        rough = rng.uniform(40, 220, (8, 8)).astype(np.float32)
        face = cv2.resize(rough, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), face)
    return folder
