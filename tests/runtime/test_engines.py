"""The ONNX Runtime engine, the choice of a provider, and references between a bundle's files."""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.kernels import mutate, project, uniforms
from immunecam.runtime.backend import open_backend
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.engines import (
    Engine,
    OnnxRuntimeEngine,
    OnnxRuntimePurifier,
    WholePurifier,
    choose_provider,
    onnxruntime_session,
)
from immunecam.runtime.engines.external_data import inline_external_data
from immunecam.runtime.purifier import Purifier

onnx = pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")
ort = pytest.importorskip("onnxruntime")

K = 64
CUDA = "CUDAExecutionProvider" in ort.get_available_providers()
without_cuda = pytest.mark.skipif(CUDA, reason="this onnxruntime was built with CUDA")


def expected_probabilities(bundle: Bundle, faces: NDArray[np.float32]) -> NDArray[np.float64]:
    """The tiny analyzer of conftest.py in float64: pooling, linear layer, sigmoid."""
    graph = onnx.load_from_string(bundle.files["analyzer.onnx"]).graph
    weight = next(onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name == "weight")
    pooled = faces.astype(np.float64).reshape(len(faces), 7, 16, 7, 16).mean(axis=(2, 4))
    return 1 / (1 + np.exp(-pooled.reshape(len(faces), -1) @ weight.astype(np.float64)))


def test_analyzes(bundle: Bundle, split_bundle: Bundle, faces: NDArray[np.float32]) -> None:
    wanted = expected_probabilities(bundle, faces)
    for engine in (
        OnnxRuntimeEngine.from_bundle(split_bundle, provider="cpu"),
        OnnxRuntimeEngine.from_bundle(bundle, provider="cpu", threads=1),
        OnnxRuntimeEngine.from_bundle(bundle, provider="cpu", whole=False),
    ):
        assert isinstance(engine, Engine)
        assert engine.provider == "cpu"
        assert engine.k == K
        p = engine.analyze(faces)
        assert p.dtype == np.float32
        assert np.abs(p - wanted).max() < 1e-5


def test_whole_graph_is_a_capability(bundle: Bundle, split_bundle: Bundle) -> None:
    assert isinstance(OnnxRuntimeEngine.from_bundle(bundle), WholePurifier)
    assert not isinstance(OnnxRuntimeEngine.from_bundle(bundle, whole=False), WholePurifier)
    assert not isinstance(OnnxRuntimeEngine.from_bundle(split_bundle), WholePurifier)


@pytest.mark.parametrize("basis", ["int8", "fp16", "fp32"])
@pytest.mark.parametrize("mode", ["sample", "threshold", "expected"])
def test_whole_graph_agrees_with_the_kernels(
    parts: Any, tmp_path: Path, faces: NDArray[np.float32], basis: str, mode: Any
) -> None:
    bundle = parts(basis=basis).write(tmp_path / "b.immune")
    engine = OnnxRuntimeEngine.from_bundle(bundle, provider="cpu")
    assert isinstance(engine, OnnxRuntimePurifier)
    images = np.arange(len(faces))
    u = uniforms(7, images, 1, K)[:, 0] if mode == "sample" else np.full((len(faces), K), 0.5, np.float32)
    purified, p = engine.purify(faces, u, mode == "expected")
    assert purified.dtype == np.uint8
    antibody = mutate(p, mode=mode, seed=7, images=images)
    if mode != "expected":
        assert np.array_equal(antibody, u < p)
    by_kernels = project(faces, antibody, bundle.subspace)
    assert np.abs(purified.astype(int) - by_kernels).max() <= 1
    assert purified.std() > 10


def test_a_face_gives_the_same_alone_and_in_a_batch(bundle: Bundle, faces: NDArray[np.float32]) -> None:
    engine = OnnxRuntimeEngine.from_bundle(bundle, provider="cpu")
    assert np.abs(engine.analyze(faces)[2:3] - engine.analyze(faces[2:3])).max() < 1e-6


