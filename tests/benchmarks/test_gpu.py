"""The command for a machine with a GPU, as far as one without can tell: checks on an emulated card, table, refusals."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cuda_on_cpu as on_cpu
import cv2
import numpy as np
import pytest
import torch
from host_engine import HostEngine, LaunchedEngine

from immunecam.benchmarks import gpu
from immunecam.benchmarks.card import frame_checks, kernel_times, pixel_checks, runtime_times
from immunecam.benchmarks.card.checks import check_kernels, failures
from immunecam.benchmarks.card.goals import goals
from immunecam.benchmarks.card.table import markdown
from immunecam.benchmarks.card.timing import timing_of
from immunecam.benchmarks.card.torch_engine import TorchCardEngine
from immunecam.errors import InputError
from immunecam.kernels.cuda import Programs
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.runtime.card import CardPurifier, opening
from immunecam.training.deployed import purification_from_bundle

ROOT = Path(__file__).resolve().parents[2]


def checked(faces, **more):
    programs = on_cpu.programs(on_cpu.card(4, 101_376))
    return list(check_kernels(programs, on_cpu.Stream(), faces, k=40, batches=(1, 3), seed=0, **more))


def test_right_kernels_pass_the_checks_and_wrong_ones_fail(core, monkeypatch):
    faces = np.linspace(-1, 1, 2 * 160, dtype=np.float32).reshape(2, 10, 16)
    rows = checked(faces)
    assert len(rows) == (2 + 3 + 3) * 2 * 5  # forms of each basis, batches; modes, NaN, half probabilities
    assert not any(failures(row) for row in rows)
    assert {row["form"] for row in rows} == {"one-pass", "two-pass", "batched"}
    launch = core.launch

    def wrong(stream, config, kernel, *arguments):
        if kernel.name != "reconstruct_float32":  # what is not launched leaves the poison
            launch(stream, config, kernel, *arguments)

    monkeypatch.setattr(core, "launch", wrong)
    for row in checked(np.empty((0, 10, 16), np.float32), bases=["float32"]):
        assert bool(failures(row)) == (row["form"] == "two-pass")

    def broken(stream, config, kernel, *arguments):
        raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED")

    monkeypatch.setattr(core, "launch", broken)
    rows = checked(faces, bases=["int8"])
    assert len(rows) == 3 * 2  # a row for each form and batch, and the check goes on
    assert all("LAUNCH_FAILED" in failures(row)[0] for row in rows)


def test_failures():
    good = report()["checks"][0]
    assert failures(good) == []
    for change, words in (
        ({"bits_equal": False}, "antibody"),
        ({"relative_error": 1e30}, "relative error"),
        ({"largest_grey_difference": 2}, "2 grey levels"),
        ({"bit_equal_runs": False}, "two equal runs"),
        ({"invalid": 1}, "faults"),
        ({"error": "CUDA_ERROR_ILLEGAL_ADDRESS"}, "ILLEGAL"),
    ):
        (said,) = failures(good | change)
        assert words in said


class HostTorchEngine(TorchCardEngine):
    """Runs when the stand-in's stream comes to it."""

    def _run(self, key, stream, work):
        def run():
            with torch.no_grad():
                work()

        stream.enqueue(run, keep=(self,))


def by_torch(bundle, *, device, prebuilt, max_batch):
    from cuda.core import Device

    opened = Device(device)
    opened.set_current()
    stream, engine = opened.create_stream(), HostTorchEngine(purification_from_bundle(bundle), bundle.k)
    return CardPurifier(bundle, engine, Programs(opened, prebuilt=prebuilt), stream=stream, max_batch=max_batch)


