"""The benchmark of int8 bundles runs, and the committed one is of the installed bundle."""

from __future__ import annotations

import json
from pathlib import Path

from immunecam.benchmarks import int8_speed
from immunecam.runtime.bundle import Bundle, default_bundle

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def test_a_bundle_against_itself(bundle, tmp_path):
    report = tmp_path / "speed.json"
    sides = [str(bundle.path)] * 2
    int8_speed.main(
        [*sides, "--threads", "1", "--batch", "2", "--launches", "3", "--repeats", "9", "--json", str(report)]
    )
    content = json.loads(report.read_text())
    assert content["bundle_sha256"] == content["int8_sha256"] == bundle.sha256
    assert content["bundle_files"] == {name: record.sha256 for name, record in bundle.manifest.files.items()}
    assert [(row["stage"], row["threads"], row["batch"]) for row in content["rows"]] == [
        (stage, 1, 2) for stage in ("analyzer", "restorer", "purifier")
    ]
    for row in content["rows"]:
        assert row["source_cpu_p50_ms"] > 0
        ratio, low, high = row["times_faster_by_cpu"]
        assert low <= ratio <= high
        assert 0.4 < ratio < 2.5


def test_the_committed_figures_are_of_the_installed_bundle():
    content = json.loads((RESULTS / "int8_speed.json").read_text())
    source = Bundle.load(default_bundle())
    # By its files: the manifest also holds what the bundle was measured to do, which comes later.
    assert content["bundle_files"] == {name: record.sha256 for name, record in source.manifest.files.items()}
    assert content["bundle_sha256"] == content["quantisation"]["source_sha256"]
    assert {(row["threads"], row["batch"]) for row in content["rows"]} == {(1, 1), (1, 8), (2, 1), (2, 8)}
    figures = content["quantisation"]["cost"]["figures"]
    assert figures
    assert all(figure["before"] - figure["after"] <= 0.5 for figure in figures)
