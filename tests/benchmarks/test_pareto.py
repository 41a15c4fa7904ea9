"""Bundles are measured side by side, and the page says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

from immunecam.benchmarks import pareto
from immunecam.runtime.report import read_report


def test_bundles_side_by_side(tmp_path, data, recognizers, bundle):
    report = tmp_path / "pareto.json"
    arguments = [str(bundle.path), "--data", str(data), "--recognizer", str(recognizers[0]), "--pairs", "8"]
    arguments += ["--repeats", "3", "--work", str(tmp_path / "work"), "--json", str(report), "--shipped", bundle.name]
    pareto.main([*arguments, "--page", str(tmp_path / "small.md")])
    content = json.loads(report.read_text())
    (row,) = content["rows"]
    assert (row["bundle"], row["k"], content["pairs"]) == (bundle.name, bundle.k, 8)
    assert row["face_p50_ms"] > 0
    (found,) = row["accuracy"].values()
    for mean, low, high in found.values():
        assert 0 <= low <= mean <= high <= 100
    assert found["clean"][0] > 75
    text = (tmp_path / "small.md").read_text()
    assert f"| {bundle.name} |" in text
    assert f"{found['attacked'][0]:.1f} ({found['attacked'][1]:.1f} to {found['attacked'][2]:.1f})" in text
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "pareto.svg").exists()


def test_the_committed_page_says_what_the_committed_figures_say():
    root = Path(__file__).resolve().parents[2]
    report = read_report(root / "benchmarks" / "results" / "pareto.json", "immunecam.pareto/1", "pareto")
    assert pareto.page(report, "pareto.png") == (root / "docs" / "pareto.md").read_text(encoding="utf-8")
    assert {"fp16", "int8"} <= {row["networks"] for row in report["rows"]}
