"""The projection's benchmark runs, and the committed one says what the constant in the export rests on."""

from __future__ import annotations

import json
from pathlib import Path

from immunecam.benchmarks import projection
from immunecam.benchmarks.in_turn import in_turn
from immunecam.export.active_rows import SHARE_OF_INTEGERS

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def test_forms_are_measured_in_turn():
    called = []
    times = in_turn({"a": lambda: called.append("a"), "b": lambda: sum(range(100_000))}, repeats=3, warm_up=1)
    assert called == ["a"] * 4
    assert set(times) == {"a", "b"}
    assert times["b"]["wall_p50_ms"] > times["a"]["wall_p50_ms"]
    assert times["b"]["wall_p50_ms"] >= times["b"]["wall_least_ms"] > 0


def test_the_benchmark(tmp_path):
    report = tmp_path / "projection.json"
    projection.main(["--batch", "1", "--share", "0.05", "0.9", "--repeats", "5", "--json", str(report)])
    content = json.loads(report.read_text())
    few, many, drawn = content["rows"]
    assert (few["rows"], many["rows"]) == (26, 461)
    assert 200 < drawn["rows"] < 400
    # 26 rows of 512 are read instead of all: five times faster here, so less than one and a half is a defect.
    assert few["dense_by_chosen"] > 1.5
    assert content["share"] == SHARE_OF_INTEGERS


def test_the_committed_figures_are_of_this_constant():
    """Few rows pay, and where they do not the chosen form is the dense one up to noise."""
    content = json.loads((RESULTS / "projection.json").read_text())
    assert content["share"] == SHARE_OF_INTEGERS
    for row in content["rows"]:
        if row["rows"] < int(SHARE_OF_INTEGERS * row["k"]):
            assert row["dense_by_chosen"] > 1.3, row
        else:
            assert row["dense_by_chosen"] > 0.9, row
