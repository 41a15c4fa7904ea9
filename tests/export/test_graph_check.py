"""`--check`: what is said of graphs where there is no TensorRT; and the inspector's JSON of versions 10 and 11."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.export.build_options import BuildOptions
from immunecam.export.card_graph import card_graph, card_roles
from immunecam.export.graph_check import check_graph
from immunecam.export.plan_parity import LIMITS, OUTPUTS, PlanParity, Reference, run_graph
from immunecam.export.plan_report import report_from_inspector
from immunecam.export.plan_tables import print_plan
from immunecam.export.real_faces import real_faces
from immunecam.export.tensorrt_operators import ALWAYS, LATER
from immunecam.export.to_trt import check_bundle, main
from immunecam.runtime.bundle import Bundle, default_bundle

without_tensorrt = pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed")
SCRIPT = Path(__file__).parents[2] / "export" / "to_trt.py"
H = onnx.helper


def graph_of(nodes, inputs, outputs, constants=None, dtype=onnx.TensorProto.FLOAT):
    graph = H.make_graph(
        nodes,
        "g",
        [H.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [H.make_tensor_value_info(name, dtype, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return H.make_model(graph, opset_imports=[H.make_opsetid("", 20)], ir_version=9).SerializeToString()


def test_memory_is_what_a_hand_adds_up():
    """x -> a -> b -> y, and x again at the end: at most x, a and b are there at once."""
    nodes = [
        H.make_node("Concat", ["x", "x"], ["a"], axis=1),  # 2 units
        H.make_node("Concat", ["a", "x"], ["b"], axis=1),  # 3 units; x is wanted later: 1 + 2 + 3
        H.make_node("ReduceMax", ["b", "axis"], ["c"], keepdims=1),
        H.make_node("Mul", ["c", "w"], ["d"]),
        H.make_node("Add", ["d", "x"], ["y"]),
    ]
    constants = {"axis": np.array([1]), "w": np.ones((1, 5), np.float32)}
    check = check_graph(graph_of(nodes, {"x": ["N", 5]}, {"y": ["N", 5]}, constants), 7, "it")
    unit = 4 * 7 * 5
    assert check.activations_bytes == 6 * unit
    assert check.weights_bytes == 8 + 20
    assert [row.shape for row in check.inputs] == [(7, 5)]
    assert {row.name: row.bytes for row in check.values}["b"] == 3 * unit
    assert check.unknown_shapes == ()


def test_operators_by_support_and_types():
    nodes = [
        H.make_node("Gelu", ["x"], ["a"]),
        H.make_node("Cast", ["a"], ["b"], to=onnx.TensorProto.FLOAT16),
        H.make_node("Relu", ["b"], ["c"]),
        H.make_node("Cast", ["c"], ["d"], to=onnx.TensorProto.FLOAT),
        H.make_node("Det", ["d"], ["y"]),
    ]
    check = check_graph(graph_of(nodes, {"x": ["N", 3, 3]}, {"y": ["N"]}), 2, "it")
    found = {(row.operator, row.types): row.support for row in check.operators}
    assert found == {
        ("Gelu", "float32"): "later",
        ("Cast", "float32 > float16"): "yes",
        ("Relu", "float16"): "yes",
        ("Cast", "float16 > float32"): "yes",
        ("Det", "float32"): "no",
    }
    assert check.unsupported == ("Det",)


def test_graph_that_is_none():
    with pytest.raises(InputError, match="it is not accepted by onnx"):
        check_graph(b"\xff\xff\xff", 1, "it")
    bad = graph_of([H.make_node("MatMul", ["x", "x"], ["y"])], {"x": ["N", 5]}, {"y": ["N", 5]})
    with pytest.raises(InputError, match="it is not accepted by onnx"):
        check_graph(bad, 3, "it")


def test_tables_do_not_overlap():
    assert not ALWAYS & LATER
    assert {"Conv", "Gemm", "QuantizeLinear", "DequantizeLinear", "Resize"} <= ALWAYS
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    theirs = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}  # of ONNX before its first release
    assert (ALWAYS | LATER) - theirs <= known | {"Attention", "RMSNormalization", "RotaryEmbedding"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_shipped_bundle(precision):
    checks = check_bundle(default_bundle(), BuildOptions(precision, (1, 8, 16)))
    assert set(checks) == {"analyzer", "restorer"}
    for role, check in checks.items():
        assert check.unsupported == ()
        assert check.unknown_shapes == ()
        assert all(row.support == "yes" for row in check.operators), role
        assert {row.dtype for row in (*check.inputs, *check.outputs)} == {"float32"}
        assert check.inputs[0].shape == (16, 112, 112)
        convolutions = {row.types for row in check.operators if row.operator == "Conv"}
        assert convolutions == {
            "float16" if precision == "fp16" or (precision, role) == ("int8", "restorer") else "float32"
        }
    weights = checks["analyzer"].weights_bytes / 1_782_840  # of the file, which stores most of it in half precision
    assert {"fp32": 1.9 < weights < 2.1, "fp16": 0.95 < weights < 1.05, "int8": 0.4 < weights < 0.6}[precision]


def test_shipped_conversions_hold_their_limits():
    """Numerics of half precision and int8 on real faces, by ONNX Runtime; and why a restorer is not quantised."""
    bundle = Bundle.load(default_bundle())
    reference = Reference(bundle, real_faces(limit=12))
    for role, precision in (("analyzer", "fp16"), ("restorer", "fp16"), ("analyzer", "int8")):
        graph = card_graph(bundle, role, precision, reference.feeds[role])
        parity = reference.compare(role, precision, run_graph(graph, OUTPUTS[role]), "it")
        assert 0 < parity.largest <= LIMITS[role][precision][0]
    graph = card_graph(bundle, "restorer", "int8", reference.feeds["restorer"])
    with pytest.raises(InputError, match=r"it differs from the bundle's restorer by .* grey level"):
        reference.compare("restorer", "fp16", run_graph(graph, "restored"), "it")


def test_conversions_that_cannot_be():
    bundle = Bundle.load(default_bundle())
    assert card_roles(bundle) == ("analyzer", "restorer")
    with pytest.raises(UsageError, match="fp8"):
        card_graph(bundle, "analyzer", "fp8")
    with pytest.raises(UsageError, match="real faces"):
        card_graph(bundle, "analyzer", "int8")
    with pytest.raises(InputError, match="has no finder: it has analyzer, restorer"):
        card_graph(bundle, "finder", "fp32")


def test_without_onnx(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendMissingError, match=r"immunecam\[tensorrt\]"):
        check_bundle(default_bundle())


def test_a_foreign_operator(stand_in, tmp_path):
    made = stand_in.small_bundle(tmp_path / "a.immune", restorer=False)
    model = onnx.load_from_string(made.files["analyzer.onnx"])
    (sigmoid,) = (node for node in model.graph.node if node.op_type == "Sigmoid")
    sigmoid.op_type, sigmoid.domain = "QuickGelu", "com.microsoft"
    model.opset_import.append(H.make_opsetid("com.microsoft", 1))
    from immunecam.runtime.bundle_writer import write_bundle

    other = write_bundle(
        tmp_path / "b.immune", kind="edge", k=16, files=dict(made.files) | {"analyzer.onnx": model.SerializeToString()},
        graphs=made.manifest.graphs, precision=made.manifest.precision,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"not ONNX's own \(QuickGelu\)"):
        card_graph(other, "analyzer", "fp32")


def test_real_faces(stand_in, tmp_path):
    found = real_faces()
    assert found.shape == (24, 112, 112)
    assert found.dtype == np.float32
    assert 0.5 < np.abs(found).max() <= 1
    crops = real_faces(stand_in.crops(tmp_path / "crops"))
    assert crops.shape == (5, 112, 112)
    assert real_faces(tmp_path / "crops" / "2.png").shape == (1, 112, 112)
    import cv2

    cv2.imwrite(str(tmp_path / "grey.png"), np.full((200, 200, 3), 90, np.uint8))
    with pytest.raises(InputError, match="has no face"):
        real_faces(tmp_path / "grey.png")
    with pytest.raises(InputError):
        real_faces(tmp_path / "gone.mp4")


# The commands, where TensorRT is not


@without_tensorrt
def test_script_without_tensorrt(tmp_path):
    def call(*arguments):
        return subprocess.run(
            [sys.executable, str(SCRIPT), str(default_bundle()), *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    done = call()
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "TensorRT cannot be imported (No module named 'tensorrt')" in done.stderr
    assert "--check" in done.stderr
    done = call("--check", "--precision", "fp32", "--json", "r.json")
    assert done.returncode == 0, done.stderr
    assert "PRelu" in done.stdout
    assert "memory of an engine, estimated" in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == "immunecam.export-tensorrt-check/1"
    assert report["graphs"]["restorer"]["unsupported"] == []
    assert {"graph": "analyzer", "operator": "Conv", "types": "float32", "count": 20, "support": "yes"} in report[
        "rows"
    ]


@without_tensorrt
def test_command_without_tensorrt(tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "immunecam", "export", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    bundle = default_bundle()
    done = call(bundle, "--target", "tensorrt")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    done = call(bundle, "--target", "tensorrt", "--check", "--batch", "1,2,3")
    assert done.returncode == 0, done.stderr
    assert "up to 3 faces" in done.stdout
    for wrong, words in (
        (("--check",), "--check is for --target tensorrt"),
        (("--target", "tensorrt", "--overwrite"), "--overwrite is for --target onnx"),
        (("--target", "tensorrt", "--check", "--batch", "3,2,1"), "none falling"),
        (("--target", "tensorrt", "--check", "--optimization-level", "9"), "0 to 5"),
        (("--target", "moon"), "moon"),
    ):
        done = call(bundle, *wrong)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr


def test_check_of_what_is_no_bundle(tmp_path, capsys):
    assert main([str(tmp_path), "--check"]) == 3
    assert "is not a bundle" in capsys.readouterr().err


# The inspector


def test_inspector_of_10_and_of_11():
    weights = {"Type": "Half", "Count": 1728}
    ten = {
        "Layers": [
            {
                "Name": "conv1", "LayerType": "CaskConvolution", "ParameterType": "Convolution", "Weights": weights,
                "Bias": {"Type": "Float", "Count": 32}, "TacticName": "sm90_xmma_fprop", "TacticValue": "0x1",
                "Outputs": [{"Name": "o", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            },
            {"Name": "reformat", "LayerType": "Reformat", "Outputs": [], "TacticValue": "0x3e8"},
        ],
        "Bindings": ["faces", "probabilities"],
    }  # fmt: skip
    eleven = json.loads(json.dumps(ten))
    eleven["I/O Tensors"] = [{"Name": name, "IOMode": "Input"} for name in eleven.pop("Bindings")]
    eleven["Layers"][0]["Outputs"] = [{"Name": "o", "DataType": "Half", "Format": "kHWC8"}]
    reports = [report_from_inspector(told, role="analyzer", precision="fp16", plan_bytes=9) for told in (ten, eleven)]
    for report in reports:
        assert report.tensors == ("faces", "probabilities")
        conv, reformat = report.layers
        assert (conv.name, conv.kind, conv.tactic) == ("conv1", "Convolution", "sm90_xmma_fprop")
        assert conv.weights_bytes == 2 * 1728 + 4 * 32
        assert (reformat.kind, reformat.tactic, reformat.weights_bytes) == ("Reformat", "0x3e8", 0)
    assert reports[0].layers[0].precision == "Channel major FP16 format where channel % 8 == 0"
    assert reports[1].layers[0].precision == "Half, kHWC8"
    foreign = report_from_inspector(
        {"Layers": [{"Name": "{ForeignNode[conv1...sigmoid]}", "TacticName": "[a]"}], "Bindings": []},
        role="analyzer", precision="fp16", plan_bytes=3 * 2**20,
    )  # fmt: skip
    screen = io.StringIO()
    parity = PlanParity(2, "probability", 1e-4, 1e-5)
    print_plan(Console(file=screen, width=120), foreign, parity, parity)
    assert "{ForeignNode[conv1...sigmoid]}" in screen.getvalue()  # brackets are no markup
    assert "[a]" in screen.getvalue()
    assert "3.00 MiB" in screen.getvalue()
    names = report_from_inspector({"Layers": ["a", "b"]}, role="analyzer", precision="fp32", plan_bytes=0)
    assert [layer.name for layer in names.layers] == ["a", "b"]
    assert names.tensors == ()
