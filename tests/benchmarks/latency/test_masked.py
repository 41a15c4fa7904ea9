"""The benchmark of a bundle with a masking part: its stages are measured, and no key is wanted."""

from __future__ import annotations

import statistics

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx", reason="needs onnx (pip install 'immunecam[train]')")
pytest.importorskip("cryptography")

from small_masking import bundle_with_masking

from immunecam.benchmarks.latency import table
from immunecam.benchmarks.latency.plan import LatencyPlan
from immunecam.benchmarks.latency.run import STAGES, measure
from immunecam.runtime.bundle import default_bundle
from immunecam.runtime.report import machine


def test_masking_and_recognising_are_stages(tmp_path):
    source = default_bundle().with_name("sample.mp4")
    plan = LatencyPlan(
        bundles=(bundle_with_masking(tmp_path),),
        source=source,
        providers=("cpu",),
        batches=(2,),
        launches=1,
        rounds=1,
        block_s=0.02,
        warm_s=0.02,
        live_s=0.0,
    )
    report = {"machine": machine(), **measure(plan)}
    (row,) = (row for row in report["rows"] if row["form"] == "masked")
    shown = {stage for stage in STAGES if f"{stage}_p50_ms" in row}
    assert shown == {"mutate", "engine", "mask", "recognise", "total"}
    assert (row["bundle"], row["batch"], row["provider"]) == ("door", 2, "cpu")
    own = row["mask_p50_ms"] + row["recognise_p50_ms"]
    assert 0 < own < row["total_p50_ms"]
    assert row["mask_and_recognise_ms_per_face"] == pytest.approx(own / 2, rel=0.5)
    assert row["total_p50_ms"] == pytest.approx(statistics.median(row["launch_medians_ms"]), abs=1e-3)
    assert not any("mask_p50_ms" in other for other in report["rows"] if other is not row)
    took = row["mask_and_recognise_ms_per_face"]
    said = f"masking and recognising takes {took:.2f} ms a face (threads 1, batch 2, cpu)"
    assert any(said in sentence for sentence in table.said(report))
    assert "| door faces, recognised masked |" in table.page(report)
