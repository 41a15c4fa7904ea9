"""Faces, recognisers and attacks."""

from __future__ import annotations

import zipfile

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from immunecam.errors import InputError
from immunecam.training.attacks import dodging, fgsm, impersonation, pgd, round_to_8bit
from immunecam.training.faces import FaceSet, from_uint8, to_uint8
from immunecam.training.onnx_module import OnnxModule
from immunecam.training.recognizer import Recognizer


def test_face_set_from_folder_and_zip(faces, tmp_path):
    folder = tmp_path / "in"
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name, pixels in zip(faces.names[:6], faces.pixels[:6], strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name), pixels.numpy())
            archive.write(folder / name, name)
        archive.writestr("readme.txt", "no face")
    seen = []
    for path in (folder, tmp_path / "in.zip"):
        loaded = FaceSet.load(path, progress=lambda done, total: seen.append((done, total)))
        assert loaded.names == tuple(sorted(faces.names[:6]))
        assert torch.equal(loaded.pixels[loaded.names.index(faces.names[3])], faces.pixels[3])
    assert seen[-1] == (6, 6)
    assert [len(batch) for batch in loaded.batches(4)] == [4, 2]


def test_bad_face_sets(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    for name, content in (("small", np.zeros((50, 60), np.uint8)), ("broken", None)):
        (tmp_path / name).mkdir()
        if content is None:
            (tmp_path / name / "a.png").write_bytes(b"no picture")
        else:
            cv2.imwrite(str(tmp_path / name / "a.png"), content)
    for name, words in (
        ("none", "do not exist"),
        ("empty", "no pictures"),
        ("text.zip", "neither a folder nor a zip"),
        ("small", "60x50"),
        ("broken", "not a readable picture"),
    ):
        with pytest.raises(InputError, match=words):
            FaceSet.load(tmp_path / name)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=9))
def test_pixels_come_back(values):
    pixels = torch.tensor(values, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(pixels)), pixels)


def export(network: torch.nn.Module, path) -> None:
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, 112, 112),),
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("N")},),
    )
    program.save(str(path))