@pytest.mark.parametrize("engine", [HostEngine, LaunchedEngine])
def test_the_runtimes_purifier_is_timed_and_compared(core, monkeypatch, engine):
    core.device = on_cpu.Device(on_cpu.card(cooperative=False))
    monkeypatch.setattr(opening, "OnnxRuntimeCardEngine", engine)
    monkeypatch.setattr(opening, "require_cuda", lambda ort: None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(runtime_times, "WARM_SECONDS", 0)
    monkeypatch.setattr(runtime_times, "open_torch", by_torch)

    class Given:
        def __init__(self, array):
            self.array = array
            self.__cuda_array_interface__ = array.__array_interface__ | {"stream": None}

    faces = gpu._real_faces()[:2] if len(gpu._real_faces()) else np.zeros((2, 112, 112), np.float32)
    frame = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8), (0, 0), 6)
    rows = list(
        runtime_times.runtime_times(
            Bundle.load(default_bundle()), faces, frame=frame, batches=(1,), repeats=1, to_card=Given
        )
    )
    paths = ["host to host", "card to card", "networks and kernels", "frame"]
    assert [row.get("path") for row in rows] == [*paths, None, *paths]
    assert "tensorrt" in rows[4]["missing"]
    for number, row in enumerate(rows[:4] + rows[5:]):
        assert row["p50_us"] > 0
        assert row["provider"] == ("cuda" if number < 4 else "torch")
        assert row["graph"] is (number < 4 and engine.capturable)
        assert runtime_times.runtime_failures(row) == []
    for row in (*rows[:2], *rows[5:7]):
        assert row["largest_difference_grey"] <= 1
    assert 0 < rows[3]["differing_pixels_percent"] < 50
    assert runtime_times.runtime_failures({"mean_difference_grey": 3.0}) != []


def test_kernels_are_timed(core, monkeypatch):
    """Every form, cold and warm; mutation once, for it is the same in all."""
    ran = []

    def timed(stream, work, *, together):
        for number in range(3):
            work(number, stream)
        ran.append(together)
        return timing_of([together * 2.0], together)

    monkeypatch.setattr(kernel_times, "time_replays", timed)
    programs = on_cpu.programs(on_cpu.card(4, 101_376))
    programs.device.properties.l2_cache_size = 100_000
    size = {"k": 40, "d": 160, "batches": (1, 3)}
    rows = list(kernel_times.kernel_times(programs, on_cpu.Stream(), 1e9, **size))
    cases = {(row["basis"], row["form"], row["batch"], row["kernel"], row["cache"]) for row in rows}
    assert len(cases) == len(rows) == len(ran) == (2 + 3 + 3) * 2 * 4 + 3 * 2
    assert rows[0]["basis"] == "float16"  # of the goals
    assert {row["form"] for row in rows if row["kernel"] == "mutate"} == {"two-pass"}
    for row in rows:
        assert row["p50_us"] == 2.0
        assert row["fraction_of_copy"] == pytest.approx(row["bytes"] / 2e-6 / 1e9, abs=1e-4)
    one = next(row for row in rows if row["kernel"] == "project" and row["batch"] == 1)
    # Half of the rows in two bytes a value, the face and its float32 and 8-bit result, and the list of active rows.
    assert one["bytes"] == 20 * 160 * 2 + 160 * (4 + 4 + 1) + 20 * 6
    alone = list(kernel_times.kernel_times(programs, on_cpu.Stream(), 1e9, **size, forms=("batched",)))
    assert {row["form"] for row in alone} == {"batched"}


def test_plans_are_built_where_tensorrt_is(world, stand_in, tmp_path, monkeypatch, capsys):
    """By the command, in this process: another has no stand-in."""
    from immunecam.export import to_trt  # where onnx is, as the stand-in's fixture has seen

    made = stand_in.small_bundle(tmp_path / "a.immune")

    def run(command, **_):
        assert Path(command[1]) == Path(to_trt.__file__)
        return subprocess.CompletedProcess(command, to_trt.main(command[2:]), *capsys.readouterr())

    monkeypatch.setattr(gpu.subprocess, "run", run)
    bundle = gpu.planned(made.path, tmp_path / "scratch")
    assert [(plan.role, plan.key.precision, plan.key.batch) for plan in bundle.manifest.plans] == [
        ("analyzer", "fp32", (1, 1, 128)),
        ("restorer", "fp32", (1, 1, 128)),
    ]
    assert Bundle.load(made.path).manifest.plans == ()
    world.memory = 0
    with pytest.raises(InputError, match=r"a\.immune gets no plans here: to_trt\.py: .*memory"):
        gpu.planned(made.path, tmp_path / "again")


