"""Bundles that compute in int8: what TensorRT takes, the same numbers on a CPU, and none that costs too much."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from small_liveness import small_graph, small_record

from immunecam.errors import InputError, UsageError
from immunecam.export.build_options import BuildOptions
from immunecam.export.card_graph import card_graph
from immunecam.export.layer_sensitivity import quantised_as_far_as_borne
from immunecam.export.quantisation import is_quantised, layers_of
from immunecam.export.quantised_bundle import Figure, quantize_bundle
from immunecam.export.to_trt import check_bundle, export_plans
from immunecam.kernels import project, quantize_faces, uniforms
from immunecam.kernels.pixels import dequantize_faces
from immunecam.runtime.bundle import Bundle, read_bundle
from immunecam.runtime.bundle_liveness import put_liveness
from immunecam.runtime.bundle_masking import put_masking
from immunecam.runtime.engines import OnnxRuntimeEngine

LIMITS = {"analyzer": 0.05, "restorer": 3.0}


def smooth_faces(count, seed=0):
    import cv2

    rng = np.random.default_rng(seed)
    faces = [cv2.resize(rng.uniform(-0.8, 0.8, (8, 8)).astype(np.float32), (112, 112)) for _ in range(count)]
    return np.stack(faces)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    from tensorrt_stand_in.small_bundle import small_bundle

    return small_bundle(tmp_path_factory.mktemp("source") / "a.immune")


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "int8.immune"
    return quantize_bundle(source, path, smooth_faces(6), smooth_faces(4, 1), limits=LIMITS)


def test_the_manifest_says_what_was_measured(source, made):
    bundle, networks, cost = made
    assert dict(bundle.manifest.precision) == {"basis": "fp32", "analyzer": "int8", "restorer": "int8"}
    record = bundle.manifest.provenance["quantisation"]
    assert record["source_sha256"] == source.sha256
    assert record["calibration_faces"] == 6
    for role, network in networks.items():
        layers = record["networks"][role]["layers"]
        assert sorted(row["layer"] for row in layers) == sorted(
            {"analyzer": ["linear"], "restorer": ["conv1", "conv2"]}[role]
        )
        assert [row["error"] for row in layers] == sorted((row["error"] for row in layers), reverse=True)
        assert 0 < network.error <= network.limit
    assert 0 < cost.mean_abs_p <= cost.max_abs_p < 0.1
    assert 0 < cost.rms_grey_levels <= cost.max_grey_levels
    assert record["cost"]["rms_grey_levels"] == cost.rms_grey_levels
    assert bundle.files["subspace.safetensors"] == source.files["subspace.safetensors"]


def test_optional_parts_go_along(source, tmp_path):
    pytest.importorskip("torch")
    from small_masking import KEY, small_export, small_recognizer

    exported, record = small_export(small_recognizer())
    pair = [tmp_path / name for name in ("float.immune", "int8.immune")]
    for path in pair:
        shutil.copytree(source.path, path)
    put_liveness(pair[1], small_graph(), small_record(0.3))
    masked = put_masking(pair[1], exported.graphs, record, KEY).manifest.masking
    faces = (smooth_faces(2), smooth_faces(2, 1))
    # One that has none is written over one that has, and the other way round.
    kept, _, _ = quantize_bundle(Bundle.load(pair[0]), pair[1], *faces, limits=LIMITS, overwrite=True)
    assert kept.manifest.liveness.threshold == 0.3
    assert kept.manifest.masking == masked
    put_liveness(pair[0], small_graph(), small_record(0.6))
    brought, _, _ = quantize_bundle(Bundle.load(pair[0]), pair[1], *faces, limits=LIMITS, overwrite=True)
    assert brought.manifest.liveness.threshold == 0.6
    assert brought.files[brought.manifest.liveness.file] == small_graph()
    assert brought.manifest.masking == masked
    (pair[1] / masked.graphs["picture"]).unlink()
    with pytest.raises(InputError, match=r"masking part's file .* cannot be kept \(No such file"):
        quantize_bundle(Bundle.load(pair[0]), pair[1], *faces, limits=LIMITS, overwrite=True)
    put_masking(pair[0], exported.graphs, record, KEY)
    own, _, _ = quantize_bundle(Bundle.load(pair[0]), pair[1], *faces, limits=LIMITS, overwrite=True)
    assert own.manifest.masking == masked


def test_an_attacker_gets_a_gradient_through_what_is_deployed(made):
    """The graphs' own numbers, rounded where they round, and a slope that rounding does not stop."""
    torch = pytest.importorskip("torch")
    import onnxruntime

    from immunecam.training.deployed import purification_from_bundle

    bundle, _, _ = made
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

    def deployed(role, *inputs):
        session = onnxruntime.InferenceSession(bytes(bundle.graph(role)), options)
        return session.run(None, {item.name: x for item, x in zip(session.get_inputs(), inputs, strict=True)})[0]

    faces = smooth_faces(3, 2)
    purification = purification_from_bundle(bundle)
    asked = torch.from_numpy(faces).requires_grad_(True)
    p = purification.analyze(asked)
    np.testing.assert_allclose(p.detach().numpy(), deployed("analyzer", faces), atol=1e-5)
    projected = faces[::-1].copy()
    restored = purification.restore(asked, torch.from_numpy(projected))
    np.testing.assert_allclose(restored.detach().numpy(), deployed("restorer", faces, projected), atol=1e-5)
    for result in (p, restored - asked):
        (slope,) = torch.autograd.grad(result.square().sum(), asked)
        assert torch.isfinite(slope).all()
        assert (slope.flatten(1).abs().sum(1) > 0).all()


