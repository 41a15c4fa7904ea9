"""The benchmark of shared analyses: its cost is that of probabilities that belong to another face, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from immunecam.benchmarks import shared_analysis
from immunecam.runtime.bundle import Bundle, default_bundle

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def test_cost_and_gain(tmp_path, data, recognizers, bundle):
    report = tmp_path / "shared.json"
    arguments = ["--bundle", str(bundle.path), "--data", str(data), "--recognizer", str(recognizers[0])]
    arguments += ["--pairs", "8", "--repeats", "1", "--work", str(tmp_path / "work"), "--json", str(report)]
    shared_analysis.main(arguments)
    content = json.loads(report.read_text())
    assert [row["attack"] for row in content["rows"]] == ["PGD-10 8/255", "MI-FGSM-10 8/255"]
    for row in content["rows"]:
        low, high = row["accuracy_lost_interval"]
        assert low <= row["accuracy_lost_points"] <= high
        assert 0 < row["mean_change_of_p"] < 1
    gain = content["gain"]
    assert gain["faces"] == 3 * gain["frames"] == 144
    # A clip of 48 frames: every face is analysed at its beginning and after 30 frames.
    assert gain["shared"] == 144 - 6
    assert gain["times_faster"] > 0


def test_the_committed_figures_are_of_the_installed_bundle():
    files = Bundle.load(default_bundle()).manifest.files
    content = json.loads((RESULTS / "shared_analysis.json").read_text())
    assert content["bundle_files"] == {name: record.sha256 for name, record in files.items()}
    assert {row["pairs"] for row in content["rows"]} == {300}