def test_providers_that_are_missing_are_told(core, monkeypatch, tmp_path):
    """Each by its own process; a bundle that is not there stops none of the others."""
    core.device = on_cpu.Device(on_cpu.card())
    monkeypatch.setattr(gpu, "_same_card", lambda given: None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    given = gpu._parser().parse_args(["--part", "runtime", "--variant", "tensorrt", "--bundle", str(tmp_path / "none")])
    given.bundle.append(default_bundle())
    first, second = gpu._runtime(given)
    assert str(tmp_path / "none") in first["missing"]
    assert "TensorRT cannot be imported" in second["missing"]
    given.variant = "cuda"
    assert ["built without CUDA" in row["missing"] for row in gpu._runtime(given)] == [False, True]


def test_timing():
    timing = timing_of([400.0, 100.0, 200.0], together=10)
    assert (timing.p50, timing.least, timing.p95, timing.repeats) == (20.0, 10.0, 40.0, 3)
    assert timing.to_dict()["p50_us"] == 20.0


def test_the_real_picture(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "_ROOT", tmp_path)  # as where the package is installed, without docs
    assert gpu.real_picture() is None
    assert gpu._real_faces().shape == (0, 112, 112)
    monkeypatch.setattr(gpu, "_ROOT", ROOT)
    picture, faces = gpu.real_picture(), gpu._real_faces()
    if importlib.util.find_spec("PIL") is None:
        assert picture is None
        assert faces.shape == (0, 112, 112)
        pytest.skip("Pillow is not installed")
    assert picture.shape[2] == 3
    assert len(faces) > 20
    assert faces.dtype == np.float32
    assert -1 <= faces.min() < -0.3 < 0.3 < faces.max() <= 1


@pytest.fixture
def frames_checked(core, monkeypatch):
    """Rows of the frames' checks, on a blurred random frame of odd sides."""
    monkeypatch.setattr(
        frame_checks, "time_replays", lambda stream, work, **more: work(0, stream) or timing_of([100.0], together=10)
    )
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    frame = cv2.GaussianBlur(frame, (0, 0), 6)[:-1, :-1]
    programs = on_cpu.programs(on_cpu.card())
    return lambda: {row["kernel"]: row for row in frame_checks.check_frames(programs, on_cpu.Stream(), frame)}


def test_frames_are_compared_with_the_runtime(frames_checked):
    rows = frames_checked()
    planar = [
        f"{what}, NV12, {colours} range"
        for colours in ("full", "video")
        for what in ("align", "paste, keep", "paste, grey")
    ]
    assert list(rows) == ["align", "align, crops in colour", "paste, keep", "paste, grey", *planar]
    for row in rows.values():
        assert frame_checks.frame_failures(row) == []
        assert row["p50_us"] == 10.0
        assert 4 * 112**2 < row["bytes"] < 2.1 * 3 * 320 * 480 + 7 * 4 * 112**2
    wrong = {"mean_difference_grey": 30.0, "p99_difference_grey": 200.0}
    assert len(frame_checks.frame_failures(wrong)) == 2


@pytest.mark.parametrize(
    ("member", "place", "value", "fail"),
    [
        ("align_nv12", -2, np.int32(1), {"align, NV12, video range"}),  # the range
        ("align_bgr", -1, 0, {"align, crops in colour"}),  # no crops
        ("paste_bgr", -1, np.int32(1), {"paste, keep"}),  # always grey
        ("paste_nv12", -2, np.int32(0), {"paste, grey, NV12, full range", "paste, grey, NV12, video range"}),
        ("paste_nv12", -1, np.int32(1), {"paste, keep, NV12, video range", "paste, grey, NV12, video range"}),
    ],
)
def test_wrong_frames_are_found(core, monkeypatch, frames_checked, member, place, value, fail):
    """What a kernel would do that overlooked one of its arguments."""
    launch = core.launch

    def wrong(stream, config, kernel, *arguments):
        given = list(arguments)
        if kernel.name == member:
            given[place] = value
        launch(stream, config, kernel, *given)

    monkeypatch.setattr(core, "launch", wrong)
    rows = frames_checked()
    assert {name for name, row in rows.items() if frame_checks.frame_failures(row)} == fail


def test_pixels_are_the_cpus(core, monkeypatch):
    def checked():
        programs = on_cpu.programs(on_cpu.card())
        rows = list(pixel_checks.check_pixels(programs, on_cpu.Stream(), side=20, batches=(1, 3)))
        assert len(rows) == 2 * 5
        return {(row["kernel"], row["batch"]) for row in rows if pixel_checks.pixel_failures(row)}

    assert checked() == set()
    launch = core.launch

    def packed(stream, config, kernel, *arguments):
        """As if nothing lay between rows."""
        given = list(arguments)
        if kernel.name.startswith("take"):
            given[2:4] = np.uint64(20), np.uint64(400)
        launch(stream, config, kernel, *given)

    monkeypatch.setattr(core, "launch", packed)
    assert {kernel.partition(",")[0] for kernel, _ in checked()} == {"take"}
    monkeypatch.setattr(core, "launch", lambda stream, config, kernel, *_: None)
    assert len(checked()) == 10  # what is not written is not what is wanted


TIMES = {"p50_us": 20.0, "p95_us": 22.0, "least_us": 19.0, "repeats": 40, "together": 48}


def report():
    check = {
        "basis": "float16", "form": "one-pass", "batch": 1, "mode": "sample", "k": 1500, "bits_equal": True,
        "relative_error": 3e-6, "largest_grey_difference": 1, "differing_pixels_percent": 0.01, "bit_equal_runs": True,
        "invalid": 0, "invalid_expected": 0, "failures": [],
    }  # fmt: skip
    kernel = {"kernel": "mutate + project", "basis": "float16", "form": "one-pass", "batch": 1, "cache": "cold",
              "k": 1500, "rotated_megabytes": 180, **TIMES, "bytes": 19_000_000, "fraction_of_copy": 0.22}  # fmt: skip
    form = {"form": "cuBLAS in a graph", "basis": "float16", "batch": 1, "k": 1500, **TIMES, "p50_us": 90.0}
    card = {"name": "H200", "compute_capability": "9.0", "multiprocessors": 132, "shared_memory_bytes": 232448,
            "l2_cache_bytes": 60 << 20, "integrated": False}  # fmt: skip
    return {
        "build": [{"card": card, "packages": {"cuda-core": "1.2.2", "triton": None}, "real_faces": 0,
                   "used": "nvcc"}],
        "checks": [check],
        "frames": [{"kernel": "align", "batch": 4, "mean_difference_grey": 0.3, "p99_difference_grey": 2.0, **TIMES,
                    "bytes": 8_600_000, "failures": []}],
        "pixels": [{"kernel": "take, uint8", "batch": 1, "differing": 0, "faults": 0, "faults_expected": 0,
                    "failures": []}],
        "sanitizer": [{"tool": "memcheck", "cases": 30, "said": "ERROR SUMMARY: 0 errors", "failures": []}],
        "kernels": [{"kernel": "copy", "gigabytes_per_second": 4300.0}, kernel,
                    kernel | {"form": "two-pass", "p50_us": 30.0}],
        "forms": [form, form | {"form": "cuBLAS"}, {"form": "torch.compile", "basis": "float16", "batch": 1, "k": 1500,
                                                     "error": "no compiler"}],
        "purifications": [{"bundle": "edge", "batch": 1, "networks": "float32", "form": "graph", **TIMES,
                           "mean_difference_grey": 0.02},
                          {"bundle": "edge", "batch": 1, "networks": "float32", "form": "paper, eager", **TIMES,
                           "p50_us": 1000.0},
                          {"bundle": "edge", "batch": 1, "networks": "float16", "form": "graph", "error": "no half"}],
        "runtime": [{"provider": "cuda", "bundle": "edge", "batch": 8, "path": "host to host", "graph": False, **TIMES,
                     "mean_difference_grey": 0.01, "largest_difference_grey": 1, "differing_pixels_percent": 0.02,
                     "failures": []},
                    {"provider": "tensorrt", "bundle": "edge", "missing": "TensorRT is missing.", "failures": []}],
        "left_out": ["forms: 8 minutes were over"],
    }  # fmt: skip


def test_table():
    page = markdown(report())
    assert "1 cases against a float64 reference" in page
    assert "0 failed" in page
    assert "| cuBLAS in a graph | float16 | 1 | 90.0 | 4.5 |" in page  # against the faster of two forms
    assert "| cuBLAS | float16 | 1 | 90.0 |  |" in page  # timed in another way, so there is no quotient
    assert "| torch.compile | float16 | 1 | no compiler |  |" in page
    assert "| 22 % |" in page
    assert "copies 4300 GB/s" in page
    assert "| edge | 1 | float32 | graph | 20.0 | 20.0 | 50.0 | 0.02 |" in page
    assert "| edge | 1 | float16 | graph | no half |  |  |  |" in page
    assert "8 minutes were over" in page
    assert "| cuda | edge | 8 | host to host | no | 20.0 | 22.0 | 0.01 | 1 | no |" in page
    assert "- tensorrt, edge: TensorRT is missing." in page
    assert "| align | 4 | 20.00 | 8.60 | 10.0 % | 0.30 | 2.0 | no |" in page
    assert "1 cases, which must give the CPU's values to the last bit: 0 failed." in page
    failed = report()
    failed["checks"][0] |= {"failures": ["two equal runs differ"], "bit_equal_runs": False}
    assert "two equal runs differ" in markdown(failed)
    assert "are not bit-equal" in markdown(failed)
    failed["checks"] *= 30
    assert markdown(failed).count("two equal runs differ") == 20
    assert "- and 10 more" in markdown(failed)
    assert page.index("## Goals") > page.index("## Left out")
    assert "- PASS: edge: whole purification" in page
    nothing = markdown({name: [] for name in (*gpu.PARTS, "left_out")})
    assert "Nothing could be built" in nothing
    assert nothing.count("NOT MEASURED") == 3  # whose times are goals is not known


def said(changed):
    return [str(goal) for goal in goals(changed)]


def test_goals():
    whole = report()
    fast, many, whole_fast, whole_faster = said(whole)
    assert fast == (
        "FAIL: mutation and projection of one face, K = 1500, float16, half of the rows active, at 70 % of copy "
        "bandwidth or in under 10 us: 22.0 %, 20.00 us (one-pass, cold); missed by 48.0 % of copy bandwidth and "
        "10.00 us."
    )
    assert many.startswith("NOT MEASURED")
    assert whole_fast == (
        "PASS: edge: whole purification of one face in under 150 us with a graph: 20.0 us "
        "(networks by PyTorch, float32)."
    )
    assert whole_faster.startswith("PASS: edge: ")
    assert whole_faster.endswith("paper's form: 50.00 times, 20.0 us (networks by PyTorch, float32) against 1000.0 us.")
    whole["purifications"][1]["p50_us"] = 999.0
    whole["purifications"][0]["p50_us"] = 151.5
    assert said(whole)[2].startswith("FAIL")
    assert said(whole)[2].endswith("missed by 1.5 us.")
    assert said(whole)[3].endswith("missed by 43.41 times.")
    backend = whole["runtime"][0] | {"path": "networks and kernels", "batch": 1, "p50_us": 149.9}
    whole["runtime"].append(backend | {"graph": True, "provider": "tensorrt"})
    assert said(whole)[2].endswith("graph: 149.9 us (networks by tensorrt).")
    whole["runtime"][-1] = backend  # without a graph
    assert said(whole)[2].startswith("FAIL")
    for row in (*whole["kernels"][1:], *whole["checks"]):
        row["batch"] = 128
    whole["forms"].append(whole["forms"][0] | {"batch": 128, "p50_us": 60.0})
    assert said(whole)[1].startswith("PASS: the same of 128 faces at least 3 times as fast as cuBLAS: 3.00 times")
    whole["forms"][-1]["p50_us"] = 50.0
    assert said(whole)[1].endswith("2.50 times, 20.0 us (one-pass, cold) against 50.0 us; missed by 0.50 times.")


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        ({"p50_us": 9.99}, True),
        ({"p50_us": 10.0}, False),
        ({"fraction_of_copy": 0.7}, True),
        ({"k": 64}, None),
        ({"cache": "warm"}, None),
        ({"kernel": "project"}, None),
        ({"basis": "int8"}, None),
    ],
)
def test_goal_of_one_face(change, passes):
    whole = report()
    whole["kernels"] = [whole["kernels"][1] | change]
    whole["checks"] = [whole["checks"][0] | {name: whole["kernels"][0][name] for name in ("basis", "k")}]
    assert goals(whole)[0].met is passes


