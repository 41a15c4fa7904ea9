"""The TensorRT engine on the stand-in for 10.3, 10.16 and 11: no TensorRT is tested here, and no GPU."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.card import opening
from immunecam.runtime.engines import CardEngine, OnnxRuntimeEngine, TensorRTEngine
from immunecam.runtime.plan_writer import store_plans
from immunecam.runtime.purifier import Purifier

pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")

from immunecam.export.build_options import BuildOptions
from immunecam.export.to_trt import export_plans

pytestmark = pytest.mark.usefixtures("world")


@pytest.fixture
def compiled(world, stand_in, tmp_path) -> Bundle:
    """A small bundle with plans for 1 to 8 faces in fp32."""
    bundle = stand_in.small_bundle(tmp_path / "a.immune")
    faces = stand_in.crops(tmp_path / "faces", 2)
    stored, _ = export_plans(bundle.path, BuildOptions("fp32", (1, 4, 8)), faces=faces)
    world.launches.clear()
    world.shapes_set = world.addresses_set = 0
    return stored


class Card:
    """Buffers and a stream of the made-up card."""

    def __init__(self, k: int, room: int = 8) -> None:
        self.device = device = sys.modules["cuda.core"].Device(0)
        self.stream = device.create_stream()
        face = 4 * room * 112 * 112
        sizes = {"faces": face, "projected": face, "restored": face, "probabilities": 4 * room * k}
        self.buffers = {name: device.memory_resource.allocate(size) for name, size in sizes.items()}

    def __getattr__(self, name):
        return int(self.buffers[name].handle)

    def view(self, name, *shape):
        import ctypes

        self.stream.sync()
        count = int(np.prod(shape))
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(getattr(self, name))).reshape(shape)

    def analyze(self, engine, faces):
        n = len(faces)
        self.view("faces", n, 112, 112)[...] = faces
        engine.analyze_on(n, faces=self.faces, probabilities=self.probabilities, stream=self.stream)
        return self.view("probabilities", n, engine.k).copy()


def some_faces(n, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, 112, 112)).astype(np.float32)


def with_plan(bundle: Bundle, role: str, data: bytes, **changes) -> Bundle:
    """The bundle with other bytes as the plan of a role, stored as if they were this machine's."""
    plan = next(plan for plan in bundle.manifest.plans if plan.role == role)
    return store_plans(bundle, [(role, replace(plan.key, **changes), data, {})])


def test_computes_what_onnx_runtime_does(world, compiled):
    engine = TensorRTEngine.from_bundle(compiled)
    assert isinstance(engine, CardEngine)
    assert (engine.provider, engine.k, engine.min_batch, engine.max_batch) == ("tensorrt", 16, 1, 8)
    assert engine.capturable
    assert engine.precision == "fp32"
    reference = OnnxRuntimeEngine.from_bundle(compiled, provider="cpu")
    card = Card(engine.k)
    for n in (1, 3, 8):
        faces, projected = some_faces(n, n), some_faces(n, n + 10)
        np.testing.assert_allclose(card.analyze(engine, faces), reference.analyze(faces), atol=1e-6)
        card.view("projected", n, 112, 112)[...] = projected
        engine.restore_on(n, faces=card.faces, projected=card.projected, restored=card.restored, stream=card.stream)
        wanted = reference.restore(faces, projected)
        np.testing.assert_allclose(card.view("restored", n, 112, 112), wanted, atol=1e-5)
    assert {launch[1] for launch in world.launches} == {int(card.stream.handle)}


def test_nothing_is_set_twice(world, compiled):
    engine = TensorRTEngine.from_bundle(compiled)
    card = Card(engine.k)
    card.analyze(engine, some_faces(3))
    assert (world.shapes_set, world.addresses_set) == (1, 2)
    card.analyze(engine, some_faces(3, 1))
    assert (world.shapes_set, world.addresses_set) == (1, 2)
    card.analyze(engine, some_faces(5))
    assert (world.shapes_set, world.addresses_set) == (
        2,
        4,
    )  # in a context of its own: graphs of the first live on
    card.analyze(engine, some_faces(3))
    assert (world.shapes_set, world.addresses_set) == (2, 4)
    other = Card(engine.k)
    other.analyze(engine, some_faces(5))
    assert (world.shapes_set, world.addresses_set) == (2, 6)


def test_an_engine_for_each_of_many_threads(world, compiled):
    """They run side by side; the stand-in refuses a context that two threads use at a time."""
    reference = OnnxRuntimeEngine.from_bundle(compiled, provider="cpu")
    together, off = threading.Barrier(4, timeout=60), []  # a thread that fails must not stop the others for ever

    def work(seed):
        card = Card(reference.k)
        card.device.set_current()
        engine = TensorRTEngine.from_bundle(compiled)
        for turn in range(5):
            faces = some_faces(1 + (seed + turn) % 8, seed)
            together.wait()
            off.append(np.abs(card.analyze(engine, faces) - reference.analyze(faces)).max())
        engine.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(off) == 20
    assert max(off) < 1e-6
    assert len({launch[0] for launch in world.launches}) == 4
    gc.collect()
    assert world.contexts == set()


