"""What masking takes, measured on small bundles: a row for each bundle and each part of the work."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")
pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")

from small_masking import GATE_KEY, bundle_with_masking

from immunecam.benchmarks.masking_speed import SCHEMA, main
from immunecam.runtime.bundle import default_bundle


def test_rows_of_two_bundles(tmp_path):
    bundle_with_masking(tmp_path)
    shutil.copytree(tmp_path / "door.immune", tmp_path / "gate.immune")
    GATE_KEY.write(tmp_path / "key")
    paths = [str(tmp_path / f"{name}.immune") for name in ("door", "gate")]
    settings = ["--key-file", str(tmp_path / "key"), "--batch", "2", "--threads", "1"]
    main([*paths, *settings, "--launches", "2", "--repeats", "2", "--json", str(tmp_path / "s.json")])
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["schema"] == SCHEMA
    works = ("mask", "recognise", "mask, recognise", "purify, mask, recognise")
    assert [(row["bundle"], row["what"]) for row in report["rows"]] == [(b, w) for b in ("door", "gate") for w in works]
    assert set(report["bundles"]) == {"door", "gate"}
    for row in report["rows"]:
        assert 0 < row["wall_p50_ms"] <= row["wall_p50_ms_worst_launch"]
    with pytest.raises(SystemExit, match=r"launch 1 of 5 of masking_speed ended with 1 .*has no mask"):
        main([str(default_bundle()), *settings])


def test_two_bundles_of_one_name_are_refused(capsys):
    with pytest.raises(SystemExit):
        main([str(default_bundle())] * 2)
    assert "two bundles have the same name" in capsys.readouterr().err