def test_times_of_a_form_that_is_wrong_or_was_not_checked_reach_no_goal():
    whole = report()
    whole["kernels"].append(whole["kernels"][1] | {"form": "batched", "p50_us": 1.0})
    assert "one-pass" in goals(whole)[0].found  # the batched form is in no check
    whole["checks"].append(whole["checks"][0] | {"form": "batched", "batch": 128})
    assert "one-pass" in goals(whole)[0].found  # or in none of one face
    whole["checks"].append(whole["checks"][0] | {"form": "one-pass", "failures": ["two equal runs differ"]})
    assert goals(whole)[0].met is None


def test_times_are_goals_for_the_h200_only():
    whole = report()
    whole["build"][0]["card"]["name"] = "Orin"
    whole["kernels"][1]["p50_us"] = 9.0
    first, *_, last = goals(whole)
    assert first.met is False
    assert "10 us" not in first.wanted
    assert len(goals(whole)) == 3
    assert "times as fast as the paper" in last.wanted


def test_the_command_from_a_plain_checkout_says_what_is_missing(tmp_path):
    """Not installed, from another folder, as somebody with a fresh clone would call it."""
    if importlib.util.find_spec("cuda") is not None:
        pytest.skip("cuda.core is installed")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 4
    assert "immunecam[cuda13]" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def parts(monkeypatch):
    """Processes that write what those of a card would; what they were asked for."""
    whole, asked, hang = report(), [], {("kernels", "one-pass")}

    def process(command, seconds, meanwhile):
        name, rows = (command[command.index(word) + 1] for word in ("--part", "--rows"))
        variant = command[command.index("--variant") + 1] if "--variant" in command else None
        asked.append((name, variant))
        found = whole["checks" if name == "sanitizer" else name]
        if name == "purifications":
            return 1, "", "Traceback\nRuntimeError: no memory\n"
        if variant in (None, "two-pass", "memcheck"):
            Path(rows).write_text("".join(json.dumps(row) + "\n" for row in found))
        if variant == "one-pass" and (name, variant) in hang:
            with Path(rows).open("a") as file:
                file.write('{"kernel": "mut')  # as one that is killed leaves it
            return None, "", "the barrier\n"
        if variant == "racecheck":
            return 0, "RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n", ""
        return (-11, "", "") if name == "forms" else (0, "", "")

    monkeypatch.setattr("immunecam.kernels.cuda.open_device", lambda number: None)
    monkeypatch.setattr(gpu, "_limited", process)
    monkeypatch.setattr(gpu.shutil, "which", lambda name, path=None: f"/usr/bin/{name}")
    return whole, asked, hang


