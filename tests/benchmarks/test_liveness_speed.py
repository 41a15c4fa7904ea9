"""What a liveness network takes, measured on small ones: rows with units, in processes of their own."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")

from small_liveness import bundle_with_liveness

from immunecam.benchmarks.liveness_speed import BUDGET_MS, main
from immunecam.errors import InputError
from immunecam.runtime.bundle import default_bundle


def test_rows_of_bundles_and_of_cutting_out(tmp_path):
    bundle = bundle_with_liveness(tmp_path)
    arguments = ["--batch", "1", "2", "--launches", "1", "--repeats", "3", "--json", str(tmp_path / "s.json")]
    main([str(bundle), *arguments])
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["budget_ms"] == BUDGET_MS == 5.0
    assert [(row["what"], row["batch"]) for row in report["rows"]] == [
        ("door", 1),
        ("crop 64", 1),
        ("door", 2),
        ("crop 64", 2),
    ]
    for row in report["rows"]:
        assert 0 < row["wall_p50_ms"] <= row["wall_p50_ms_worst_launch"]
        assert row["threads"] == 1


def test_a_bundle_without_a_network_is_said_so():
    with pytest.raises(InputError, match="has no liveness network"):
        main([str(default_bundle()), "--one", "--batch", "1", "--repeats", "1"])
