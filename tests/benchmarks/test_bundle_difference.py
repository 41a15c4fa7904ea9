"""Two bundles of one report beside each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from immunecam.benchmarks.bundle_difference import differences, main, page
from immunecam.errors import InputError

REPORT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "int8_quick.json"


@pytest.fixture(scope="module")
def report():
    return json.loads(REPORT.read_text())


def test_each_case_is_compared_with_itself(report):
    pairs = differences(report["rows"], "edge (sample)", "edge-int8 (sample)")
    assert len(pairs) > 10
    for old, new in pairs:
        assert (old["defence"], new["defence"]) == ("edge (sample)", "edge-int8 (sample)")
        assert {row["purified"] for row in (old, new)} == {"both"}
        for name in ("recognizer", "threat", "attack", "budget", "source", "pairs", "draws"):
            assert old[name] == new[name]


def test_page_says_what_is_lost(report, tmp_path):
    for row in report["rows"]:  # found again below
        if (row["defence"], row["threat"], row["purified"]) == ("edge-int8 (sample)", "clean", "both"):
            row["accuracy_percent"] -= 50
    text = page([report], "edge", "edge-int8")
    (clean,) = [line for line in text.splitlines() if "| clean |" in line]
    old, new = (
        row["accuracy_percent"]
        for name in ("edge (sample)", "edge-int8 (sample)")
        for row in report["rows"]
        if (row["defence"], row["threat"], row["purified"]) == (name, "clean", "both")
    )
    assert f"| {old:.1f} -> {new:.1f} | {new - old:+.1f} |" in clean
    assert f"clean faces ({old - new:.2f})" in text
    assert page([report], "edge-int8", "edge").count("clean faces") == 0  # what is won is no loss


def test_main_writes_and_refuses(report, tmp_path):
    names = ["--before", "edge", "--after", "edge-int8"]
    main([str(REPORT), *names, "--page", str(tmp_path / "a.md")])
    assert (tmp_path / "a.md").read_text() == page([json.loads(REPORT.read_text())], "edge", "edge-int8")
    with pytest.raises(InputError, match="0 defences of a bundle 'ais'"):
        main([str(REPORT), "--before", "edge", "--after", "ais", "--page", str(tmp_path / "b.md")])
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(InputError, match=r"c\.json"):
        main([str(tmp_path / "c.json"), *names, "--page", str(tmp_path / "b.md")])
    assert not (tmp_path / "b.md").exists()
