"""A benchmark in small, as a user runs it: what the report holds, and that the purifier keeps its distance.

The guard against regressions is by ratios within this run; absolute times say nothing on a machine with other work.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from immunecam.benchmarks.latency import table
from immunecam.benchmarks.latency.run import SCHEMA, STAGES
from immunecam.runtime.bundle import Bundle, default_bundle

SMALL = (
    *("--launches", "1", "--rounds", "3", "--seconds", "0.05", "--warm-up", "0.05", "--threads", "1"),
    *("--live", "0.5"),
)

# A third as fast as usual: 10 times faster than the paper's form, and 2.5 times the reference work.
TIMES_FASTER_THAN_PAPER = 3.3
TIMES_REFERENCE = 7.5


def _bench(folder: Path, *arguments: str) -> dict:
    command = [sys.executable, "-m", "immunecam", "bench", *SMALL, *arguments, "--json", "report.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text()) | {"said": done.stdout}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def report(folder):
    return _bench(folder, "--batch", "1", "--batch", "2", "--docs", "page.md", "--plots", ".", "--html", "page.html")


def _row(report, form, batch=None):
    (row,) = (row for row in report["rows"] if (row["form"], row["batch"]) == (form, batch))
    return row


def test_every_form_has_its_stages(report):
    assert report["schema"] == SCHEMA
    assert report["bundle_sha256"] == Bundle.load(default_bundle()).sha256
    shown = {
        ("faces", 1): {"mutate", "engine", "total"},
        ("faces", 2): {"mutate", "engine", "total"},
        ("stages", 1): {"analyze", "mutate", "project", "restore", "total"},
        ("stages", 2): {"analyze", "mutate", "project", "restore", "total"},
        ("frames", None): {"decode", "find", "align", "mutate", "engine", "paste", "total"},
        ("followed", None): {"decode", "find", "align", "mutate", "engine", "paste", "total"},
        ("paper", 1): {"analyze", "project", "total"},
        ("paper", 2): {"analyze", "project", "total"},
        ("reference", None): {"total"},
    }
    assert {
        (row["form"], row["batch"]): {stage for stage in STAGES if f"{stage}_p50_ms" in row} for row in report["rows"]
    } == shown


def test_stages_are_parts_of_the_whole(report):
    for row in report["rows"]:
        parts = [row.get(f"{stage}_p50_ms", 0.0) for stage in STAGES if stage != "total"]
        assert max(parts, default=0.0) <= row["total_p50_ms"]
        assert row["repeats"] >= 9
        assert ("p99_ms" in str(row)) == (row["repeats"] >= 100)
        assert 0 < row["cold_start_p50_s"] <= row["cold_start_most_s"] < 60
        assert len(row["launch_medians_ms"]) == row["launches"] == 1


def test_faces_are_counted(report):
    # A rate is of all time, a median is not: on a busy machine slow runs part the two.
    row = _row(report, "faces", 2)
    assert 0.2 * 2 < row["faces_per_s"] * row["total_p50_ms"] / 1000 < 1.4 * 2
    frames = _row(report, "frames")
    assert 0.2 * 3 < frames["faces_per_s"] * frames["total_p50_ms"] / 1000 < 1.4 * 3  # the clip has three
    assert _row(report, "reference")["faces_per_s"] is None


def test_following_spares_searches(report):
    searched, followed = (_row(report, form)["find_p50_ms"] for form in ("frames", "followed"))
    assert followed < searched / 3


def test_a_camera_is_kept_up_with_by_dropping_frames(report, folder):
    (row,) = report["live"]
    assert row["purified"] >= 3
    assert (row["bundle"], row["threads"], row["frames_per_s"]) == ("edge", 1, 30.0)
    assert row["came"] >= 10
    assert abs(row["came"] - row["dropped"] - row["purified"]) <= 1
    assert 0 <= row["searches"] <= row["purified"] <= row["faces"]
    assert 0 < row["age_p50_ms"] <= row.get("age_p95_ms", 1e9)
    assert row["peak_memory_mib"] * 2**20 < 250e6
    for q, fewest in (("p95", 20), ("p99", 100)):
        assert (f"age_{q}_ms" in row) == (row["purified"] >= fewest)
    assert f"| {row['age_p50_ms']:.1f} |" in (folder / "page.md").read_text()


def test_how_it_was_measured_is_told(report):
    assert report["pinned_to_cores"] is None
    assert report["warm_up_s"] == 0.05
    assert report["energy"]
    assert all((row["joules_per_face"] is None) == ("not known" in report["energy"]) for row in report["rows"][:1])
    assert "not pinned" in report["said"]
    assert "warm-up" in report["said"]


def test_table_page_and_plots_are_of_the_report(report, folder):
    page = (folder / "page.md").read_text()
    assert page == table.page(report)
    for row in report["rows"]:
        assert f" {row['total_p50_ms']:.2f} " in page
        assert f" {row['total_p50_ms']:.2f} " in report["said"]
    for name in ("latency", "stages"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        drawing = (folder / f"{name}.svg").read_text()
        assert "<svg" in drawing
    html = (folder / "page.html").read_text()
    assert html.count("<svg") == 2
    for row in report["rows"]:
        assert f"<td>{row['total_p50_ms']:.2f}</td>" in html
    for wanted in ("time of a whole call, milliseconds", "medians of the stages, milliseconds", "as shipped", "engine"):
        assert wanted in html
    assert not [path for path in folder.iterdir() if path.name.endswith(".partial")]


def test_memory_of_a_device_is_enough(report):
    """250 MB with the installed bundle, finding, alignment and paste-back included."""
    assert _row(report, "frames")["peak_memory_mib"] * 2**20 < 250e6
    assert _row(report, "faces", 1)["peak_memory_mib"] > 30


def test_regression_guard(report, folder):
    """Up to three runs: other work on the machine spoils one, a purifier that became slow spoils all."""
    for attempt in range(3):
        rows = report if attempt == 0 else _bench(folder)
        face, paper = (_row(rows, form, 1) for form in ("faces", "paper"))
        found = face["times_faster_than_paper"][0], face["times_reference"][0]
        # The guard sees what it is there for: a purifier as slow as the paper's form would not pass.
        assert paper["times_reference"][0] > TIMES_REFERENCE
        if found[0] >= TIMES_FASTER_THAN_PAPER and found[1] <= TIMES_REFERENCE:
            return
    raise AssertionError(f"{found[0]} times faster than the paper's form, {found[1]} times the reference work")


def test_pinned_and_without_the_papers_form(tmp_path):
    from immunecam.benchmarks.latency.plan import usable_cores

    core = usable_cores()[0]
    report = _bench(tmp_path, "--pin", str(core), "--no-paper", "--provider", "cpu")
    assert report["pinned_to_cores"] == [core]
    assert f"pinned to the cores {core}" in report["said"]
    assert report["paper"] == "not measured"
    assert "The paper's form: not measured.\n" in report["said"]
    assert "1 launch of each process" in " ".join(report["said"].split())
    assert {row["form"] for row in report["rows"]} == {"faces", "stages", "frames", "followed", "reference"}
    assert "times_faster_than_paper" not in _row(report, "faces", 1)
