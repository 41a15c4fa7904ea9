"""A bundle computes what its network computes, and stores nothing twice."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from small_liveness import small_graph, small_record
from small_masking import KEY, small_export, small_recognizer

from immunecam.errors import InputError, UsageError
from immunecam.export.basis_precision import subspace_from_eigenspace
from immunecam.export.parity import Parity
from immunecam.export.to_onnx import export_bundle, main, run_folder_of
from immunecam.kernels import mutate, project, uniforms
from immunecam.models import Eigenspace, build_model
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.bundle_liveness import put_liveness
from immunecam.runtime.bundle_masking import put_masking
from immunecam.runtime.engines import OnnxRuntimeEngine
from immunecam.runtime.purifier import Purifier
from immunecam.training.config import Phase, TrainConfig
from immunecam.training.faces import FaceSet
from immunecam.training.trainer import Trainer

K = 24
OPTIONS = {
    "edge": {"width": 8, "dim": 16, "memory_slots": 4},
    "ais": {"dim": 16, "memory_slots": 8},
    "pin": {},
}


def pictures() -> torch.Tensor:
    """Forty smooth faces, uint8 (40, 112, 112)."""
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(40, 1, 12, 12, generator=generator)
    large = torch.nn.functional.interpolate(small, (112, 112), mode="bicubic", align_corners=False)[:, 0]
    return (127 + 50 * large).clamp(0, 255).to(torch.uint8)


def train(kind: str, folder: Path, **options: Any) -> Path:
    faces = FaceSet(pictures(), tuple(str(n) for n in range(40)))
    phases = (Phase("warm-up", steps=2),)
    config = TrainConfig(
        kind=kind,
        k=K,
        model_options=OPTIONS[kind] | options,
        phases=phases,
        batch=4,
        clones=2,
        estimator="straight-through",
        optimizer="adam",
        lr=1e-4 if kind == "pin" else 1e-2,
        identity_weight=0.0,
    )
    trainer = Trainer(config, faces, [], folder)
    if kind == "pin":
        # Without normalisation next to nothing of a face gets through layers that are hardly trained.
        for network in (trainer.network, trainer.slow.network):
            _amplify(network.autoencoder, 2.4)
            _amplify(network.esn, 1.5)
    trainer.run()
    return folder


@torch.no_grad()
def _amplify(network: torch.nn.Module, gain: float) -> None:
    for layer in network.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            layer.weight *= gain


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train("edge", tmp_path_factory.mktemp("run") / "a.run")


@pytest.fixture(scope="module")
def exported(run) -> Path:
    path = run.with_name("a.immune")
    assert run_folder_of(path) == run
    export_bundle(run, path)
    return path


@pytest.fixture(scope="module")
def restoring(tmp_path_factory) -> Path:
    """A bundle with a restorer that does something."""
    run = train(
        "edge",
        tmp_path_factory.mktemp("restoring") / "a.run",
        restorer={"widths": [8, 12], "depths": [1, 1], "sees_noise": True, "separable": True},
    )
    path = run.with_name("a.immune")
    export_bundle(run, path)
    return path


@pytest.fixture(scope="module")
def of_kind(tmp_path_factory) -> Callable[[str], tuple[Bundle, Parity]]:
    """A bundle of a kind and its parity, each made once."""

    @functools.cache
    def make(kind: str) -> tuple[Bundle, Parity]:
        run = train(kind, tmp_path_factory.mktemp(kind) / "a.run")
        return export_bundle(run, run.with_name("a.immune"))

    return make


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_basis_formats(run, tmp_path, precision):
    bundle, parity = export_bundle(run, tmp_path / "a.immune", precision=precision)
    assert max(parity.max_abs_p_random, parity.max_abs_p_real) < 1e-4
    assert parity.max_grey_levels <= 1
    assert parity.basis_rms_grey_levels < {"fp32": 0.01, "fp16": 0.1, "int8": 1.0}[precision]
    assert bundle.manifest.precision["basis"] == precision
    assert bundle.manifest.parity["max_abs_p_real"] == parity.max_abs_p_real
    assert bundle.manifest.provenance["steps_done"] == 2
    assert bundle.subspace.basis.dtype == {"fp32": "float32", "fp16": "float16", "int8": "int8"}[precision]


@pytest.mark.parametrize("kind", ["ais", "pin"])
def test_other_kinds(kind, of_kind):
    bundle, parity = of_kind(kind)
    assert bundle.manifest.kind == kind
    assert parity.max_grey_levels <= 1


@pytest.mark.parametrize("weights", ["fp16", "int8"])
def test_stored_weights(restoring, tmp_path, weights):
    """Smaller files, the same arithmetic, and the change is measured."""
    run = run_folder_of(restoring)
    exact = Bundle.load(restoring)
    bundle, parity = export_bundle(run, tmp_path / "a.immune", weights=weights)
    assert bundle.manifest.precision["analyzer"] == bundle.manifest.precision["restorer"] == weights
    size = {name: len(b.files["analyzer.onnx"]) for name, b in (("exact", exact), ("stored", bundle))}
    assert size["stored"] < size["exact"] * {"fp16": 0.75, "int8": 0.6}[weights]
    assert 0 < parity.weights_mean_abs_p < {"fp16": 1e-3, "int8": 2e-2}[weights]
    assert parity.weights_rms_grey_levels < {"fp16": 3, "int8": 10}[weights]
    faces = np.random.default_rng(0).integers(0, 256, (2, 112, 112)).astype(np.uint8)
    whole = Purifier.load(bundle, mutation="expected")
    split = Purifier(bundle, OnnxRuntimeEngine.from_bundle(bundle, whole=False), mutation="expected")
    assert np.abs(whole.purify(faces).astype(int) - split.purify(faces)).max() <= 2
    model = onnx.load_from_string(bundle.files["analyzer.onnx"])
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert any(name.endswith({"fp16": ".half", "int8": ".int8"}[weights]) for name in kinds)


def test_graphs(exported):
    for name in ("analyzer.onnx", "purifier.onnx"):
        onnx.checker.check_model(str(exported / name), full_check=True)
        model = onnx.load(str(exported / name), load_external_data=False)
        assert model.opset_import[0].version == 20
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
        content = (exported / name).read_bytes()
        for trace in (b"stack_trace", b"site-packages", str(Path(__file__).parents[2]).encode(), b"/tmp"):
            assert trace not in content
    where = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    assert where == {"analyzer.onnx", "subspace.safetensors"}
    # The whole purifier holds nodes and small numbers only, one for each eigenface, and the -1 of PReLU's channels.
    held = {tensor.name: len(tensor.raw_data) for tensor in model.graph.initializer}
    assert held.pop("integer.offset") == 4 * Bundle.load(exported).k
    assert max(size for name, size in held.items() if not name.startswith("slopes.turn.")) < 64


def test_whole_graph_is_analyzer_and_kernels(exported):
    bundle = Bundle.load(exported)
    faces = np.random.default_rng(0).integers(0, 256, (5, 112, 112)).astype(np.uint8)
    grey = (faces / 127.5 - 1).astype(np.float32)
    for mode in ("sample", "threshold", "expected"):
        purifier = Purifier.load(bundle, mutation=mode, seed=9)
        batch = purifier.purify_batch(faces)
        antibody = mutate(batch.probabilities, mode=mode, seed=9, images=np.arange(5, dtype=np.uint64))
        wanted = project(grey, antibody, bundle.subspace)
        assert np.abs(batch.purified.astype(int) - wanted).max() <= 1
        for number in range(5):  # one by one is the same as together
            alone = purifier.purify_batch(faces[number : number + 1], first_image=number)
            np.testing.assert_allclose(alone.probabilities[0], batch.probabilities[number], atol=1e-5)
            assert np.abs(alone.purified[0].astype(int) - batch.purified[number]).max() <= 1


def test_prelu_is_written_otherwise_for_cpus_only(restoring):
    bundle = Bundle.load(restoring)
    found = {
        role: sum(node.op_type == "PRelu" for node in onnx.load_from_string(bundle.graph(role)).graph.node)
        for role in bundle.manifest.graphs
    }
    assert found.pop("purifier") == 1  # that of the feature, a vector
    assert found.keys() == {"analyzer", "restorer"}
    assert min(found.values()) > 1


def test_relu_networks_have_no_slopes(tmp_path):
    run = train("edge", tmp_path / "a.run", act="relu", restorer={"widths": [8], "depths": [1], "act": "relu"})
    bundle, parity = export_bundle(run, tmp_path / "a.immune")
    assert parity.max_abs_restored < 1e-5
    graph = onnx.load_from_string(bundle.graph("restorer")).graph
    assert {"PRelu", "Relu"} & {node.op_type for node in graph.node} == {"Relu"}
    with pytest.raises(ValueError, match="activation must be one of prelu, relu, got 'gelu'"):
        build_model("edge", 8, {"act": "gelu"})


def test_restoration_is_part_of_the_graph(restoring):
    bundle = Bundle.load(restoring)
    assert set(bundle.manifest.graphs) == {"analyzer", "purifier", "restorer"}
    assert bundle.manifest.options["restorer"] == {
        "widths": [8, 12],
        "depths": [1, 1],
        "sees_noise": True,
        "separable": True,
    }
    assert 0 < bundle.manifest.parity["max_abs_restored"] < 1e-5
    faces = np.random.default_rng(0).integers(0, 256, (5, 112, 112)).astype(np.uint8)
    grey = (faces / 127.5 - 1).astype(np.float32)
    for mode in ("sample", "threshold", "expected"):
        whole = Purifier.load(bundle, mutation=mode, seed=9)
        split = Purifier(bundle, OnnxRuntimeEngine.from_bundle(bundle, whole=False), mutation=mode, seed=9)
        batch, apart = whole.purify_batch(faces), split.purify_batch(faces)
        assert set(apart.timings_ms) == {"analyze", "mutate", "project", "restore"}
        off = np.abs(batch.purified.astype(int) - apart.purified)
        assert off.max() <= 2
        assert (off > 0).mean() < 1e-3
        antibody = mutate(batch.probabilities, mode=mode, seed=9, images=np.arange(5, dtype=np.uint64))
        assert np.abs(batch.purified.astype(int) - project(grey, antibody, bundle.subspace)).max() > 2
    where = {
        entry.value
        for tensor in onnx.load(str(restoring / "purifier.onnx"), load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert where == {"analyzer.onnx", "restorer.onnx", "subspace.safetensors"}


def test_a_wrong_restorer_is_refused(restoring, tmp_path, monkeypatch):
    from immunecam.export import to_onnx

    genuine = to_onnx.restorer_graph

    def other(restorer):
        with torch.no_grad():
            restorer.leave[1].bias += 0.1
        graph = genuine(restorer)
        with torch.no_grad():
            restorer.leave[1].bias -= 0.1
        return graph

    monkeypatch.setattr(to_onnx, "restorer_graph", other)
    with pytest.raises(InputError, match="grey levels"):
        export_bundle(run_folder_of(restoring), tmp_path / "a.immune")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["expected", "threshold"])
@pytest.mark.parametrize("kind", ["edge", "ais", "pin"])
def test_the_attacker_sees_what_is_deployed(kind, mode, restoring, of_kind):
    """Of every kind the same probabilities and the same face, but for roundings to 8 bits, and a slope through both."""
    from immunecam.training.deployed import purification_from_bundle

    bundle = Bundle.load(restoring) if kind == "edge" else of_kind(kind)[0]
    assert bundle.manifest.kind == kind
    roundings = 2 if bundle.graph("restorer") else 1
    faces = pictures()[:3].numpy()
    purification, purifier = purification_from_bundle(bundle), Purifier.load(bundle, mutation=mode)
    grey = torch.from_numpy(faces.astype(np.float32) / 127.5 - 1).requires_grad_(True)
    p = purification.analyze(grey)
    assert float((p[0] - p[1]).detach().abs().max()) > 1e-3  # what is compared depends on the face
    np.testing.assert_allclose(p.detach().numpy(), purifier.purify_batch(faces).probabilities, atol=1e-5)
    found = purification(grey, mode)
    wanted = purifier.purify(faces)
    assert np.abs((found.detach().numpy() + 1) * 127.5 - wanted).max() < roundings
    for result in (p, found.square()):
        (slope,) = torch.autograd.grad(result.sum(), grey, retain_graph=True)
        assert torch.isfinite(slope).all()
        assert slope.abs().sum() > 0


def test_network_and_bundle_draw_the_same_bits(exported, run):
    from immunecam.export.run_folder import TrainedNetwork

    trained = TrainedNetwork.load(run)
    with torch.no_grad():
        p = trained.network(trained.faces).numpy()
    found = Purifier.load(exported).analyze(trained.faces.numpy())
    drawn = uniforms(4, np.arange(len(p)), 1, K)[:, 0]
    assert ((drawn < p) != (drawn < found)).mean() < 1e-3


def test_int8_rows_reach_full_scale():
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(12544, 6))[0].T.contiguous()
    subspace = subspace_from_eigenspace(Eigenspace(torch.zeros(12544), basis, torch.ones(6)), "int8")
    assert (np.abs(subspace.basis.astype(int)).max(1) == 127).all()
    np.testing.assert_allclose(subspace.dequantized(), basis.numpy(), atol=float(subspace.scale.max()) / 2 * 1.001)
    with pytest.raises(UsageError, match="int4"):
        subspace_from_eigenspace(Eigenspace(torch.zeros(12544), basis, torch.ones(6)), "int4")


def test_an_export_over_a_bundle_keeps_its_optional_parts(run, tmp_path):
    path = tmp_path / "a.immune"
    export_bundle(run, path)
    record = put_liveness(path, small_graph(), small_record()).manifest.liveness
    exported, masked = small_export(small_recognizer())
    masking = put_masking(path, exported.graphs, masked, KEY).manifest.masking
    again, _ = export_bundle(run, path, precision="fp16", overwrite=True)
    assert (again.manifest.liveness, again.manifest.masking) == (record, masking)
    assert again.files[record.file] == small_graph()
    network = path / record.file
    network.write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be kept"):
        export_bundle(tmp_path / "no run", path, overwrite=True)  # said before anything is done
    without, _ = export_bundle(run, path, overwrite=True, drop_parts=["liveness"])
    assert (without.manifest.liveness, without.manifest.masking) == (None, masking)
    assert not network.exists()


def test_damaged_runs(run, tmp_path):
    import shutil

    with pytest.raises(InputError, match="no training run"):
        export_bundle(tmp_path, tmp_path / "a.immune")
    for name in ("config.json", "eigenspace.safetensors", "sample.safetensors", "checkpoint.safetensors"):
        broken = tmp_path / f"{name}.run"
        shutil.copytree(run, broken)
        (broken / name).write_bytes((broken / name).read_bytes()[:50])
        with pytest.raises(InputError, match="cannot be read") as caught:
            export_bundle(broken, tmp_path / "a.immune")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.immune").exists()


def test_a_wrong_export_is_refused(run, tmp_path, monkeypatch):
    """Parity is a check that can fail: a graph of other weights must not become a bundle."""
    from immunecam.export import to_onnx

    genuine = to_onnx.analyzer_graph

    def other(network):
        with torch.no_grad():
            network.generator.linear.bias += 0.01
        graph = genuine(network)
        with torch.no_grad():
            network.generator.linear.bias -= 0.01
        return graph

    monkeypatch.setattr(to_onnx, "analyzer_graph", other)
    with pytest.raises(InputError, match="in a probability"):
        export_bundle(run, tmp_path / "a.immune")
    assert list(tmp_path.iterdir()) == []


def test_script(run, tmp_path, capsys):
    script = Path(__file__).parents[2] / "export" / "to_onnx.py"
    done = subprocess.run(
        [sys.executable, str(script), str(run), "-o", "b.immune"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "max_abs_p_real" in done.stdout
    Bundle.load(tmp_path / "b.immune")
    assert main([str(run), "-o", str(tmp_path / "b.immune")]) == 2
    assert main([str(tmp_path), "-o", str(tmp_path / "c.immune")]) == 3
    assert "no training run" in capsys.readouterr().err


def test_quality_from_a_report_of_several_bundles(run, exported, tmp_path):
    files = {name: record.sha256 for name, record in Bundle.load(exported).manifest.files.items()}
    row = {"defence": "a (sample)", "purified": "both", "accuracy_percent": 98.0}
    rows = [row, row | {"purified": "probe"}, row | {"defence": "other (sample)"}]
    report = tmp_path / "report.json"
    named = {"other": {"analyzer.onnx": "0" * 64}, "a": files}
    report.write_text(json.dumps({"schema": "x/1", "rows": rows, "bundle_files": named}))
    made, _ = export_bundle(run, tmp_path / "a.immune", report=report)
    assert made.manifest.quality == {"schema": "x/1", "rows": [row]}
    report.write_text(json.dumps({"schema": "x/1", "rows": rows, "bundle_files": {"other": named["other"]}}))
    with pytest.raises(InputError, match="measured another"):
        export_bundle(run, tmp_path / "b.immune", report=report)


def test_quality_must_have_been_measured_on_these_files(run, exported, tmp_path):
    bundle = Bundle.load(exported)
    files = {name: record.sha256 for name, record in bundle.manifest.files.items()}
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"schema": "x/1", "rows": [{"p50_ms": 1.0}], "bundle_files": files}))
    made, _ = export_bundle(run, tmp_path / "a.immune", report=report)
    assert made.manifest.quality == {"schema": "x/1", "rows": [{"p50_ms": 1.0}]}
    report.write_text(json.dumps({"schema": "x/1", "rows": [], "bundle_files": files | {"analyzer.onnx": "0" * 64}}))
    with pytest.raises(InputError, match="measured another analyzer"):
        export_bundle(run, tmp_path / "b.immune", report=report)
    report.write_text("[]")
    with pytest.raises(InputError, match="no report"):
        export_bundle(run, tmp_path / "b.immune", report=report)


def test_manifest_names_every_option(exported):
    options = Bundle.load(exported).manifest.options
    assert options["memory_temperature"] == 0.1
    assert options["width"] == 8
    assert list(options["prior"]) == [4.0, 0.0]