def test_threads_after_one_another_use_the_same_context(world, compiled):
    """It lives as long as the engine, whatever thread made it."""
    engine = TensorRTEngine.from_bundle(compiled)
    wanted = OnnxRuntimeEngine.from_bundle(compiled, provider="cpu").analyze(some_faces(3))
    off = []

    def work():
        card = Card(engine.k)
        card.device.set_current()
        off.append(np.abs(card.analyze(engine, some_faces(3)) - wanted).max())

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    del thread
    gc.collect()
    assert len(off) == 3
    assert max(off) < 1e-6
    assert len(world.contexts) == 1
    engine.close()
    gc.collect()
    assert world.contexts == set()


def test_release(world, compiled):
    engine = TensorRTEngine.from_bundle(compiled)
    card = Card(engine.k)
    card.analyze(engine, some_faces(2))
    assert len(world.contexts) == 1
    engine.close()
    gc.collect()
    assert world.contexts == set()
    with pytest.raises(UsageError, match="was closed"):
        card.analyze(engine, some_faces(2))
    engine.close()  # twice is once
    card.analyze(TensorRTEngine.from_bundle(compiled), some_faces(2))


@pytest.mark.parametrize("n", [0, 9, 100])
def test_batch_outside_the_profile(compiled, n):
    engine = TensorRTEngine.from_bundle(compiled)
    card = Card(engine.k)
    with pytest.raises(UsageError, match=rf"analyzer-\w+\.plan takes 1 to 8 faces at once, but there are {n}"):
        engine.analyze_on(n, faces=card.faces, probabilities=card.probabilities, stream=card.stream)
    card.analyze(engine, some_faces(8))


def test_default_stream_is_refused(compiled):
    engine = TensorRTEngine.from_bundle(compiled)
    card = Card(engine.k)
    card.stream.handle = 0
    with pytest.raises(UsageError, match="default one"):
        card.analyze(engine, some_faces(1))


def test_bundle_without_a_restorer(world, stand_in, tmp_path):
    bundle = stand_in.small_bundle(tmp_path / "b.immune", restorer=False)
    faces = stand_in.crops(tmp_path / "crops", 2)
    stored, _ = export_plans(bundle.path, BuildOptions("fp32", (1, 1, 2)), faces=faces)
    engine = TensorRTEngine.from_bundle(stored)
    card = Card(engine.k)
    card.analyze(engine, some_faces(2))
    with pytest.raises(UsageError, match="has no restorer"):
        engine.restore_on(1, faces=card.faces, projected=card.projected, restored=card.restored, stream=card.stream)


# Bad input: one sentence each


def test_other_versions_cards_and_drivers_are_told_by_the_key(world, compiled):
    version = world.version
    for changes, words in (
        ({"version": "10.14.1"}, "TensorRT 10.14.1, NVIDIA H200"),
        ({"version": version, "gpu": "Orin", "capability": (8, 7)}, r"Orin \(compute capability 8\.7\)"),
        ({"gpu": "NVIDIA H200", "capability": (9, 0), "driver": 12060}, r"CUDA 12\.6"),
    ):
        world.move(**changes)
        with pytest.raises(InputError, match=words) as caught:
            TensorRTEngine.from_bundle(compiled)
        said = str(caught.value)
        assert f"one in fp32 for TensorRT {version}, NVIDIA H200 (9.0), CUDA 13.0" in said
        assert f"immunecam export {compiled.path} --target tensorrt" in said
        assert "\n" not in said
    world.move(driver=13000)
    TensorRTEngine.from_bundle(compiled)


def test_plan_of_another_machine_under_this_key(world, compiled):
    """The key is no proof: what TensorRT refuses is an error, too."""
    for changes, words in (
        ({"version": "10.14.1"}, "Version tag does not match"),
        ({"version": world.version, "capability": (8, 7)}, r"expecting compute 8\.7 got compute 9\.0"),
    ):
        world.move(**changes)
        forged = with_plan(
            compiled, "analyzer", compiled.files[compiled.manifest.plans[0].file],
            tensorrt=world.version, compute_capability=".".join(map(str, world.capability)),
        )  # fmt: skip
        forged = with_plan(
            forged, "restorer", forged.files[compiled.manifest.plans[1].file],
            tensorrt=world.version, compute_capability=".".join(map(str, world.capability)),
        )  # fmt: skip
        with pytest.raises(InputError, match=rf"analyzer-\w+\.plan cannot be opened .*{words}.*immunecam export"):
            TensorRTEngine.from_bundle(forged)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_plan(compiled, keep):
    data = compiled.files[compiled.manifest.plans[0].file][:keep]
    with pytest.raises(InputError, match=r"cannot be opened by TensorRT .*Serialization.*immunecam export") as caught:
        TensorRTEngine.from_bundle(with_plan(compiled, "analyzer", data))
    assert "\n" not in str(caught.value)


