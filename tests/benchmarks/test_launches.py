"""Measurements in processes of their own: what they print, and how one that fails is told."""

from __future__ import annotations

import pytest

from immunecam.benchmarks.launches import launched, per_face


def test_a_launch_that_fails_is_told_in_a_sentence():
    with pytest.raises(SystemExit) as ended:
        launched("int8_speed", ["no.immune", "none.immune"], 3)
    said = str(ended.value)
    assert said.startswith("launch 1 of 3 of int8_speed ended with 1 (")
    assert "no.immune" in said
    assert len(said.splitlines()) == 1


def test_times_are_of_one_face_and_over_launches():
    times = [{"mask": {"cpu_p50_ms": cpu, "wall_p50_ms": 2 * cpu}} for cpu in (8.0, 4.0, 24.0)]
    assert per_face(times, "mask", 4) == {
        "cpu_p50_ms": 2.0,
        "cpu_p50_ms_worst_launch": 6.0,
        "wall_p50_ms": 4.0,
        "wall_p50_ms_worst_launch": 12.0,
    }