def test_what_was_measured_stays_if_a_part_fails(tmp_path, parts):
    """Order, limits and report."""
    _, asked, hang = parts
    hang.add(("checks", "one-pass"))
    (tmp_path / "gpu.log").write_text("of an earlier run")
    assert gpu.main(["--out", str(tmp_path)]) == 3  # for what the sanitizer found
    assert asked == [(name, variant) for name, part in gpu.PARTS.items() for variant in part.variants or (None,)]
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["schema"] == gpu.SCHEMA
    assert len(content["rows"]) == 3
    assert len(content["checks"]) == 1
    assert [row["cases"] for row in content["sanitizer"]] == [1, 0, 0]
    assert "2 hazards" in content["sanitizer"][1]["failures"][0]
    assert content["left_out"] == [
        "checks, one-pass: stopped after 60 s",
        "kernels, one-pass: stopped after 70 s",
        "forms: killed by SIGSEGV",
        "purifications: RuntimeError: no memory",
    ]
    page = (tmp_path / "gpu.md").read_text()
    assert "no memory" in page
    assert page.rstrip().splitlines()[-1].startswith("- NOT MEASURED: whole purification")
    log = (tmp_path / "gpu.log").read_text()
    assert "Traceback" in log
    assert "== checks one-pass\nthe barrier" in log
    assert "earlier" not in log
    assert gpu.main(["--out", str(tmp_path), "--minutes", "0"]) == 3  # nothing was checked
    assert len(json.loads((tmp_path / "gpu.json").read_text())["left_out"]) == len(asked)