def test_changed_byte(compiled):
    plan = compiled.path / compiled.manifest.plans[0].file
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    with pytest.raises(InputError, match=r"SHA-256.*changed or damaged"):
        Bundle.load(compiled.path)
    plan.write_bytes(data[:100])
    with pytest.raises(InputError, match=r"has 100 bytes"):
        Bundle.load(compiled.path)


def test_other_tensors(world, compiled, stand_in):
    from tensorrt_stand_in.plan import plan_bytes, read_plan

    head, raw = read_plan(compiled.files[compiled.manifest.plans[0].file])
    right = head["tensors"]

    def changed(index, position, value):
        tensors = [list(tensor) for tensor in right]
        tensors[index][position] = value
        return tensors

    for tensors, words in (
        (changed(1, 1, "logits"), r"has the tensors \['faces', 'logits'\], but must have \['faces', 'probabilities'\]"),
        (right[:1], r"has the tensors \['faces'\]"),
        (
            changed(0, 2, "HALF"),
            r"'faces' as INPUT HALF \[-1, 112, 112\], but it must be INPUT FLOAT \['N', 112",
        ),
        (changed(1, 3, [-1, 17]), r"'probabilities' as OUTPUT FLOAT \[-1, 17\], .*\['N', 16\]"),
        (changed(0, 3, [-1, 1, 112, 112]), r"'faces' as INPUT FLOAT \[-1, 1, 112, 112\]"),
        (changed(1, 0, "INPUT"), "'probabilities' as INPUT"),
    ):
        wrong = with_plan(compiled, "analyzer", plan_bytes(head | {"tensors": tensors}, raw))
        with pytest.raises(InputError, match=words) as caught:
            TensorRTEngine.from_bundle(wrong)
        assert "immunecam export" in str(caught.value)
    restorer = compiled.files[compiled.manifest.plans[1].file]
    with pytest.raises(InputError, match=r"analyzer-\w+\.plan has the tensors \['faces', 'projected', 'restored'\]"):
        TensorRTEngine.from_bundle(with_plan(compiled, "analyzer", restorer))


def test_out_of_device_memory_leaves_the_process_usable(world, compiled):
    plenty = world.memory
    world.memory = 100
    with pytest.raises(InputError, match=r"does not find the device memory.*out of memory.*--batch"):
        TensorRTEngine.from_bundle(compiled)
    world.memory = plenty
    engine = TensorRTEngine.from_bundle(compiled)
    card = Card(engine.k)
    world.memory = 100
    with pytest.raises(InputError, match=r"does not find the device memory.*out of memory"):
        card.analyze(engine, some_faces(2))
    world.memory = plenty
    before = card.analyze(engine, some_faces(2))
    world.on_execute = lambda: False
    with pytest.raises(InputError, match=r"does not find the device memory"):
        card.analyze(engine, some_faces(7))
    world.on_execute = None
    assert np.array_equal(card.analyze(engine, some_faces(2)), before)


@pytest.mark.parametrize(("driver", "words"), [(0, "no CUDA-capable device"), (11040, r"does not start .*error: 35")])
def test_driver_missing_or_too_old(world, compiled, driver, words):
    matching = [replace(plan.key, driver="11.4") for plan in compiled.manifest.plans]
    compiled = store_plans(
        compiled,
        [(p.role, key, compiled.files[p.file], {}) for p, key in zip(compiled.manifest.plans, matching, strict=True)],
    )
    world.move(driver=driver)
    with pytest.raises(BackendMissingError, match=words) as caught:
        TensorRTEngine.from_bundle(compiled)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_library_missing_broken_or_too_old(compiled, monkeypatch):
    trt = sys.modules["tensorrt"]
    monkeypatch.setattr(trt, "__version__", "8.6.1")
    with pytest.raises(BackendMissingError, match=r"TensorRT 8\.6\.1 is installed, but 10\.0 or newer"):
        TensorRTEngine.from_bundle(compiled)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendMissingError, match=r"cannot be imported .*--provider cpu"):
        TensorRTEngine.from_bundle(compiled)


# Plans that run elsewhere