def test_graphs_are_those_that_tensorrt_takes(made):
    """Symmetric int8 with zero points of 0, weights with a scale for every output, biases in floating point."""
    bundle, _, _ = made
    for role in ("analyzer", "restorer"):
        graph = onnx.load_from_string(bundle.graph(role)).graph
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        assert not [t.name for t in graph.initializer if t.data_type in (TensorProto.UINT8, TensorProto.INT32)]
        between = [node for node in graph.node if node.op_type.endswith("quantizeLinear") or "Quantize" in node.op_type]
        assert between
        for node in between:
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
            weight = constants.get(node.input[0])
            assert weight is None or constants[node.input[1]].shape == (weight.shape[0],)
    for check in check_bundle(bundle.path, BuildOptions("fp16", (1, 2, 4))).values():
        assert check.unsupported == ()
        assert {row.types for row in check.operators if row.operator in ("Conv", "Gemm")} == {"float32"}
        assert "QuantizeLinear" in {row.operator for row in check.operators}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_card_gets_them_as_they_are(made, precision):
    bundle, _, _ = made
    assert is_quantised(card_graph(bundle, "restorer", precision))


def test_plans_of_it_are_int8_whatever_is_asked(world, stand_in, made, tmp_path):
    copied = shutil.copytree(made[0].path, tmp_path / "c.immune")
    faces = stand_in.crops(tmp_path / "faces")
    stored, exported = export_plans(copied, BuildOptions("fp16", (1, 2, 4)), faces=faces)
    assert [(plan.role, plan.key.precision) for plan in stored.manifest.plans] == [
        ("analyzer", "int8"),
        ("restorer", "int8"),
    ]
    assert all(plan.plan_parity.largest < 1e-3 for plan in exported)  # the stand-in is a CPU: nothing differs


def test_the_whole_purifier_gives_the_same_numbers(made):
    """It has uint8 activations, and its parts are those of the two other files."""
    bundle, _, _ = made
    kinds = {t.data_type for t in onnx.load_from_string(bundle.graph("purifier")).graph.initializer if not t.dims}
    assert TensorProto.UINT8 in kinds
    assert TensorProto.INT8 not in kinds
    faces, engine = smooth_faces(5, 2), OnnxRuntimeEngine.from_bundle(bundle, provider="cpu")
    drawn = uniforms(0, np.arange(5), 1, bundle.k)[:, 0]
    purified, p = engine.purify(faces, drawn, False)
    assert np.abs(p - engine.analyze(faces)).max() < 1e-6
    projected = dequantize_faces(project(faces, drawn < p, bundle.subspace))
    apart = quantize_faces(engine.restore(faces, projected))
    assert np.abs(purified.astype(int) - apart).max() <= 1


def test_the_source_is_close(source, made):
    bundle, _, cost = made
    faces = smooth_faces(5, 3)
    before, after = (
        OnnxRuntimeEngine.from_bundle(b, provider="cpu", whole=False).analyze(faces) for b in (source, bundle)
    )
    assert 0 < np.abs(before - after).max() < 2 * cost.max_abs_p


