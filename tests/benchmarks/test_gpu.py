"""The command for a machine with a GPU, as far as one without can tell: checks on an emulated card, table, refusals."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from immunecam.benchmarks import gpu
from immunecam.benchmarks.card.checks import check_kernels, failures
from immunecam.benchmarks.card.table import markdown
from immunecam.benchmarks.card.timing import timing_of
from immunecam.errors import BackendMissingError

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("cuda_on_cpu", ROOT / "tests" / "kernels" / "cuda_on_cpu.py")
on_cpu = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(on_cpu)


@pytest.fixture
def core(tmp_path, monkeypatch):
    core = on_cpu.Core(tmp_path)
    package = types.ModuleType("cuda")
    package.core = core
    monkeypatch.setitem(sys.modules, "cuda", package)
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    return core


def checked(faces, **more):
    programs = on_cpu.Programs(on_cpu.card())
    return list(check_kernels(programs, on_cpu.Stream(), faces, k=40, batches=(1, 3), seed=0, **more))


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_right_kernels_pass_the_checks_and_wrong_ones_fail(core, monkeypatch):
    faces = np.linspace(-1, 1, 2 * 160, dtype=np.float32).reshape(2, 10, 16)
    rows = checked(faces)
    assert len(rows) == 3 * 2 * 2 * 3  # bases, forms, batches, modes
    assert not any(failures(row) for row in rows)
    assert {row["form"] for row in rows} == {"one-pass", "two-pass"}
    launch = core.launch

    def wrong(stream, config, kernel, *arguments):
        if kernel != "reconstruct_float32":  # what is not launched leaves the poison
            launch(stream, config, kernel, *arguments)

    monkeypatch.setattr(core, "launch", wrong)
    for row in checked(np.empty((0, 10, 16), np.float32), bases=["float32"]):
        assert bool(failures(row)) == (row["form"] == "two-pass")


def test_failures():
    good = {
        "bits_equal": True,
        "relative_error": 1e-6,
        "largest_grey_difference": 1,
        "bit_equal_runs": True,
    }
    assert failures(good) == []
    for change, words in (
        ({"bits_equal": False}, "antibody"),
        ({"relative_error": float("nan")}, "relative error"),
        ({"largest_grey_difference": 2}, "2 grey levels"),
        ({"bit_equal_runs": False}, "two equal runs"),
    ):
        (said,) = failures(good | change)
        assert words in said


def test_timing():
    timing = timing_of([400.0, 100.0, 200.0], together=10)
    assert (timing.p50, timing.least, timing.p95, timing.repeats) == (20.0, 10.0, 40.0, 3)
    assert timing.to_dict()["p50_us"] == 20.0


def test_real_faces():
    faces = gpu.real_faces()
    if importlib.util.find_spec("PIL") is None:
        assert faces.shape == (0, 112, 112)
        pytest.skip("Pillow is not installed")
    assert len(faces) > 20
    assert faces.dtype == np.float32
    assert -1 <= faces.min() < -0.3 < 0.3 < faces.max() <= 1


def report():
    check = {
        "basis": "int8", "form": "one-pass", "batch": 8, "mode": "sample", "k": 1500, "bits_equal": True,
        "relative_error": 3e-6, "largest_grey_difference": 1, "differing_pixels_percent": 0.01, "bit_equal_runs": True,
        "failures": [],
    }  # fmt: skip
    times = {"p50_us": 20.0, "p95_us": 22.0, "least_us": 19.0, "repeats": 40, "together": 48}
    kernel = {"kernel": "mutate + project", "basis": "float16", "form": "one-pass", "batch": 1, "cache": "cold",
              "k": 1500, **times, "bytes": 19_000_000, "fraction_of_copy": 0.22}  # fmt: skip
    return {
        "card": {
            "name": "H200", "compute_capability": "9.0", "multiprocessors": 132, "shared_memory_bytes": 232448,
            "l2_cache_bytes": 60 << 20, "integrated": False,
        },
        "built": {"used": "nvcc"},
        "checks": [check],
        "sanitizer": {"errors": 0, "said": "ERROR SUMMARY: 0 errors"},
        "copy_gigabytes_per_second": 4300.0,
        "kernels": [kernel, kernel | {"form": "two-pass", "p50_us": 30.0}],
        "forms": [{"form": "cuBLAS", "basis": "float16", "batch": 1, "k": 1500, **times, "p50_us": 90.0}],
        "purifications": [{"bundle": "edge", "batch": 1, "form": "graph", **times, "mean_difference_grey": 0.02}],
        "left_out": ["forms: 8 minutes were over"],
    }  # fmt: skip


def test_table():
    page = markdown(report())
    assert "1 cases against a float64 reference" in page
    assert "0 failed" in page
    assert "| cuBLAS | float16 | 1 | 90.0 | 4.5 |" in page  # against the faster of two forms
    assert "| 22 % |" in page
    assert "8 minutes were over" in page
    failed = report()
    failed["checks"][0]["failures"] = ["two equal runs differ"]
    failed["checks"][0]["bit_equal_runs"] = False
    assert "two equal runs differ" in markdown(failed)
    assert "are not bit-equal" in markdown(failed)


def test_the_command_from_a_plain_checkout_says_what_is_missing(tmp_path):
    """Not installed, from another folder, as somebody with a fresh clone would call it."""
    if importlib.util.find_spec("cuda") is not None:
        pytest.skip("cuda.core is installed")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 4
    assert "immunecam[cuda]" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_was_measured_stays_if_a_part_fails(tmp_path, monkeypatch):
    """The order of parts, time limit and report, with parts that need a card exchanged."""
    device = types.SimpleNamespace(
        name="H200", compute_capability=(9, 0), create_stream=lambda: None,
        properties=types.SimpleNamespace(
            multiprocessor_count=132, max_shared_memory_per_block_optin=232448, cooperative_launch=True,
            integrated=False, l2_cache_size=60 << 20,
        ),
    )  # fmt: skip
    whole = report()
    monkeypatch.setattr("immunecam.kernels.cuda.open_device", lambda number: device)
    monkeypatch.setattr(gpu, "_built", lambda device: (None, {"used": "nvcc"}))
    monkeypatch.setattr("immunecam.benchmarks.card.checks.check_kernels", lambda *a, **k: [dict(whole["checks"][0])])

    def kernels(programs, stream, k, report):
        yield whole["kernels"][0]
        raise RuntimeError("CUDA error: out of\nmemory")

    def missing(*given):
        raise BackendMissingError("no backend")

    monkeypatch.setattr(gpu, "_kernels", kernels)
    monkeypatch.setattr(gpu, "_purifications", missing)
    monkeypatch.setattr(gpu, "_forms", lambda k: [])
    assert gpu.main(["--out", str(tmp_path), "--no-sanitizer"]) == 0
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["schema"] == gpu.SCHEMA
    assert len(content["rows"]) == 1
    assert content["left_out"] == ["kernels: CUDA error: out of memory", "purifications: no backend"]
    assert "out of memory" in (tmp_path / "gpu.md").read_text()
    assert gpu.main(["--out", str(tmp_path), "--no-sanitizer", "--minutes", "0"]) == 0
    assert len(json.loads((tmp_path / "gpu.json").read_text())["left_out"]) == 3
    bad = dict(whole["checks"][0]) | {"bit_equal_runs": False}
    monkeypatch.setattr("immunecam.benchmarks.card.checks.check_kernels", lambda *a, **k: [bad])
    assert gpu.main(["--out", str(tmp_path), "--no-sanitizer"]) == 3
