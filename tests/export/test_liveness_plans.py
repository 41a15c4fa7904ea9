"""TensorRT plans of a liveness network, on stand-ins for 10.3, 10.16 and 11: no TensorRT is tested, and no GPU."""

from __future__ import annotations

import json
import shutil
import sys
import threading

import numpy as np
import onnx
import pytest

pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")

from small_liveness import small_graph, small_record

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.export.build_options import BuildOptions
from immunecam.export.card_graph import card_graph
from immunecam.export.quantisation import quantised
from immunecam.export.to_trt import check_bundle, export_plans
from immunecam.export.unsigned_activations import unsigned_activations
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.bundle_liveness import put_liveness
from immunecam.runtime.bundle_manifest import BundleManifest
from immunecam.runtime.bundle_parts import kept_parts
from immunecam.runtime.liveness import LivenessDetector
from immunecam.runtime.part_network import part_provider

SIDE = 64


def convolving() -> bytes:
    """ONNX: a convolution, its mean and a sigmoid; something to quantise."""
    rng = np.random.default_rng(0)
    h, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        h.make_node("Conv", ["faces", "w"], ["wide"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        h.make_node("Relu", ["wide"], ["bent"], name="relu"),
        h.make_node("Conv", ["bent", "v"], ["one"], name="last", pads=[1, 1, 1, 1]),
        h.make_node("ReduceMean", ["one", "axes"], ["logit"], name="mean", keepdims=0),
        h.make_node("Sigmoid", ["logit"], ["scores"], name="sigmoid"),
    ]
    constants = [
        onnx.numpy_helper.from_array((0.3 * rng.standard_normal((6, 3, 3, 3))).astype(np.float32), "w"),
        onnx.numpy_helper.from_array(rng.standard_normal((1, 6, 3, 3)).astype(np.float32), "v"),
        onnx.numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"),
    ]
    inputs = [h.make_tensor_value_info("faces", kind, ["N", 3, SIDE, SIDE])]
    outputs = [h.make_tensor_value_info("scores", kind, ["N"])]
    model = h.make_model(h.make_graph(nodes, "g", inputs, outputs, constants), opset_imports=[h.make_opsetid("", 20)])
    model.ir_version = 9
    return model.SerializeToString()


def in_int8() -> bytes:
    """The same as `immunecam liveness export` stores it: uint8 activations, for a CPU."""
    faces = np.random.default_rng(1).uniform(-1, 1, (4, 3, SIDE, SIDE)).astype(np.float32)
    model = onnx.load_from_string(quantised(convolving(), {"faces": faces}))
    kept = unsigned_activations(model.graph.node, list(model.graph.initializer))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model.SerializeToString()


@pytest.fixture
def door(stand_in, tmp_path):
    """A small bundle with a liveness network."""
    bundle = stand_in.small_bundle(tmp_path / "a.immune")
    return put_liveness(bundle.path, small_graph(SIDE), small_record(side=SIDE))


@pytest.fixture
def faces(stand_in, tmp_path):
    return stand_in.crops(tmp_path / "faces", 3)


def crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (count, SIDE, SIDE, 3), np.uint8)


def test_a_plan_says_what_onnx_runtime_does(world, door, faces):
    stored, exported = export_plans(door.path, BuildOptions("fp16", (1, 2, 4)), faces=faces)
    assert [made.report.role for made in exported] == ["analyzer", "restorer", "liveness"]
    assert (exported[2].plan_parity.unit, exported[2].plan_parity.faces) == ("probability", 3)
    (plan,) = stored.manifest.liveness.plans
    assert (plan.role, plan.key.precision, plan.key.batch) == ("liveness", "fp16", (1, 2, 4))
    assert plan.key.onnx_sha256 == stored.manifest.files[stored.manifest.liveness.file].sha256
    # Versions that know of no such plan read the bundle as before.
    assert {entry.role for entry in stored.manifest.plans} == {"analyzer", "restorer"}
    on_cpu, on_card = LivenessDetector(stored, threads=1), LivenessDetector(stored, provider="tensorrt")
    assert "liveness_provider" not in on_cpu.about
    assert on_card.about["liveness_provider"] == "tensorrt"
    for count in (1, 3, 4, 11):
        np.testing.assert_allclose(on_card.scores(crops(count)), on_cpu.scores(crops(count)), atol=5e-3)
    assert on_card.scores(crops(0)).shape == (0,)
    held = len(world.contexts)
    on_card.close()
    on_card.close()
    assert len(world.contexts) < held
    with pytest.raises(UsageError, match="was closed"):
        on_card.scores(crops(1))
    on_cpu.close()


