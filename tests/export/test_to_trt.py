"""From a bundle to plans, on the stand-in for TensorRT 10.3, 10.16 and 11: no TensorRT is tested here, and no GPU."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from rich.console import Console

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.export import to_trt
from immunecam.export.build_options import BuildOptions, batch_from_text
from immunecam.export.build_progress import BuildProgress
from immunecam.export.card_graph import card_graph
from immunecam.export.timing_cache import merge_timings
from immunecam.export.to_trt import export_plans, main
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.engines import OnnxRuntimeEngine

QUICK = BuildOptions(precision="fp32", batch=(1, 2, 4))


@pytest.fixture
def small(stand_in, tmp_path):
    """A small bundle with a restorer."""
    return stand_in.small_bundle(tmp_path / "a.immune")


@pytest.fixture
def faces(stand_in, tmp_path):
    """A folder of five aligned faces."""
    return stand_in.crops(tmp_path / "faces")


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def plan_graph(bundle: Bundle, plan) -> onnx.ModelProto:
    """The ONNX file that the stand-in remembered."""
    from tensorrt_stand_in.plan import read_plan

    return onnx.load_from_string(read_plan(bundle.files[plan.file])[1])


def test_whole_run(world, small, faces, capsys):
    before = content(small.path)
    stored, exported = export_plans(small.path, BuildOptions(), faces=faces)

    after = content(small.path)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: sha256 for name, sha256 in before.items() if name != "manifest.json"
    }
    assert set(after) - set(before) == {plan.file for plan in stored.manifest.plans}
    assert Bundle.load(small.path).sha256 == stored.sha256
    assert OnnxRuntimeEngine.from_bundle(stored, provider="cpu").k == small.k
    assert {k: v for k, v in stored.manifest.content.items() if k not in ("plans", "files")} == {
        k: v for k, v in small.manifest.content.items() if k != "files"
    }

    analyzer, restorer = stored.manifest.plans
    assert (analyzer.role, restorer.role) == ("analyzer", "restorer")
    assert analyzer.key.onnx_sha256 == before["analyzer.onnx"]
    key = restorer.key
    assert key.onnx_sha256 == before["restorer.onnx"]
    assert (key.tensorrt, key.gpu, key.compute_capability, key.driver) == (world.version, "NVIDIA H200", "9.0", "13.0")
    assert (key.precision, key.batch, key.flags) == ("fp16", (1, 8, 32), ())

    assert len(world.built) == 2
    for asked in world.built:
        assert asked["strongly_typed"]
        assert asked["flags"] == []  # TF32 off, and never a precision
        assert asked["verbosity"] == "DETAILED"
        (profile,) = asked["profiles"]
        assert set(profile.values()) == {((1, 112, 112), (8, 112, 112), (32, 112, 112))}

    batches = {launch[2]["faces"][0] for launch in world.launches}
    assert batches == {1, 8, 32}  # every size of the profile was run
    for made in exported:
        assert made.plan_parity.faces == 5
        assert 0 < made.plan_parity.largest == pytest.approx(made.graph_parity.largest)
        layer = made.report.layers[1]
        assert layer.tactic == "stand_in_tactic_1"
        assert layer.weights_bytes == 202
        assert layer.precision.startswith("Channel major FP16" if world.numbers < (11, 0) else "Half, Channel major")
    assert exported[1].report.tensors == ("faces", "projected", "restored")
    assert analyzer.parity == exported[0].plan_parity.to_dict()
    assert capsys.readouterr().out == ""  # Polygraphy's own messages go to the log


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_precision_is_written_into_the_graph(world, small, faces, precision):
    stored, exported = export_plans(small.path, BuildOptions(precision, (1, 2, 4)), faces=faces)
    graphs = {plan.role: plan_graph(stored, plan) for plan in stored.manifest.plans}
    kinds = {role: [node.op_type for node in graph.graph.node] for role, graph in graphs.items()}
    weights = {
        role: {tensor.data_type for tensor in graph.graph.initializer if len(tensor.dims) > 1}
        for role, graph in graphs.items()
    }
    types = onnx.TensorProto
    for graph in graphs.values():
        assert {v.type.tensor_type.elem_type for v in (*graph.graph.input, *graph.graph.output)} == {types.FLOAT}
        assert all(node.op_type != "Mul" for node in graph.graph.node)  # the stored weights were decoded
    if precision == "fp32":
        assert weights == {"analyzer": {types.FLOAT}, "restorer": {types.FLOAT}}
        assert exported[0].graph_parity.largest < 1e-6
    if precision == "fp16":
        assert weights == {"analyzer": {types.FLOAT16}, "restorer": {types.FLOAT16}}
        assert 1e-6 < exported[0].graph_parity.largest < 5e-3
    if precision == "int8":
        assert types.INT8 in weights["analyzer"]
        assert {"QuantizeLinear", "DequantizeLinear"} <= set(kinds["analyzer"])
        zeros = [t for t in graphs["analyzer"].graph.initializer if "zero_point" in t.name]
        assert zeros
        assert not any(np.any(onnx.numpy_helper.to_array(tensor)) for tensor in zeros)
        assert types.INT32 not in {t.data_type for t in graphs["analyzer"].graph.initializer}  # no quantised bias
        scales = [t for t in graphs["analyzer"].graph.initializer if t.name.endswith("weight_scale")]
        assert [list(t.dims) for t in scales] == [[small.k]]  # per channel
        # A face is what the recogniser sees: the restorer is not quantised.
        assert weights["restorer"] == {types.FLOAT16}
        assert [plan.key.precision for plan in stored.manifest.plans] == ["int8", "fp16"]
        assert 1e-4 < exported[0].graph_parity.largest < 0.1


def test_built_again(world, small, faces):
    export_plans(small.path, QUICK, faces=faces)
    timed, first = list(world.timed), Bundle.load(small.path)
    assert len(timed) == len(set(timed)) > 5
    (timings,) = (path for path in (small.path.parent / "cache" / "tensorrt").iterdir() if path.suffix == ".timings")
    assert timings.name == f"NVIDIA_H200-9.0-tensorrt-{world.version}.timings"

    world.timed.clear()
    again, _ = export_plans(small.path, QUICK, faces=faces)
    assert world.timed == []  # the tactics were in the cache
    assert len(again.manifest.plans) == 2  # of the same key: replaced
    assert content(small.path).keys() == {*again.manifest.files, "manifest.json"}

    world.move(gpu="Orin (nvgpu)", capability=(8, 7))
    there, _ = export_plans(small.path, QUICK, faces=faces)
    assert world.timed != []  # another card has another cache
    assert [plan.key.gpu for plan in there.manifest.plans] == ["NVIDIA H200"] * 2 + ["Orin (nvgpu)"] * 2
    assert there.manifest.plans[:2] == again.manifest.plans == first.manifest.plans
    half, _ = export_plans(small.path, BuildOptions("fp16", (1, 2, 4)), faces=faces)
    assert [plan.key.precision for plan in half.manifest.plans] == ["fp32"] * 4 + ["fp16"] * 2


def test_options_reach_the_builder(world, small, faces):
    options = BuildOptions(
        "fp32", (2, 2, 3), optimization_level=5, workspace_mib=64, hardware_compatible="ampere_plus",
        version_compatible=True, timing_cache=small.path.parent / "mine.timings",
    )  # fmt: skip
    stored, _ = export_plans(small.path, options, faces=faces)
    asked = world.built[0]
    assert asked["level"] == 5
    assert asked["workspace"] == 64 * 2**20
    assert asked["hardware"] == "AMPERE_PLUS"
    assert asked["flags"] == ["VERSION_COMPATIBLE"]
    assert stored.manifest.plans[0].key.flags == (
        "optimization_level=5", "workspace_mib=64", "hardware_compatible=ampere_plus", "version_compatible",
    )  # fmt: skip
    assert (small.path.parent / "mine.timings").stat().st_size > 20
    same = BuildOptions("fp32", (1, 1, 1), hardware_compatible="same_compute_capability")
    if world.numbers < (10, 9):
        with pytest.raises(UsageError, match=r"TensorRT 10\.3\.0 has no .*same_compute_capability.*10\.9"):
            export_plans(small.path, same, faces=faces)
    else:
        export_plans(small.path, same, faces=faces)
        assert world.built[-1]["hardware"] == "SAME_COMPUTE_CAPABILITY"


def test_progress_comes_from_threads_of_the_library(world):
    trt = sys.modules["tensorrt"]
    drawn = Console(file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    with BuildProgress(trt, drawn) as progress:
        monitor = progress.monitor
        monitor.phase_start("Building Engine", None, 2)
        threads = []
        for number in range(4):

            def work(name=f"Tactic selection {number}"):
                monitor.phase_start(name, "Building Engine", 50)
                assert all(monitor.step_complete(name, step) is True for step in range(50))
                monitor.phase_finish(name)

            threads.append(threading.Thread(target=work))
            threads[-1].start()
        for thread in threads:
            thread.join()
        assert progress.steps == 200
        assert monitor.step_complete("a phase that never started", 0) is True
        progress.cancel()
        assert monitor.step_complete("Building Engine", 0) is False
        monitor.phase_finish("Building Engine")


def test_progress_is_seen(world, small, faces):
    screen = io.StringIO()
    export_plans(small.path, QUICK, faces=faces, console=Console(file=screen, force_terminal=True, width=100))
    assert "Building Engine" in screen.getvalue()
    assert "4/4" in screen.getvalue() or "3/4" in screen.getvalue()


def test_interrupted(world, small, faces):
    """Ctrl-C in the midst of a build: it ends at its next step, and nothing is there that was not."""
    before = content(small.path)
    steps = []

    def press():
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        if len(steps) >= 3:
            threading.Event().wait(0.3)

    world.on_step = press
    with pytest.raises(KeyboardInterrupt):
        export_plans(small.path, QUICK, faces=faces)
    assert len(steps) <= 4
    assert content(small.path) == before
    cache = small.path.parent / "cache" / "tensorrt"
    assert not [path for path in cache.iterdir() if path.suffix == ".timings"]
    assert threading.active_count() < 10
    world.on_step = None
    export_plans(small.path, QUICK, faces=faces)  # and all works again


def test_a_plan_that_computes_something_else_is_refused(world, small, faces):
    before = content(small.path)
    world.perturb = 0.05
    with pytest.raises(InputError, match=r"plan of the analyzer.*differs.*nothing was stored"):
        export_plans(small.path, QUICK, faces=faces)
    assert content(small.path) == before
    world.perturb = float("nan")
    with pytest.raises(InputError, match="differs"):
        export_plans(small.path, QUICK, faces=faces)
    assert content(small.path) == before


def test_a_conversion_that_computes_something_else_is_refused(world, small, faces, monkeypatch):
    def other(bundle, role, precision, calibration=None):
        model = onnx.load_from_string(card_graph(bundle, role, precision, calibration))
        for node in (node for node in model.graph.node if node.op_type == "Sigmoid"):
            node.op_type = "Tanh"
        return model.SerializeToString()

    monkeypatch.setattr(to_trt, "card_graph", other)
    with pytest.raises(InputError, match=r"The analyzer converted to fp32 differs"):
        export_plans(small.path, QUICK, faces=faces)
    assert world.built == []


def test_an_operator_that_the_parser_does_not_know(world, stand_in, faces, tmp_path):
    bundle = stand_in.small_bundle(tmp_path / "b.immune", unknown=True)
    before = content(bundle.path)
    with pytest.raises(
        InputError, match=r"cannot parse the analyzer \(operator Det of the node 'determinant': No"
    ) as caught:
        export_plans(bundle.path, QUICK, faces=faces)
    assert "\n" not in str(caught.value)
    assert content(bundle.path) == before
    checks = to_trt.check_bundle(bundle.path, QUICK)
    assert checks["analyzer"].unsupported == ("Det",)
    assert checks["restorer"].unsupported == ()


def test_the_builder_fails(world, small, faces):
    before = content(small.path)
    world.memory = 3000
    with pytest.raises(InputError, match=r"cannot compile the analyzer \(.*out of memory"):
        export_plans(small.path, QUICK, faces=faces)
    world.memory = 2**21  # the plans are built, but their trial finds no room
    with pytest.raises(InputError, match=r"OUT_OF_MEMORY.*close another"):
        export_plans(small.path, BuildOptions("fp32", (1, 2, 64)), faces=faces)
    assert content(small.path) == before


@pytest.mark.parametrize(("driver", "words"), [(0, "no CUDA-capable device"), (11040, "error: 35")])
def test_driver_missing_or_too_old(world, small, faces, driver, words):
    world.move(driver=driver)
    before = content(small.path)
    with pytest.raises(BackendMissingError, match=words) as caught:
        export_plans(small.path, QUICK, faces=faces)
    assert "\n" not in str(caught.value)
    assert content(small.path) == before


def test_polygraphy_is_missing(world, small, faces, monkeypatch):
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    with pytest.raises(BackendMissingError, match=r"immunecam\[tensorrt\].*--check"):
        export_plans(small.path, QUICK, faces=faces)


def test_the_bundle_changes_meanwhile(world, small, stand_in, faces):
    def change():
        world.on_step = None
        other = stand_in.small_bundle(small.path.parent / "other.immune", restorer=True)
        manifest = json.loads((other.path / "manifest.json").read_text())
        graph = other.files["analyzer.onnx"] + b"\x8a\x02\x00"  # an empty field that no reader knows
        manifest["files"]["analyzer.onnx"] = {"sha256": hashlib.sha256(graph).hexdigest(), "bytes": len(graph)}
        (small.path / "analyzer.onnx").write_bytes(graph)
        (small.path / "manifest.json").write_text(json.dumps(manifest))

    world.on_step = change
    with pytest.raises(InputError, match=r"another analyzer|SHA-256|bytes"):
        export_plans(small.path, QUICK, faces=faces)
    assert Bundle.load(small.path).manifest.plans == ()


# Timing cache


def config_of(entries, *, head=b"v1"):
    """A configuration whose cache is a set of lines."""

    def cache(lines):
        made = SimpleNamespace(lines=set(lines))
        made.serialize = lambda: head + b"\n" + b"\n".join(sorted(made.lines))
        made.combine = lambda other, ignore_mismatch: made.lines.update(other.lines) or True
        return made

    def create(data):
        lines = data.split(b"\n")
        return cache(lines[1:]) if lines[0] == head else None

    mine = cache(entries)
    return SimpleNamespace(get_timing_cache=lambda: mine, create_timing_cache=create)


def test_timings_of_two_builds_become_one(tmp_path):
    path = tmp_path / "a.timings"
    builds = [config_of([b"shared", str(number).encode()]) for number in range(8)]
    threads = [threading.Thread(target=merge_timings, args=(build, path)) for build in builds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = {b"shared", *(str(number).encode() for number in range(8))}
    assert set(path.read_bytes().split(b"\n")[1:]) == wanted
    assert {p.name for p in tmp_path.iterdir()} == {"a.timings", "a.timings.lock"}


def test_timings_of_two_processes_become_one(tmp_path):
    path = tmp_path / "a.timings"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from test_to_trt import config_of;"
        "from immunecam.export.timing_cache import merge_timings\n"
        "for n in range(30): merge_timings(config_of([f'{sys.argv[3]}-{n}'.encode()]), Path(sys.argv[2]))"
    )
    folder = str(Path(__file__).parent)
    running = [subprocess.Popen([sys.executable, "-c", code, folder, path, name]) for name in "ab"]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert set(path.read_bytes().split(b"\n")[1:]) == {f"{name}-{n}".encode() for name in "ab" for n in range(30)}


def test_timings_that_are_damaged_or_cannot_be_kept(tmp_path, caplog):
    path = tmp_path / "a.timings"
    path.write_bytes(b"\xff" * 40)
    merge_timings(config_of([b"new"]), path)
    assert path.read_bytes() == b"v1\nnew"
    with caplog.at_level(logging.WARNING):
        merge_timings(config_of([b"new"]), tmp_path / "no" / "folder")
    assert "cannot be kept" in caplog.text


def test_no_place_for_timings(world, small, faces, monkeypatch, caplog):
    (small.path.parent / "file").write_text("no folder")
    monkeypatch.setenv("IMMUNECAM_CACHE", str(small.path.parent / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        stored, _ = export_plans(small.path, QUICK, faces=faces)
    assert len(stored.manifest.plans) == 2
    assert "measures them anew" in caplog.text


# The command


def test_command(world, small, faces, capsys, tmp_path):
    report = tmp_path / "r.json"
    given = [str(small.path), "--faces", str(faces), "--batch", "1,2,4", "--precision", "fp32", "--json", str(report)]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "stand_in_tactic_2" in out
    assert "plan on the card, against the bundle's graph, 5 real faces" in out
    told = json.loads(report.read_text())
    assert told["schema"] == "immunecam.export-tensorrt/1"
    assert told["bundle_sha256"] == Bundle.load(small.path).sha256
    assert [plan["role"] for plan in told["plans"]] == ["analyzer", "restorer"]
    assert told["plans"][0]["plan_on_card"]["unit"] == "probability"
    assert {row["graph"] for row in told["rows"]} == {"analyzer", "restorer"}
    assert told["stored"][0]["key"]["tensorrt"] == world.version

    assert main([*given, "--batch", "4,2"]) == 2
    assert main([*given, "--batch", "4,2,1"]) == 2
    assert main([str(tmp_path / "none.immune")]) == 3
    world.move(driver=0)
    assert main(given) == 4
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 4
    assert all(line.startswith("to_trt.py: ") for line in errors)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"precision": "fp8"}, "fp32, fp16, int8"),
        ({"batch": (0, 1, 2)}, "1 to 128"),
        ({"batch": (1, 8, 4)}, "none falling"),
        ({"batch": (1, 8, 400)}, "1 to 128"),
        ({"optimization_level": 6}, "0 to 5"),
        ({"workspace_mib": 0}, "1 or more"),
        ({"hardware_compatible": "turing"}, "ampere_plus"),
    ],
)
def test_options_out_of_range(wrong, words):
    with pytest.raises(UsageError, match=words):
        BuildOptions(**wrong)


@pytest.mark.parametrize("text", ["8", "1,2", "1,2,x", "1,2,3,4", ""])
def test_batch_that_is_none(text):
    assert batch_from_text("1, 8,32") == (1, 8, 32)
    with pytest.raises(UsageError, match="MIN,OPT,MAX"):
        batch_from_text(text)