def test_analyzer_is_opened_once_by_many_threads(bundle: Bundle, faces: NDArray[np.float32]) -> None:
    engine = OnnxRuntimeEngine.from_bundle(bundle, provider="cpu")
    results: list[NDArray[np.float32]] = []
    threads = [threading.Thread(target=lambda: results.append(engine.analyze(faces))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(np.array_equal(result, results[0]) for result in results)


def test_nothing_on_stderr(bundle: Bundle, faces: NDArray[np.float32], capfd: pytest.CaptureFixture[str]) -> None:
    OnnxRuntimeEngine.from_bundle(bundle, provider="cpu").analyze(faces)
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out == ""


# Providers


def test_auto_says_what_and_why(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        choice = choose_provider("auto", bundle)
    assert choice.name == ("cuda" if CUDA else "cpu")
    assert f"Provider {choice.name} for the bundle tiny: " in caplog.text


def test_unknown_provider(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="auto, cpu, cuda, tensorrt"):
        choose_provider("gpu", bundle)


@without_cuda
def test_missing_cuda(bundle: Bundle) -> None:
    with pytest.raises(BackendMissingError, match=rf"{ort.__version__}.*without CUDA.*onnxruntime-gpu"):
        OnnxRuntimeEngine.from_bundle(bundle, provider="cuda")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed")
def test_missing_tensorrt(bundle: Bundle) -> None:
    with pytest.raises(BackendMissingError, match=r"TensorRT cannot be imported \(No module named 'tensorrt'\)"):
        open_backend(bundle, "tensorrt")


def test_missing_onnxruntime(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissingError, match="pip install onnxruntime"):
        choose_provider("cpu", bundle)


@pytest.fixture
def claims_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that says it was built with CUDA, on a machine where it does not start.

    Given a provider that it cannot start, ONNX Runtime itself goes on with the CPU.
    """
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])


@without_cuda
@pytest.mark.usefixtures("claims_cuda")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cuda_that_does_not_start_is_never_replaced(bundle: Bundle) -> None:
    with pytest.raises(BackendMissingError, match="'cuda' does not start"):
        OnnxRuntimeEngine.from_bundle(bundle, provider="cuda")


@without_cuda
@pytest.mark.usefixtures("claims_cuda")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_auto_replaces_it_and_warns(
    bundle: Bundle, faces: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        engine = OnnxRuntimeEngine.from_bundle(bundle)
    assert engine.provider == "cpu"
    assert engine.analyze(faces).shape == (5, K)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "Provider cpu in place of cuda" in warnings[0]


@pytest.mark.parametrize(("threads", "message"), [(0, "threads is 0"), (1.5, "a float"), (5000, "threads is 5000")])
def test_wrong_threads(bundle: Bundle, threads: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OnnxRuntimeEngine.from_bundle(bundle, threads=threads)


# Graphs that cannot be used


def spoiled(parts: Any, tmp_path: Path, name: str, data: bytes) -> Bundle:
    made = parts()
    made.files[name] = data
    return Bundle.load(made.write(tmp_path / "b.immune").path)


@pytest.mark.parametrize("data", [b"", b"not a model", b"\xff" * 50, b"\x00", b"\x3a\xff\x7f", b"\x0b"])
def test_analyzer_that_is_no_model(parts: Any, tmp_path: Path, data: bytes) -> None:
    made = parts(whole=False)
    made.files["analyzer.onnx"] = data
    bundle = made.write(tmp_path / "b.immune")
    with pytest.raises(InputError) as caught:
        OnnxRuntimeEngine.from_bundle(bundle)
    assert "b.immune/analyzer.onnx" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_k_mismatch_with_the_analyzer(parts: Any, tmp_path: Path) -> None:
    bundle = parts(gives=32, whole=False).write(tmp_path / "b.immune")
    with pytest.raises(InputError, match=r"'probabilities' is tensor\(float\) \['N', 32\].*\['N', 64\]"):
        OnnxRuntimeEngine.from_bundle(bundle)


def edited(data: bytes, change: Any) -> bytes:
    model = onnx.load_from_string(data)
    change(model.graph)
    return bytes(model.SerializeToString())


def test_k_mismatch_that_only_a_run_shows(parts: Any, tmp_path: Path, faces: NDArray[np.float32]) -> None:
    def unname(graph: Any) -> None:
        graph.output[0].type.tensor_type.shape.dim[1].dim_param = "unknown"
        # A shape that is data hides K from ONNX Runtime's own inference.
        graph.node[-1].output[0] = "flat_p"
        graph.node.append(onnx.helper.make_node("Compress", ["flat_p", "kept"], ["probabilities"], axis=1))
        graph.initializer.append(onnx.numpy_helper.from_array(np.arange(K) < 32, "kept"))

    made = parts(whole=False)
    made.files["analyzer.onnx"] = edited(made.files["analyzer.onnx"], unname)
    engine = OnnxRuntimeEngine.from_bundle(made.write(tmp_path / "b.immune"))
    with pytest.raises(InputError, match="K = 32 probabilities, but the manifest says K = 64"):
        engine.analyze(faces)


@pytest.mark.parametrize("excess", [1.2e-7, 0.01, float("nan")])
def test_probabilities_that_rounding_has_lifted_above_one(
    parts: Any, tmp_path: Path, faces: NDArray[np.float32], excess: float
) -> None:
    """ONNX Runtime's sigmoid gives 1.0000001 for a large logit; no camera may stop for that."""

    def lift(graph: Any) -> None:
        sigmoid = graph.node[-1]
        sigmoid.op_type, sigmoid.output[0] = "HardSigmoid", "step"
        sigmoid.attribute.append(onnx.helper.make_attribute("alpha", 1e6))
        graph.node.append(onnx.helper.make_node("Mul", ["step", "factor"], ["probabilities"]))
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1 + excess).reshape(1), "factor"))

    made = parts(whole=False)
    made.files["analyzer.onnx"] = edited(made.files["analyzer.onnx"], lift)
    purifier = Purifier.load(made.write(tmp_path / "b.immune"), mutation="expected")
    if excess < 1e-6:
        p = purifier.analyze(faces)
        assert p.max() == 1
        assert purifier.purify(faces).shape == faces.shape
    else:
        with pytest.raises(InputError, match=r"outside \[0, 1\] or NaN"):
            purifier.analyze(faces)