def test_torchscript_and_onnx_are_the_same_recogniser(network, faces, tmp_path):
    torch.jit.trace(network, torch.zeros(1, 3, 112, 112)).save(str(tmp_path / "r.torchscript.pt"))
    export(network, tmp_path / "r.onnx")
    found = []
    for name in ("r.torchscript.pt", "r.onnx"):
        recognizer = Recognizer.load(tmp_path / name)
        assert recognizer.name == "r"
        assert len(recognizer.sha256) == 64
        x = next(faces.batches(5)).requires_grad_(True)
        embedding = recognizer(x)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(5))
        embedding[:, 0].sum().backward()
        assert all(not p.requires_grad for p in recognizer.parameters())
        found.append((embedding.detach(), x.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert not Recognizer(network).train().training


def test_shared_recognisers_agree_in_both_formats(shared_data):
    torch.manual_seed(0)
    faces = torch.nn.functional.interpolate(torch.randn(2, 1, 14, 14), (112, 112), mode="bicubic")[:, 0].clamp(-1, 1)
    for path in sorted((shared_data / "recognizers").glob("*.onnx")):
        gradients, embeddings = [], []
        for file in (path, path.with_suffix(".torchscript.pt")):
            x = faces.clone().requires_grad_(True)
            embedding = Recognizer.load(file)(x)
            embedding[:, :3].sum().backward()
            embeddings.append(embedding.detach())
            gradients.append(x.grad)
        assert (embeddings[0] - embeddings[1]).abs().max() < 1e-4
        assert (gradients[0] - gradients[1]).norm() < 1e-2 * gradients[1].norm()


def test_bad_recognisers(network, tmp_path):
    (tmp_path / "text.pt").write_text("no network")
    (tmp_path / "text.onnx").write_text("no network")
    (tmp_path / "a.bin").write_text("x")
    torch.jit.trace(torch.nn.Flatten(0), torch.zeros(1, 3, 112, 112)).save(str(tmp_path / "flat.pt"))
    torch.save({"weights": torch.zeros(3)}, tmp_path / "pickle.pt")  # is never unpickled
    for name, words in (
        ("none.pt", "does not exist"),
        ("a.bin", ".bin"),
        ("text.pt", "does not map"),
        ("text.onnx", "cannot be used"),
        ("flat.pt", "embedding"),
        ("pickle.pt", "does not map"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            Recognizer.load(tmp_path / name)
        assert "\n" not in str(caught.value)


X = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
I64 = np.int64


@pytest.mark.parametrize(
    ("kind", "constants", "attributes"),
    [
        ("Abs", [], {}),
        ("AveragePool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("AveragePool", [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("BatchNormalization", [X[0, :, 0, 0], X[0, :, 1, 0], X[0, :, 2, 0], abs(X[0, :, 3, 0])], {"epsilon": 1e-3}),
        ("Cast", [], {"to": TensorProto.FLOAT}),
        ("Clip", [np.float32(-0.2), np.float32(0.4)], {}),
        ("Conv", [X[:, :, :3, :3]], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("Conv", [X[:, :, :3, :3]], {"pads": [0, 0, 1, 1]}),
        ("Conv", [X[:1, :1, :3, :3].repeat(4, 0)], {"group": 4, "dilations": [2, 2]}),
        ("ConvTranspose", [X.swapaxes(0, 1)[:, :, :3, :2]], {}),
        ("ConvTranspose", [X.swapaxes(0, 1)[:, :, :4, :4]], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("ConvTranspose", [X.swapaxes(0, 1)[:, :, :3, :2]], {"strides": [2, 3], "output_padding": [1, 2]}),
        ("ConvTranspose", [X.swapaxes(0, 1)[:, :, :3, :3], X[0, 0, 0, :4]], {"group": 2, "dilations": [2, 1]}),
        ("ConvTranspose", [X.swapaxes(0, 1)[:, :, :3, :3]], {"strides": [2, 2], "pads": [0, 2, 1, 0]}),
        ("Div", [abs(X) + 1], {}),
        ("Elu", [], {"alpha": 0.7}),
        ("Exp", [], {}),
        ("Flatten", [], {"axis": 2}),
        ("Gather", [np.array([1, 0], I64)], {"axis": 1}),
        ("GlobalAveragePool", [], {}),
        ("HardSigmoid", [], {"alpha": 0.3}),
        ("HardSwish", [], {}),
        ("Identity", [], {}),
        ("LeakyRelu", [], {"alpha": 0.2}),
        ("MatMul", [X[0, 0]], {}),
        ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Mul", [X], {}),
        ("PRelu", [X[0, :, :1, :1]], {}),
        ("Pow", [np.float32(2)], {}),
        ("ReduceL2", [np.array([1], I64)], {"keepdims": 1}),
        ("ReduceMean", [np.array([2, 3], I64)], {"keepdims": 0}),
        ("ReduceSum", [np.array([-1], I64)], {}),
        ("Relu", [], {}),
        ("Reshape", [np.array([0, -1], I64)], {}),
        ("Sigmoid", [], {}),
        ("Slice", [np.array([1], I64), np.array([99], I64), np.array([1], I64), np.array([2], I64)], {}),
        ("Slice", [np.array([-1], I64), np.array([-(2**60)], I64), np.array([1], I64), np.array([-1], I64)], {}),
        ("Softmax", [], {"axis": 1}),
        ("Sub", [X], {}),
        ("Tanh", [], {}),
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),
        ("DepthToSpace", [], {"blocksize": 2, "mode": "CRD"}),
        ("DepthToSpace", [], {"blocksize": 2}),
        ("Unsqueeze", [np.array([1, -1], I64)], {}),
        ("Expand", [np.array([3, 1, 1, 1, 1], I64)], {}),
        ("Add", [X], {}),
        ("BatchNormalization", [X[0, :, 0, 0], X[0, :, 1, 0], X[0, :, 2, 0], abs(X[0, :, 3, 0])], {}),
        ("Cast", [], {"to": TensorProto.INT64}),
        ("Concat", [X, abs(X)], {"axis": -1}),
        ("Conv", [X[:, :, :3, :3], X[0, 0, 0, :2]], {}),
        ("Conv", [X[:, :2, :1, :1]], {"group": 2}),
        ("Dropout", [], {}),
        ("Elu", [], {}),
        ("Equal", [X * (X > 0)], {}),
        ("Flatten", [], {}),
        ("Flatten", [], {"axis": 0}),
        ("Flatten", [], {"axis": -1}),
        ("Gather", [np.array([[0, 5], [1, 1]], I64)], {"axis": -1}),
        ("Gather", [np.array([-1, 0], I64)], {"axis": 2}),
        ("Gather", [np.array(1, I64)], {}),
        ("GridSample", [np.clip(X[:, :, :3, :2], -0.9, 0.9)], {"mode": b"linear", "align_corners": 1}),
        ("GridSample", [X[:, :, :3, :2]], {"mode": b"linear", "padding_mode": b"border"}),
        ("HardSigmoid", [], {}),
        ("LeakyRelu", [], {}),
        ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("MaxPool", [], {"kernel_shape": [2, 2], "dilations": [2, 2]}),
        ("PRelu", [X[0, :1, :1, :1]], {}),
        ("ReduceL2", [], {}),
        ("ReduceMean", [], {"keepdims": 0}),
        ("ReduceSum", [], {"noop_with_empty_axes": 1}),
        ("Reshape", [np.array([-1, 3], I64)], {}),
        ("Shape", [], {}),
        ("Shape", [], {"start": 1, "end": -1}),
        ("Slice", [np.array([-3, 1], I64), np.array([-1, 3], I64), np.array([-1, 1], I64)], {}),
        ("Slice", [np.array([1], I64), np.array([2], I64)], {}),
        ("Softmax", [], {}),
        ("Squeeze", [], {}),
        ("Transpose", [], {}),
        ("Unsqueeze", [np.array([0], I64)], {}),
    ],
)
def test_onnx_operators(kind, constants, attributes):
    names = [f"c{number}" for number in range(len(constants))]
    result = {"Equal": TensorProto.BOOL, "Shape": TensorProto.INT64}.get(kind, attributes.get("to", TensorProto.FLOAT))
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *names], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", result, None)],
        [numpy_helper.from_array(np.asarray(c), n) for c, n in zip(constants, names, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})[0]
    found = OnnxModule(model)(torch.from_numpy(X))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5, rtol=1e-5)


def one_graph(nodes, inputs, constants, *, opset: int = 20):
    """A model of several nodes from x to y."""
    graph = helper.make_graph(
        nodes,
        "some",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(c), n) for n, c in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def compare(model, x: np.ndarray) -> None:
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    found = OnnxModule(model)(torch.from_numpy(x)).numpy()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "bias"),
    [
        ({}, False),
        ({"transB": 1}, True),
        ({"transA": 1}, True),
        ({"transA": 1, "transB": 1, "alpha": 0.3, "beta": 2.0}, True),
    ],
)
def test_onnx_gemm(attributes, bias):
    constants = {"b": X[0, 0]} | ({"c": X[1, 0, 0]} if bias else {})
    node = helper.make_node("Gemm", ["x", *constants], ["y"], **attributes)
    compare(one_graph([node], [("x", TensorProto.FLOAT, (6, 6))], constants), X[1, 2])


def test_onnx_operators_that_need_others_before_them():
    x = ("x", TensorProto.FLOAT, X.shape)
    positive = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Sqrt", ["a"], ["y"])]
    compare(one_graph(positive, [x], {}), X)
    chosen = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Equal", ["r", "x"], ["positive"]),
        helper.make_node("Where", ["positive", "x", "other"], ["y"]),
    ]
    compare(one_graph(chosen, [x], {"other": X[:, :, ::-1].copy()}), X)
    squeezed = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Squeeze", ["m", "axes"], ["y"]),
    ]
    compare(one_graph(squeezed, [x], {"axes": np.array([1, -1], I64)}), X)
    filled = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["c"], value=numpy_helper.from_array(np.float32([1.5]))),
        helper.make_node("ConstantOfShape", ["shape"], ["zero"]),
        helper.make_node("Sub", ["c", "zero"], ["d"]),
        helper.make_node("Mul", ["x", "d"], ["y"]),
    ]
    compare(one_graph(filled, [x], {}), X)
    # How exporters flatten: the batch from the shape, the rest by division, whole numbers rounded towards zero.
    flattened = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["n"], axis=0),
        helper.make_node("Div", ["number", "three"], ["rest"]),
        helper.make_node("Concat", ["n", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["x", "wanted"], ["y"]),
    ]
    numbers = {"first": np.array([0], I64), "number": np.array([-5], I64), "three": np.array([3], I64)}
    compare(one_graph(flattened, [x], numbers), X)


