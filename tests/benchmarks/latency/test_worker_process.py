"""A measuring process: that it is pinned, that its errors come through, and that it may die."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from immunecam.benchmarks.latency.plan import usable_cores
from immunecam.benchmarks.latency.worker import FORMS
from immunecam.benchmarks.latency.worker_process import WorkerProcess
from immunecam.errors import BackendMissingError, ImmuneCamError, InputError
from immunecam.runtime.bundle import default_bundle


@pytest.fixture
def specification(tmp_path):
    faces = tmp_path / "faces.npy"
    np.save(faces, np.zeros((2, 112, 112), np.float32))
    return {
        "form": "reference",
        "bundle": str(default_bundle()),
        "provider": "cpu",
        "threads": 1,
        "faces": str(faces),
        "source": str(default_bundle().with_name("sample.mp4")),
        "pin": None,
        "keys": None,
        "state": None,
    }


def _status(process, name):
    text = Path(f"/proc/{process._process.pid}/status").read_text()
    return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith(name))


def test_every_form_has_a_module():
    folder = Path(__file__).resolve().parents[3] / "benchmarks" / "latency"
    assert {f"{form}_work.py" for form in FORMS} == {path.name for path in folder.glob("*_work.py")}


def test_it_is_pinned_and_counts_what_it_does(specification):
    core = usable_cores()[-1]
    with WorkerProcess(specification | {"pin": [core]}) as process:
        assert _status(process, "Cpus_allowed_list") == str(core)
        block = process.measure(1, 0.0)
        assert len(block.stages_ms["total"]) == 3
        assert len(process.measure(1, 0.3).stages_ms["total"]) > 3
        assert block.peak_memory_mib == pytest.approx(int(_status(process, "VmHWM").split()[0]) / 1024, rel=0.1)
        assert 0 < process.cold_start_s < 60


def test_errors_come_through_with_their_class(specification):
    with pytest.raises(InputError, match="no bundle at nowhere"):
        WorkerProcess(specification | {"form": "faces", "bundle": "nowhere"})
    with pytest.raises(BackendMissingError, match="cuda"):
        WorkerProcess(specification | {"form": "faces", "provider": "cuda"})
    with pytest.raises(ImmuneCamError, match=r"measures faces failed: .*none\.npy"):
        WorkerProcess(specification | {"form": "faces", "faces": "none.npy"})


def test_a_process_that_dies_is_told(specification):
    with WorkerProcess(specification) as process:
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(InputError, match="reference ended with -9 before it answered"):
            process.measure(1, 0.1)


def test_a_camera_is_pinned_and_counts_on(specification):
    core = usable_cores()[-1]
    with WorkerProcess(specification | {"form": "live", "speed": 1.0, "pin": [core]}) as process:
        assert _status(process, "Cpus_allowed_list") == str(core)
        first, second = (process.measure(1, seconds) for seconds in (2.0, 0.3))  # the clip is shorter than that
    assert second.about["reconnections"] == 0
    ages = second.stages_ms["age"]
    assert len(ages) >= 3
    assert all(0 < busy <= age for busy, age in zip(second.stages_ms["total"], ages, strict=True))
    assert 0 < first.about["came"] < second.about["came"]
    assert second.about["came"] - second.about["dropped"] >= len(ages)
    assert (second.about["width"], second.about["height"]) == (960, 408)


def test_frames_of_a_single_picture_have_a_decoding_time(specification, tmp_path):
    import cv2

    found, image = cv2.VideoCapture(specification["source"]).read()
    assert found
    cv2.imwrite(str(tmp_path / "one.png"), image)
    with WorkerProcess(specification | {"form": "frames", "source": str(tmp_path / "one.png")}) as process:
        block = process.measure(1, 0.0)
    assert block.faces == 9
    assert min(block.stages_ms["decode"]) > 1  # a PNG of this size takes several milliseconds
    assert all(a < b for a, b in zip(block.stages_ms["find"], block.stages_ms["total"], strict=True))