def test_batches_that_the_plan_does_not_take_are_filled(world, door, faces):
    stored, _ = export_plans(door.path, BuildOptions("fp32", (3, 3, 5)), faces=faces)
    on_card = LivenessDetector(stored, provider="tensorrt")
    wanted = LivenessDetector(stored, threads=1).scores(crops(7))
    world.launches.clear()
    np.testing.assert_allclose(on_card.scores(crops(7)), wanted, atol=1e-5)
    np.testing.assert_allclose(on_card.scores(crops(7)[:1]), wanted[:1], atol=1e-5)
    assert [launch[2]["faces"][0] for launch in world.launches] == [5, 3, 3]
    found = {}

    def another():
        world.current.discard(threading.get_ident())
        found["scores"] = on_card.scores(crops(2))

    thread = threading.Thread(target=another)  # a card is made current where it is used
    thread.start()
    thread.join()
    np.testing.assert_allclose(found["scores"], wanted[:2], atol=1e-5)


def test_int8_for_a_cpu_is_int8_for_a_card(world, door, faces):
    bundle = put_liveness(door.path, in_int8(), small_record(side=SIDE))
    graph = onnx.load_from_string(card_graph(bundle, "liveness", "fp16"))
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    zeros = [constants[node.input[2]] for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    assert zeros
    for zero in zeros:
        assert zero.data_type == onnx.TensorProto.INT8
        assert not np.any(onnx.numpy_helper.to_array(zero))
    assert onnx.TensorProto.UINT8 not in {tensor.data_type for tensor in graph.graph.initializer}
    stored, exported = export_plans(bundle.path, BuildOptions("fp16", (1, 2, 4)), faces=faces)
    assert stored.manifest.liveness.plans[0].key.precision == "int8"
    assert exported[2].graph_parity.largest < 1e-5  # the same numbers, not only near ones
    assert not check_bundle(bundle.path)["liveness"].unsupported


def test_plans_go_where_the_network_goes(world, door, faces, tmp_path):
    options = BuildOptions("fp32", (1, 2, 4))
    stored, _ = export_plans(door.path, options, faces=faces)
    again, _ = export_plans(door.path, options, faces=faces)
    assert len(again.manifest.liveness.plans) == 1  # the same key is replaced
    parts, files = kept_parts(door.path)
    record = parts["liveness"]
    assert set(files) == {record.file, record.plans[0].file}
    (door.path / record.plans[0].file).write_bytes(b"other")
    with pytest.raises(InputError, match="cannot be kept"):
        kept_parts(door.path)
    shutil.rmtree(door.path)
    assert kept_parts(door.path) == ({}, {})
    content = json.loads(stored.manifest_bytes)
    content["liveness"]["plans"][0]["role"] = "analyzer"
    with pytest.raises(InputError, match=r"liveness.plans\[0\].role is 'analyzer', but it must be one of liveness"):
        BundleManifest.from_bytes(json.dumps(content).encode(), "m")
    content["liveness"]["plans"][0] |= {"role": "liveness", "file": "no.plan"}
    with pytest.raises(InputError, match=r"liveness.plans\[0\].file is 'no.plan'"):
        BundleManifest.from_bytes(json.dumps(content).encode(), "m")


def test_another_network_has_no_plan(world, door, faces):
    stored, _ = export_plans(door.path, BuildOptions("fp32", (1, 2, 4)), faces=faces)
    plan = stored.manifest.liveness.plans[0].file
    changed = put_liveness(door.path, small_graph(80), small_record(side=80))
    assert changed.manifest.liveness.plans == ()
    assert not (door.path / plan).exists()
    assert changed.manifest.plans == stored.manifest.plans
    with pytest.raises(InputError, match=r"no TensorRT plan of its liveness .*: run 'immunecam export .* --target"):
        LivenessDetector(changed, provider="tensorrt")
    LivenessDetector(changed, provider="cpu")


def test_what_is_asked_for_is_what_runs(door, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendMissingError, match="TensorRT"):
        LivenessDetector(door, provider="tensorrt")
    with pytest.raises(UsageError, match="cpu or tensorrt, but 'cuda' was asked for"):
        LivenessDetector(door, provider="cuda")
    assert [part_provider(name) for name in ("auto", "cpu", "cuda", "tensorrt")] == [
        "cpu",
        "cpu",
        "cpu",
        "tensorrt",
    ]
    assert Bundle.load(door.path).manifest.liveness.plans == ()
