"""A leak is told from a step."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from immunecam.benchmarks.resident_memory import growth, resident_bytes


def test_a_leak_is_seen_and_a_step_is_not():
    frames = np.arange(0.0, 100_000.0, 1000.0)
    noise = np.random.default_rng(0).normal(0, 2000, len(frames))
    leaking = 2e8 + 30 * frames + noise
    slope, line = growth(frames, leaking)
    assert slope == pytest.approx(30, rel=0.01)
    assert line == pytest.approx(np.polyfit(frames, leaking, 1)[0])
    # Steps again and again are a leak, too.
    slope, _ = growth(frames, 2e8 + 2e5 * np.floor(frames / 10_000))
    assert slope == pytest.approx(20, rel=0.2)
    slope, line = growth(frames, 2e8 + 5e6 * (frames > 70_000) + noise)
    assert abs(slope) < 1
    assert line > 30


def test_points_at_one_place_have_no_slope():
    assert growth(np.full(3, 7.0), np.array([1.0, 5.0, 9.0])) == (0.0, 0.0)
    assert growth(np.ones(1), np.ones(1)) == (0.0, 0.0)


def test_memory_of_this_process_and_of_another():
    code = "held = bytearray(100 << 20); held[::4096] = bytes([1]) * 25600; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert 100 << 20 < resident_bytes(other.pid) < 150 << 20
        other.communicate(b"\n")
    assert resident_bytes() > 20 << 20