def test_fixed_batch_is_refused(parts: Any, tmp_path: Path) -> None:
    def fix(graph: Any) -> None:
        for tensor in (graph.input[0], graph.output[0]):
            tensor.type.tensor_type.shape.dim[0].dim_value = 1

    data = edited(parts().files["analyzer.onnx"], fix)
    with pytest.raises(InputError, match=r"\[1, 112, 112\]"):
        OnnxRuntimeEngine.from_bundle(spoiled(parts, tmp_path, "analyzer.onnx", data), whole=False)


def test_wrong_names_are_refused(parts: Any, tmp_path: Path) -> None:
    files = parts().files
    bundle = spoiled(parts, tmp_path, "purifier.onnx", files["analyzer.onnx"])
    with pytest.raises(InputError, match=r"inputs \['faces'\], but it must have \['expected', 'faces', 'uniforms'\]"):
        OnnxRuntimeEngine.from_bundle(bundle)


# References


def reference(**entries: str) -> bytes:
    """A graph with one float (2, 3) initializer that lies elsewhere."""
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2, 3])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return as_model(initializer=[tensor])


def as_model(**graph: Any) -> bytes:
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"], name="add")
    nodes = graph.pop("nodes", [node])
    made = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 3])],
        **graph,
    )
    return bytes(onnx.helper.make_model(made).SerializeToString())


VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)
FILES = {"w.bin": b"head" + VALUES.tobytes() + b"tail"}


def test_reference_is_replaced_by_its_bytes() -> None:
    model = onnx.load_from_string(inline_external_data(reference(location="w.bin", offset="4", length="24"), FILES))
    (tensor,) = model.graph.initializer
    assert tensor.data_location == onnx.TensorProto.DEFAULT
    assert not tensor.external_data
    assert np.array_equal(onnx.numpy_helper.to_array(tensor), VALUES)


def test_reference_to_a_whole_file() -> None:
    model = onnx.load_from_string(inline_external_data(reference(location="w"), {"w": VALUES.tobytes()}))
    assert np.array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), VALUES)


def test_model_without_references_is_unchanged(bundle: Bundle) -> None:
    analyzer = bundle.files["analyzer.onnx"]
    assert inline_external_data(analyzer, {}) == analyzer