def test_onnx_constants_inside_the_graph_and_old_forms():
    x = ("x", TensorProto.FLOAT, X.shape)
    inside = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(X)),
        helper.make_node("Constant", [], ["f"], value_float=0.5),
        helper.make_node("Constant", [], ["shape"], value_ints=[2, -1]),
        helper.make_node("Mul", ["x", "k"], ["a"]),
        helper.make_node("Add", ["a", "f"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["y"]),
    ]
    compare(one_graph(inside, [x], {}), X)
    half = [helper.make_node("Clip", ["x", "", "high"], ["y"])]
    compare(one_graph(half, [x], {"high": np.float32(0.1)}), X)
    old = [
        helper.make_node("Clip", ["x"], ["c"], min=-0.5, max=0.6),
        helper.make_node("ReduceMean", ["c"], ["m"], axes=[2], keepdims=1),
        helper.make_node("Squeeze", ["m"], ["y"], axes=[2]),
    ]
    compare(one_graph(old, [x], {}, opset=10), X)


@pytest.mark.parametrize(
    ("kind", "constants", "attributes"),
    [
        ("Conv", {"w": X[:, :, :3, :3]}, {"auto_pad": "SAME_UPPER"}),
        ("ConvTranspose", {"w": X.swapaxes(0, 1)[:, :, :3, :3]}, {"auto_pad": "SAME_UPPER"}),
        ("ConvTranspose", {"w": X.swapaxes(0, 1)[:, :, :3, :3]}, {"output_shape": [9, 9]}),
        ("MaxPool", {}, {"kernel_shape": [2, 2], "ceil_mode": 1}),
        ("Slice", {"s": np.array([4], I64), "e": np.array([1], I64), "a": np.array([2], I64),
                   "t": np.array([-2], I64)}, {}),
    ],
)  # fmt: skip
def test_forms_that_are_not_here_are_refused_not_guessed(kind, constants, attributes):
    node = helper.make_node(kind, ["x", *constants], ["y"], **attributes)
    module = OnnxModule(one_graph([node], [("x", TensorProto.FLOAT, X.shape)], constants))
    with pytest.raises(ValueError, match="no form here"):
        module(torch.from_numpy(X))


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize(
    ("scale", "zero", "axis"),
    [
        (np.float32(0.01), 0, 1),
        (np.float32(0.013), 7, 1),
        (np.float32([0.02, 0.005, 0.011, 0.03]), [1, 0, 5, 2], 1),
        (np.float32([0.02, 0.005]), [0, 3], -4),
    ],
)
def test_onnx_quantisation(kind, scale, zero, axis):
    """As ONNX Runtime does it node by node: halves to even, saturation, a scale for each of an axis."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    x = 3 * X
    x[0, 0, 0] = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5], np.float32) * scale.ravel()[0]  # halfway
    model = one_graph(nodes, [("x", TensorProto.FLOAT, X.shape)], {"s": scale, "z": np.asarray(zero, kind)})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    wanted = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]
    values = torch.from_numpy(x).requires_grad_(True)
    found = OnnxModule(model)(values)
    np.testing.assert_array_equal(found.detach().numpy(), wanted)
    (slope,) = torch.autograd.grad(found.sum(), values)
    shape = [1, 1, 1, 1]
    shape[axis] = scale.size
    whole = np.rint(x / scale.reshape(shape)) + np.reshape(zero, shape if scale.size > 1 else [1])
    limits = np.iinfo(kind)
    inside = (whole >= limits.min) & (whole <= limits.max)
    assert 0 < inside.mean() < 1
    np.testing.assert_allclose(slope.numpy(), inside, rtol=1e-6)  # through the rounding, not through saturation


def test_onnx_stored_integers_are_dequantised_once():
    weights = np.random.default_rng(0).integers(-128, 128, (3, 4, 3, 3), dtype=np.int8)
    bias = np.int32([1000, -2000, 30])
    constants = {"w": weights, "ws": np.float32([0.1, 0.02, 0.3]), "wz": np.zeros(3, np.int8), "b": bias,
                 "bs": np.float32(0.001)}  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bf"]),
        helper.make_node("Conv", ["x", "wf", "bf"], ["y"]),
    ]
    model = one_graph(nodes, [("x", TensorProto.FLOAT, X.shape)], constants)
    compare(model, X)
    assert {buffer.dtype for buffer in OnnxModule(model).buffers()} == {torch.float32}


@pytest.mark.parametrize(
    ("attributes", "zero", "words"),
    [
        ({"block_size": 2, "axis": 1}, np.zeros((2, 2, 6, 6), np.int8), "by blocks"),
        ({"output_dtype": TensorProto.INT8}, None, "output_dtype"),
        ({}, np.int16(0), "int16"),
    ],
)
def test_onnx_quantisations_without_a_form_are_refused(attributes, zero, words):
    constants = {"s": np.float32(0.1)} | ({} if zero is None else {"z": zero})
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *constants], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", *constants], ["y"]),
    ]
    module = OnnxModule(one_graph(nodes, [("x", TensorProto.FLOAT, X.shape)], constants, opset=21))
    with pytest.raises(ValueError, match=words):
        module(torch.from_numpy(X))


def test_a_graph_of_two_inputs_is_refused():
    node = helper.make_node("Add", ["x", "z"], ["y"])
    inputs = [("x", TensorProto.FLOAT, (2,)), ("z", TensorProto.FLOAT, (2,))]
    with pytest.raises(ValueError, match="2 inputs"):
        OnnxModule(one_graph([node], inputs, {}))


def test_every_operator_of_the_table_is_compared():
    from immunecam.training import onnx_module

    parametrised = next(m for m in test_onnx_operators.pytestmark if m.name == "parametrize").args[1]
    elsewhere = {"ConstantOfShape", "DequantizeLinear", "Gemm", "QuantizeLinear", "Sqrt", "Where"}
    assert {case[0] for case in parametrised} | elsewhere == set(onnx_module._OPERATORS)


def test_unknown_onnx_operator_is_named(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"], name="odd")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "a.onnx")
    with pytest.raises(InputError, match="Det"):
        OnnxModule.load(tmp_path / "a.onnx")


@settings(deadline=None, max_examples=20)
@given(st.floats(0.5, 20), st.integers(1, 3), st.booleans(), st.sampled_from([0.0, 1.0]))
def test_attacks_stay_in_their_budget(level, steps, random_start, momentum):
    torch.manual_seed(0)
    faces = from_uint8(torch.randint(0, 256, (2, 8, 8), dtype=torch.uint8))
    levels = torch.tensor([level, level / 2])
    attacked = pgd(
        lambda x: x.flatten(1).sum(1), faces, levels / 127.5, steps=steps, random_start=random_start, momentum=momentum
    )
    change = ((attacked - faces) * 127.5).abs().flatten(1).amax(1)
    # A budget between two grey levels may be rounded up to the next.
    assert (change <= levels + 0.5 + 1e-3).all()
    torch.testing.assert_close(round_to_8bit(attacked), attacked)
    assert attacked.abs().max() <= 1


def test_attacks_reach_their_goals(recognizer, faces):
    torch.manual_seed(0)
    clean = next(faces.batches(6))
    with torch.no_grad():
        own = recognizer(clean)
    target = own.roll(1, 0)

    def reached(goal, attacked):
        with torch.no_grad():
            return goal(attacked).mean().item()

    for goal in (dodging(recognizer, own), impersonation(recognizer, target)):
        before = reached(goal, clean)
        # One step of the full budget may overshoot where the recogniser is this small, so it gets a small one.
        for attacked in (fgsm(goal, clean, 1 / 127.5), pgd(goal, clean, 8 / 127.5, steps=10)):
            assert reached(goal, attacked) > before
    with pytest.raises(ValueError, match="steps"):
        pgd(goal, clean, 0.1, steps=0)


def test_pgd_breaks_an_undefended_recogniser(shared_data):
    recognizer = Recognizer.load(shared_data / "recognizers" / "mobilefacenet_y1.torchscript.pt")
    with zipfile.ZipFile(shared_data / "lfw" / "dev_112.zip") as archive:
        names = sorted(archive.namelist())[:400:100]
        pixels = [cv2.imdecode(np.frombuffer(archive.read(n), np.uint8), cv2.IMREAD_GRAYSCALE) for n in names]
    clean = from_uint8(torch.from_numpy(np.stack(pixels)))
    with torch.no_grad():
        own = recognizer(clean)
    attacked = pgd(dodging(recognizer, own), clean, 8 / 127.5, steps=10)
    with torch.no_grad():
        assert (recognizer(attacked) * own).sum(1).max() < 0.1


def test_budget_is_kept_to_the_grey_level():
    """A whole number of grey levels is a bound on the 8-bit picture itself, for every face its own."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (5, 8, 8), dtype=torch.uint8)
    faces = from_uint8(pixels)
    levels = torch.tensor([0, 1, 4, 8, 16])
    for random_start in (False, True):
        attacked = pgd(
            lambda x: (x.flatten(1) * torch.arange(-32, 32)).sum(1),
            faces,
            levels / 127.5,
            steps=3,
            random_start=random_start,
        )
        stored = to_uint8(attacked)
        torch.testing.assert_close(from_uint8(stored), attacked)  # the attack is what a picture file holds
        change = (stored.int() - pixels.int()).abs().flatten(1).amax(1)
        assert (change <= levels).all()
        assert change.tolist()[-1] == 16
        assert not attacked.requires_grad


