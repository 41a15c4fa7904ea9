"""The soak run in small: what it counts adds up, and it leaves nothing open."""

from __future__ import annotations

import pytest
from small_gate import write_recognizer

from immunecam.benchmarks.soak import main, soak
from immunecam.errors import UsageError
from immunecam.runtime.bundle import default_bundle


def test_cameras_are_read_to_the_end_and_closed():
    clip = default_bundle().with_name("sample.mp4")
    row = soak(clip, 2, 120, 20.0, None)
    assert row["frames"] >= 120
    assert row["taken"] + row["dropped"] <= row["frames"] <= row["taken"] + row["dropped"] + 4
    assert row["reconnections"] == 0
    assert len(row["latency_p50_ms"]) == len(row["latency_p99_ms"]) == min(10, row["taken"])
    before, during, after = row["descriptors_before_during_after"]
    assert before <= after < during
    assert row["threads_before_during_after"][1] > row["threads_before_during_after"][2]


def test_decisions_of_a_gate_are_counted(tmp_path):
    pytest.importorskip("cryptography")
    row = soak(default_bundle().with_name("sample.mp4"), 1, 90, 30.0, write_recognizer(tmp_path))
    assert row["gate"]
    assert row["decisions"] >= 1
    assert row["taken"] >= 1


def test_a_gate_serves_one_camera(tmp_path):
    with pytest.raises(UsageError, match="one source, and there are 2"):
        soak(tmp_path / "a.mp4", 2, 10, 30.0, tmp_path / "face.toml")
    with pytest.raises(SystemExit):
        main(["--minutes", "often"])