def test_layers_stay_in_float_until_the_limit_holds(source):
    graph = source.graph("restorer")
    assert layers_of(graph) == ("conv1", "conv2")
    feeds = {"faces": smooth_faces(4), "projected": smooth_faces(4, 1)}

    def harm(limit):
        return quantised_as_far_as_borne(
            graph,
            "restored",
            calibration=feeds,
            trial=feeds,
            measure=lambda before, after: float(np.abs(before - after).max()),
            limit=limit,
        )

    loose = harm(10.0)
    assert all(layer.quantised for layer in loose.layers)
    first, second = loose.layers
    assert first.error > second.error > 0
    between = harm(1.01 * second.error)
    assert [layer.quantised for layer in between.layers] == [False, True]
    assert between.worst == between.layers[1]
    assert between.error == pytest.approx(second.error)
    none = harm(0.0)
    assert none.worst is None
    assert none.graph == graph


def test_a_loss_of_recognition_is_refused_with_the_layer(source, tmp_path):
    path = tmp_path / "b.immune"

    def judge(before, after):
        assert before is source
        assert after.manifest.precision["analyzer"] == "int8"
        return [Figure("r1, clean, same pairs", 99.0, 99.5), Figure("r1, attack, same pairs", 95.0, 94.25)]

    with pytest.raises(
        InputError, match=r"0\.75 points of r1, attack.*allowed are 0\.5.*comes from conv\d \(w\d\) of the restorer"
    ):
        quantize_bundle(source, path, smooth_faces(4), smooth_faces(4, 1), judge=judge, limits=LIMITS)
    assert not list(tmp_path.iterdir())
    bundle, _, cost = quantize_bundle(
        source, path, smooth_faces(4), smooth_faces(4, 1), judge=judge, limits=LIMITS, most_points=0.75
    )
    assert [figure.cost for figure in cost.figures] == [-0.5, 0.75]
    assert bundle.manifest.provenance["quantisation"]["cost"]["figures"][1]["after"] == 94.25


def test_a_network_that_bears_nothing_stays_as_it_is(source, tmp_path):
    limits = {"analyzer": 0.0, "restorer": 3.0}
    bundle, networks, cost = quantize_bundle(
        source, tmp_path / "b.immune", smooth_faces(4), smooth_faces(4, 1), limits=limits
    )
    assert networks["analyzer"].worst is None
    assert dict(bundle.manifest.precision) == {"basis": "fp32", "analyzer": "fp32", "restorer": "int8"}
    assert cost.max_abs_p < 1e-6


def test_of_networks_that_were_trained_for_int8_recognition_decides(source, tmp_path):
    folder = tmp_path / "trained.immune"
    shutil.copytree(source.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["provenance"] = {"config": {"quantisation_aware": True}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    trained, faces = Bundle.load(folder), (smooth_faces(4), smooth_faces(4, 1))

    def borne(bundle, name, **options):
        _, networks, _ = quantize_bundle(bundle, tmp_path / name, *faces, **options)
        return {role: network.limit for role, network in networks.items()}

    judge = {"judge": lambda before, after: [Figure("r1", 99.0, 98.9)]}
    assert borne(trained, "a.immune", **judge) == {"analyzer": None, "restorer": None}
    record = Bundle.load(tmp_path / "a.immune").manifest.provenance["quantisation"]["networks"]
    assert all(layer["quantised"] for network in record.values() for layer in network["layers"])
    assert all(limit is not None for limit in borne(trained, "b.immune").values())  # nobody judges
    assert all(limit is not None for limit in borne(source, "c.immune", **judge).values())


def test_what_cannot_be_quantised(source, made, tmp_path):
    faces = smooth_faces(4)
    with pytest.raises(InputError, match=r"no layer of .* bears int8"):
        quantize_bundle(source, tmp_path / "b.immune", faces, faces, limits={"analyzer": 0.0, "restorer": 0.0})
    with pytest.raises(InputError, match="in int8 already"):
        quantize_bundle(made[0], tmp_path / "b.immune", faces, faces, limits=LIMITS)
    with pytest.raises(UsageError, match="1 faces to measure"):
        quantize_bundle(source, tmp_path / "b.immune", faces, faces[:1], limits=LIMITS)
    assert not list(tmp_path.iterdir())


def test_an_int8_bundle_is_a_bundle(made, tmp_path):
    copied = shutil.copytree(made[0].path, tmp_path / "c.immune")
    assert read_bundle(copied, None).sha256 == made[0].sha256
    assert isinstance(Bundle.load(copied), Bundle)
