"""Plans in a bundle's manifest: what is accepted, what is kept, and that they are stored whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from immunecam.errors import InputError
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.runtime.engines.plans import PlanMachine, choose_plans
from immunecam.runtime.plan_record import PlanKey
from immunecam.runtime.plan_writer import store_plans

H200 = PlanMachine("10.16.0", "NVIDIA H200", "9.0", "13.0")
ORIN = PlanMachine("10.3.0", "Orin (nvgpu)", "8.7", "12.6")


@pytest.fixture
def bundle(parts, tmp_path) -> Bundle:
    return parts().write(tmp_path / "a.immune")


def key(bundle: Bundle, machine: PlanMachine = H200, **changes) -> PlanKey:
    sha256 = bundle.manifest.files["analyzer.onnx"].sha256
    values = {"precision": "fp16", "batch": (1, 8, 32), **vars(machine), "onnx_sha256": sha256}
    return PlanKey(**(values | changes))


def names(bundle: Bundle) -> set[str]:
    return {path.name for path in bundle.path.iterdir()}


def test_a_bundle_without_plans_is_as_it_was(bundle):
    assert bundle.manifest.plans == ()
    assert Bundle.load(default_bundle()).manifest.plans == ()
    with pytest.raises(InputError, match=r"this machine \(TensorRT 10\.16\.0, NVIDIA H200 .*\), but none: run"):
        choose_plans(bundle, H200)


def test_stored_plans_are_found_by_their_key(bundle):
    plans = [("analyzer", key(bundle), b"one", {"largest": 0.5}), ("analyzer", key(bundle, ORIN), b"two", {})]
    stored = store_plans(bundle, plans)
    one, two = stored.manifest.plans
    assert stored.files[one.file] == b"one"
    assert one.parity == {"largest": 0.5}
    assert one.key == key(bundle)
    assert choose_plans(stored, H200) == {"analyzer": one}
    assert choose_plans(stored, ORIN) == {"analyzer": two}
    assert stored.manifest.graphs == bundle.manifest.graphs
    assert stored.files["analyzer.onnx"] == bundle.files["analyzer.onnx"]


def test_same_key_replaces_and_the_rest_is_kept(bundle):
    store_plans(bundle, [("analyzer", key(bundle), b"one", {}), ("analyzer", key(bundle, ORIN), b"two", {})])
    again = store_plans(bundle, [("analyzer", key(bundle), b"three", {})])
    assert [again.files[plan.file] for plan in again.manifest.plans] == [b"two", b"three"]
    assert names(again) == {"manifest.json", *again.manifest.files}
    same = store_plans(bundle, [("analyzer", key(bundle), b"two", {})])  # two keys, one file
    assert [same.files[plan.file] for plan in same.manifest.plans] == [b"two", b"two"]
    last = store_plans(bundle, [("analyzer", key(bundle), b"four", {})])
    assert [last.files[plan.file] for plan in last.manifest.plans] == [b"two", b"four"]
    assert last.manifest.content["quality"] == bundle.manifest.content["quality"]


def test_files_that_no_manifest_lists_are_left_alone(bundle):
    (bundle.path / "notes.txt").write_text("mine")
    store_plans(bundle, [("analyzer", key(bundle), b"one", {})])
    assert (bundle.path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("machine", "changes", "runs"),
    [
        (H200, {}, True),
        (H200, {"tensorrt": "10.15.0"}, False),
        (H200, {"gpu": "NVIDIA H100"}, False),
        (H200, {"compute_capability": "8.9"}, False),
        (H200, {"driver": "12.8"}, False),
        (ORIN, {"flags": ("hardware_compatible=ampere_plus",)}, False),  # another TensorRT
        (ORIN, {"flags": ("hardware_compatible=ampere_plus",), "tensorrt": "10.3.0"}, True),
        (H200, {"flags": ("hardware_compatible=same_compute_capability",), "gpu": "NVIDIA H100"}, True),
        (H200, {"flags": ("hardware_compatible=same_compute_capability",), "compute_capability": "8.9"}, False),
        (H200, {"flags": ("version_compatible",), "tensorrt": "10.3.0"}, True),
        (H200, {"flags": ("version_compatible",), "tensorrt": "10.17.0"}, False),
        (H200, {"flags": ("version_compatible",), "tensorrt": "11.0.0"}, False),
        (H200, {"flags": ("version_compatible",), "tensorrt": "10.3.0", "gpu": "NVIDIA H100"}, False),
        (H200, {"flags": ("optimization_level=5",), "driver": "12.8"}, False),
    ],
)
def test_which_machine_runs_which_plan(bundle, machine, changes, runs):
    assert machine.runs(key(bundle, H200, **changes)) == runs


def test_a_plan_built_here_goes_before_a_compatible_one(bundle):
    compatible = key(bundle, ORIN, tensorrt="10.16.0", flags=("hardware_compatible=ampere_plus",))
    plans = [("analyzer", key(bundle), b"own", {}), ("analyzer", compatible, b"compatible", {})]
    stored = store_plans(bundle, plans)
    assert stored.files[choose_plans(stored, H200)["analyzer"].file] == b"own"


def test_a_plan_of_another_graph_is_not_taken(bundle):
    stored = store_plans(bundle, [("analyzer", key(bundle), b"one", {})])
    manifest = json.loads((stored.path / "manifest.json").read_text())
    manifest["plans"][0]["key"]["onnx_sha256"] = "0" * 64
    (stored.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="of another graph"):
        choose_plans(Bundle.load(stored.path), H200)
    with pytest.raises(InputError, match="got another analyzer"):
        store_plans(bundle, [("analyzer", key(bundle, onnx_sha256="0" * 64), b"one", {})])


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ((), {}, r"plans is \{\}, but it must be a list"),
        ((0,), 7, r"plans\[0\] is 7"),
        ((0, "file"), "gone.plan", r"plans\[0\]\.file is 'gone.plan', .*listed file"),
        ((0, "file"), None, r"plans\[0\]\.file"),
        ((0, "role"), "purifier", r"plans\[0\]\.role is 'purifier', .*analyzer, restorer"),
        ((0, "role"), "restorer", r"plans\[0\]\.role .*a graph of this bundle"),
        ((0, "parity"), [], r"plans\[0\]\.parity"),
        ((0, "key"), None, r"plans\[0\]\.key is None"),
        ((0, "key", "onnx_sha256"), "A" * 64, r"hexadecimal"),
        ((0, "key", "tensorrt"), 10.3, r"key\.tensorrt is 10\.3"),
        ((0, "key", "gpu"), "", r"key\.gpu"),
        ((0, "key", "driver"), None, r"key\.driver"),
        ((0, "key", "precision"), "fp8", r"fp32, fp16, int8"),
        ((0, "key", "batch"), [1, 8], r"key\.batch"),
        ((0, "key", "batch"), [8, 1, 32], r"key\.batch"),
        ((0, "key", "batch"), [True, 1, 32], r"key\.batch"),
        ((0, "key", "flags"), "fast", r"key\.flags"),
        ((0, "key", "flags"), [1], r"key\.flags"),
    ],
)
def test_wrong_entries_of_a_manifest(bundle, path, value, words):
    stored = store_plans(bundle, [("analyzer", key(bundle), b"one", {})])
    manifest = json.loads((stored.path / "manifest.json").read_text())
    if path:
        place = manifest["plans"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
    else:
        manifest["plans"] = value
    (stored.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=words) as caught:
        Bundle.load(stored.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("when", [1, 2, 3])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_changes_nothing(bundle, monkeypatch, when, error):
    """At the first plan, at the second, and at the manifest."""
    before = {path.name: path.read_bytes() for path in bundle.path.iterdir()}
    calls = []

    def fails(descriptor):
        calls.append(descriptor)
        if len(calls) == when:
            raise error

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        store_plans(bundle, [("analyzer", key(bundle), b"one", {}), ("analyzer", key(bundle, ORIN), b"two", {})])
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
    assert {path.name: path.read_bytes() for path in bundle.path.iterdir()} == before


def test_an_interrupt_after_the_manifest_was_replaced_keeps_the_plans(bundle, monkeypatch):
    genuine = os.replace

    def replaced(source, target):
        genuine(source, target)
        if Path(target).name == "manifest.json":
            raise KeyboardInterrupt

    monkeypatch.setattr("immunecam.files.os.replace", replaced)
    with pytest.raises(KeyboardInterrupt):
        store_plans(bundle, [("analyzer", key(bundle), b"one", {})])
    assert Bundle.load(bundle.path).manifest.plans[0].key == key(bundle)


def test_a_folder_that_is_gone(bundle):
    import shutil

    shutil.rmtree(bundle.path)
    with pytest.raises(InputError, match="cannot be opened"):
        store_plans(bundle, [("analyzer", key(bundle), b"one", {})])


def test_two_processes_keep_each_others_plans(bundle):
    """Each stores a plan of its own ten times; none is lost."""
    import subprocess
    import sys

    code = (
        "import sys; from immunecam.runtime.bundle import Bundle; from immunecam.runtime.plan_record import PlanKey\n"
        "from immunecam.runtime.plan_writer import store_plans\n"
        "bundle = Bundle.load(sys.argv[1]); sha256 = bundle.manifest.files['analyzer.onnx'].sha256\n"
        "for n in range(10):\n"
        "    key = PlanKey(sha256, '10.3.0', f'{sys.argv[2]}-{n}', '8.7', '12.6', 'fp16', (1, 1, 1))\n"
        "    store_plans(bundle, [('analyzer', key, f'{sys.argv[2]}{n}'.encode(), {})])\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, bundle.path, name]) for name in "ab"]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    plans = Bundle.load(bundle.path).manifest.plans
    assert {plan.key.gpu for plan in plans} == {f"{name}-{n}" for name in "ab" for n in range(10)}