def test_compatible_plans(world, stand_in, tmp_path):
    bundle = stand_in.small_bundle(tmp_path / "c.immune")
    faces = stand_in.crops(tmp_path / "crops", 2)
    start = world.version
    for options in ({"hardware_compatible": "ampere_plus"}, {"version_compatible": True}):
        export_plans(bundle.path, BuildOptions("fp32", (1, 1, 2), **options), faces=faces)
    major = world.numbers[0]
    stored = Bundle.load(bundle.path)
    card = Card(stored.k)
    reference = OnnxRuntimeEngine.from_bundle(stored, provider="cpu").analyze(some_faces(2))

    world.move(gpu="NVIDIA GeForce RTX 4060", capability=(8, 9), driver=12080)  # the first plans
    np.testing.assert_allclose(card.analyze(TensorRTEngine.from_bundle(stored), some_faces(2)), reference, atol=1e-6)
    with pytest.raises(InputError, match="no TensorRT plan"):
        TensorRTEngine.from_bundle(stored, exact=True)  # only what was built on a machine just like this
    world.move(gpu="Tesla T4", capability=(7, 5))
    with pytest.raises(InputError, match="Tesla T4"):
        TensorRTEngine.from_bundle(stored)
    world.move(gpu="NVIDIA H200", capability=(9, 0), version=f"{major}.99.0")  # the second
    np.testing.assert_allclose(card.analyze(TensorRTEngine.from_bundle(stored), some_faces(2)), reference, atol=1e-6)
    world.move(version=f"{major + 1}.0.0")
    with pytest.raises(InputError, match=rf"TensorRT {major + 1}\.0\.0"):
        TensorRTEngine.from_bundle(stored)
    world.move(version=start, driver=13000)
    assert TensorRTEngine.from_bundle(stored).max_batch == 2


def test_the_plan_stored_last_is_taken(world, compiled, tmp_path):
    half, _ = export_plans(compiled.path, BuildOptions("fp16", (1, 2, 4)), faces=tmp_path / "faces")
    engine = TensorRTEngine.from_bundle(half)
    assert (engine.precision, engine.max_batch) == ("fp16", 4)


# Choice of the provider


def test_auto_takes_tensorrt_only_with_a_plan_for_this_machine(world, compiled, caplog, monkeypatch):
    """What opens a backend, with the kernels of a card left out."""
    monkeypatch.setattr(opening, "CardPurifier", lambda bundle, engine, programs, **_: engine)
    monkeypatch.setattr(opening, "has_cuda", lambda ort: False)

    def opened(provider):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            if provider == "auto":
                return opening.open_best(compiled)[0]
            return opening.open_card(compiled, provider)

    assert opened("auto").provider == "tensorrt"
    assert "Provider tensorrt for the bundle a on NVIDIA H200: the first of tensorrt, cuda and cpu" in caplog.text
    assert opened("tensorrt").provider == "tensorrt"
    assert "it was asked for" in caplog.text

    world.move(gpu="Orin", capability=(8, 7))
    engine = opened("auto")
    assert engine is None or engine.provider != "tensorrt"
    assert "The provider tensorrt is not used: " in caplog.text
    assert "has no TensorRT plan of its analyzer for this machine" in caplog.text
    with pytest.raises(InputError, match="no TensorRT plan"):
        opened("tensorrt")

    world.move(driver=0)
    assert opened("auto") is None
    assert "no CUDA-capable device" in caplog.text
    with pytest.raises(BackendMissingError, match="no CUDA-capable device"):
        opened("tensorrt")


def test_onnx_runtime_still_runs_a_bundle_with_plans(compiled):
    purifier = Purifier(compiled, OnnxRuntimeEngine.from_bundle(compiled, provider="auto"))
    assert purifier.provider in ("cpu", "cuda")
    assert purifier.purify(np.zeros((2, 112, 112), np.uint8)).shape == (2, 112, 112)
    with pytest.raises(BackendMissingError, match="ONNX Runtime's engine does not run it"):
        OnnxRuntimeEngine.from_bundle(compiled, provider="tensorrt")


def test_doctor_tells_what_is_there(world, compiled):
    from immunecam.commands import doctor

    row = doctor._tensorrt(compiled.path)
    assert row["available"]
    assert row["why"].startswith(f"TensorRT {world.version}, NVIDIA H200")
    assert doctor._cuda_kernels() == {
        "part": "CUDA kernels", "available": True, "why": "NVIDIA H200 (sm_90): compiled by NVRTC at first use",
    }  # fmt: skip
    bare = compiled.path.parent / "bare.immune"
    shutil.copytree(compiled.path, bare)
    manifest = json.loads((bare / "manifest.json").read_text())
    manifest["plans"] = []
    (bare / "manifest.json").write_text(json.dumps(manifest))
    row = doctor._tensorrt(bare)
    assert not row["available"]
    assert "--target tensorrt" in row["why"]
    world.move(driver=0)
    assert "no CUDA-capable device" in doctor._cuda_kernels()["why"]
    assert not doctor._tensorrt(compiled.path)["available"]
