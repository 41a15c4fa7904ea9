"""Reports: whole or not at all, and numbers that were measured."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from immunecam.errors import InputError
from immunecam.runtime.report import machine, percentiles_ms, versions, write_report


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=300))
def test_percentiles_are_measured_values(seconds):
    found = percentiles_ms(seconds)
    for q in (50, 95, 99):
        assert min(abs(found[f"p{q}_ms"] - 1000 * s) for s in seconds) < 1e-4
        share = np.mean([1000 * s <= found[f"p{q}_ms"] + 1e-4 for s in seconds])
        assert share >= q / 100
    assert found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]


def test_no_measurement_gives_no_number():
    assert percentiles_ms([]) == {}


def test_report(tmp_path):
    path = tmp_path / "r.json"
    write_report(path, "immunecam.test/1", [{"p50_ms": 1.5}], bundle_sha256="ab", threads=2)
    content = json.loads(path.read_text())
    assert content["schema"] == "immunecam.test/1"
    assert content["rows"] == [{"p50_ms": 1.5}]
    assert content["threads"] == 2
    assert content["machine"] == machine()
    assert content["versions"] == versions()
    assert content["machine"]["cores"] >= 1
    if platform.machine() == "x86_64" and Path("/proc/cpuinfo").is_file():
        known = Path("/proc/cpuinfo").read_text()
        assert set(content["machine"]["instructions"]) <= set(known.split())
        assert ("avx2" in content["machine"]["instructions"]) == (" avx2 " in known)
    with pytest.raises(ValueError, match="JSON"):
        write_report(path, "x/1", [{"p50_ms": float("nan")}], bundle_sha256=None)
    assert json.loads(path.read_text()) == content
    with pytest.raises(InputError, match="cannot be written"):
        write_report(tmp_path / "none" / "r.json", "x/1", [], bundle_sha256=None)
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