def test_all_else_is_kept(bundle: Bundle) -> None:
    """Against the onnx package's own reading of the same references, from the folder."""
    ours = onnx.load_from_string(inline_external_data(bundle.files["purifier.onnx"], bundle.files))
    theirs = onnx.load(bundle.path / "purifier.onnx")
    for tensor in theirs.graph.initializer:
        tensor.ClearField("data_location")  # onnx writes out the default, we leave it out
    assert ours == theirs


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"location": "../secret"},
            "refers to the file '../secret', but only files that the bundle's manifest lists",
        ),
        ({"location": "/etc/passwd"}, "only files that"),
        ({"location": "*/_ORT_MEM_ADDR_/*", "offset": "4096", "length": "24"}, "only files that"),
        ({}, "refers to the file ''"),
        ({"location": "w.bin", "offset": "9"}, "23 bytes of w.bin, but its shape and type need 24"),
        ({"location": "w.bin", "offset": "4", "length": "20"}, "20 bytes of w.bin"),
        ({"location": "w.bin", "offset": "-1", "length": "24"}, "the bytes -1 to 23"),
        (
            {"location": "w.bin", "offset": "20", "length": "24"},
            "the bytes 20 to 44 of w.bin, but that file has 32",
        ),
        ({"location": "w.bin", "offset": "x"}, "not a number"),
    ],
)
def test_reference_that_is_refused(entries: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        inline_external_data(reference(**entries), FILES, name="MODEL")
    assert str(caught.value).startswith("MODEL: the tensor 'w'")
    assert message in str(caught.value)


def escaping() -> Any:
    tensor = onnx.TensorProto(name="hidden", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    return tensor


def hidden_in_attribute() -> bytes:
    return as_model(nodes=[onnx.helper.make_node("Constant", [], ["y"], value=escaping())])


def hidden_in_subgraph() -> bytes:
    inner = onnx.helper.make_graph([], "inner", [], [], initializer=[escaping()])
    return as_model(nodes=[onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)])


def hidden_in_sparse() -> bytes:
    sparse = onnx.SparseTensorProto(values=escaping(), dims=[1])
    return as_model(sparse_initializer=[sparse])


def hidden_in_function() -> bytes:
    model = onnx.load_from_string(as_model())
    function = model.functions.add(name="f", domain="d")
    function.node.append(onnx.helper.make_node("Constant", [], ["y"], value=escaping()))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("make", [hidden_in_attribute, hidden_in_subgraph, hidden_in_sparse, hidden_in_function])
def test_no_reference_hides(make: Any) -> None:
    with pytest.raises(InputError, match="'/etc/hostname', but only files"):
        inline_external_data(make(), FILES)


def test_reference_that_denies_itself() -> None:
    tensor = escaping()
    tensor.data_location = onnx.TensorProto.DEFAULT
    with pytest.raises(InputError, match="does not say so"):
        inline_external_data(as_model(initializer=[tensor]), FILES)


def test_reference_of_unknown_type() -> None:
    tensor = escaping()
    tensor.data_type = onnx.TensorProto.STRING
    with pytest.raises(InputError, match="unknown type 8"):
        inline_external_data(as_model(initializer=[tensor]), FILES)


def test_graphs_nested_without_end() -> None:
    data = b""
    for _ in range(40):  # each round: an attribute's graph (6) in a node's attribute (5) in a graph's node (1)
        for field in (6, 5, 1):
            size = bytearray()
            left = len(data)
            while left > 127:
                size.append(left & 127 | 128)
                left >>= 7
            data = bytes([field << 3 | 2]) + bytes([*size, left]) + data
    with pytest.raises(InputError, match="more than 64 deep"):
        inline_external_data(b"\x3a" + bytes([len(data) & 127 | 128, len(data) >> 7]) + data, {})


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_model_is_read_or_refused(bundle: Bundle, data: st.DataObject) -> None:
    """Whatever a byte is changed to: no other exception, and no reference out of the listed files."""
    model = bytearray(bundle.files["purifier.onnx"])
    for _ in range(data.draw(st.integers(1, 4))):
        model[data.draw(st.integers(0, len(model) - 1))] = data.draw(st.integers(0, 255))
    model = model[: data.draw(st.integers(0, len(model)))]
    message = ""
    try:
        inline_external_data(bytes(model), bundle.files)
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "wide"),
    [
        ("aarch64", None, True),
        ("x86_64", "flags : fpu avx2 avx512f", False),
        ("x86_64", "flags : fpu avx2 avx_vnni", True),
        ("AMD64", "flags : fpu avx512_vnni", True),
        ("x86_64", None, False),
    ],
)
def test_overflow_is_avoided_where_it_can_happen(monkeypatch, machine, cpuinfo, wide):
    """Without VNNI sums of int8 products would be cut off; where nothing is known of the processor neither is that."""

    def read_text(path, encoding=None):
        if cpuinfo is None:
            raise FileNotFoundError(path)
        return cpuinfo

    monkeypatch.setattr(onnxruntime_session.platform, "machine", lambda: machine)
    monkeypatch.setattr(onnxruntime_session.Path, "read_text", read_text)
    assert onnxruntime_session.adds_in_32_bits.__wrapped__() is wide