def test_the_exit_code_is_that_of_the_checks(tmp_path, parts, monkeypatch):
    whole, _, hang = parts
    monkeypatch.setattr(gpu.shutil, "which", lambda name, path=None: None)
    assert gpu.main(["--out", str(tmp_path)]) == 0
    assert "sanitizer, memcheck: compute-sanitizer was not found" in (tmp_path / "gpu.md").read_text()
    hang.add(("checks", "one-pass"))
    assert gpu.main(["--out", str(tmp_path)]) == 3  # a hanging kernel is no right one
    hang.clear()
    whole["checks"][0]["failures"] = ["two equal runs differ"]
    assert gpu.main(["--out", str(tmp_path)]) == 3


def test_what_was_measured_stays_if_the_command_is_stopped(tmp_path, parts, monkeypatch):
    whole, _, _ = parts
    seen = []

    def stopped(command, seconds, meanwhile):
        name, rows = (command[command.index(word) + 1] for word in ("--part", "--rows"))
        Path(rows).write_text(json.dumps(whole[name][0]) + "\n")
        meanwhile()
        seen.append(len(json.loads((tmp_path / "gpu.json").read_text())[name]))
        if name == "checks":
            with Path(rows).open("a") as file:
                file.write(json.dumps(whole[name][0]) + "\n")
            raise SystemExit(143)
        return 0, "", ""

    monkeypatch.setattr(gpu, "_limited", stopped)
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path)])
    assert seen == [1, 1]  # while they run
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert (len(content["build"]), len(content["checks"])) == (1, 2)