def test_an_attack_leaves_the_recogniser_and_the_face_alone(recognizer, faces):
    clean = next(faces.batches(3))
    before = clean.clone(), {n: v.clone() for n, v in recognizer.state_dict().items()}
    with torch.no_grad():
        own = recognizer(clean)
        pgd(dodging(recognizer, own), clean, 8 / 127.5, steps=2)  # even where gradients are switched off
    assert torch.equal(clean, before[0])
    assert all(torch.equal(v, before[1][n]) for n, v in recognizer.state_dict().items())
    assert all(p.grad is None for p in recognizer.parameters())


def test_fgsm_is_the_sign_of_the_gradient():
    faces = from_uint8(torch.full((1, 2, 2), 100, dtype=torch.uint8))
    slope = torch.tensor([[[1.0, -2.0], [0.0, 0.5]]])
    attacked = fgsm(lambda x: (x * slope).sum((1, 2)), faces, 5.1 / 127.5)
    assert to_uint8(attacked).int().tolist() == [[[105, 95], [100, 105]]]


def test_damaged_archives(faces, tmp_path):
    """A zip that lists its pictures and cannot give them is one sentence too."""
    good = cv2.imencode(".png", faces.pixels[0].numpy())[1].tobytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a/1.png", good)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(data)
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with zipfile.ZipFile(tmp_path / "void.zip", "w") as archive:
        archive.writestr("a/1.png", b"")
    for name, words in (("flipped", "cannot be read"), ("cut", "neither"), ("void", "not a readable picture")):
        with pytest.raises(InputError, match=words) as caught:
            FaceSet.load(tmp_path / f"{name}.zip")
        assert "\n" not in str(caught.value)


def test_colour_becomes_grey_and_folders_may_be_named_like_pictures(faces, tmp_path):
    (tmp_path / "odd.png").mkdir()
    colour = np.repeat(faces.pixels[0].numpy()[..., None], 3, 2)
    cv2.imwrite(str(tmp_path / "odd.png" / "a.PNG"), colour)
    loaded = FaceSet.load(tmp_path)
    assert loaded.names == ("odd.png/a.PNG",)
    assert loaded.pixels.dtype == torch.uint8
    assert torch.equal(loaded.pixels[0], faces.pixels[0])


def test_a_recogniser_sees_bgr_in_0_to_255():
    class Seen(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x.amin((1, 2, 3)), x.amax((1, 2, 3)), x[:, 2].mean((1, 2)) - x[:, 0].mean((1, 2))], 1)

    face = torch.full((1, 112, 112), 1.0)
    face[:, :56] = -1.0
    embedding = Recognizer(Seen())(face)[0]
    torch.testing.assert_close(embedding, torch.tensor([0.0, 1.0, 0.0]))  # min 0, max 255, channels alike