def test_what_a_part_has_started_is_stopped_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_NOTED_EVERY", 0.1)
    child = "import pathlib, sys, time; time.sleep(1.5); pathlib.Path(sys.argv[1]).touch()"
    parent = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]);"
        "print('there', flush=True); time.sleep(30)"
    )
    noted = []
    command = [sys.executable, "-c", parent, child, str(tmp_path / "alive")]
    code, out, _ = gpu._limited(command, 0.7, lambda: noted.append(1))
    assert code is None
    assert out == "there\n"
    assert len(noted) > 2
    with pytest.raises(KeyboardInterrupt):
        gpu._limited(command, 20, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    time.sleep(1.7)
    assert not (tmp_path / "alive").exists()
    assert gpu._limited([sys.executable, "-c", "import sys; sys.exit('no')"], 20) == (1, "", "no\n")


def test_nobody_waits_for_who_holds_the_output_of_a_part_that_has_ended():
    child = "import time; time.sleep(20)"
    parent = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True)"
    began = time.monotonic()
    assert gpu._limited([sys.executable, "-c", parent + "; print('done')", child], 15)[:2] == (0, "done\n")
    assert time.monotonic() - began < 10


def test_a_part_writes_rows_as_they_come(tmp_path, monkeypatch):
    def rows(given):
        yield {"number": given.k}
        raise RuntimeError("lost")

    monkeypatch.setitem(gpu.PARTS, "forms", gpu.Part(rows, 1))
    with pytest.raises(RuntimeError, match="lost"):
        gpu.main(["--part", "forms", "--rows", str(tmp_path / "rows"), "--k", "7"])
    assert (tmp_path / "rows").read_text() == '{"number": 7}\n'
