"""The committed figures, and the command that writes them into the README."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from immunecam.benchmarks import bundle_difference, liveness_analysis, readme, robustness, selection
from immunecam.benchmarks import evidence as evidence_rates
from immunecam.benchmarks.latency import table as latency_table
from immunecam.benchmarks.latency.run import OURS
from immunecam.benchmarks.liveness.plots import liveness_plots
from immunecam.export.quantised_bundle import MOST_POINTS
from immunecam.models.liveness_trunks import TRUNKS
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.runtime.gate import evidence

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("sample_clip", "robustness")


def test_readme_agrees_with_results():
    assert readme.main([str(ROOT / "README.md"), "--check"]) == 0


def test_a_figure_changed_by_hand_is_noticed(tmp_path):
    text = (ROOT / "README.md").read_text()
    assert " ms per face (p95 " in text
    (tmp_path / "README.md").write_text(text.replace(" ms per face (p95 ", "0 ms per face (p95 "))
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    assert readme.main([str(tmp_path / "README.md"), "--check"]) == 1
    assert readme.main([str(tmp_path / "README.md")]) == 0
    assert (tmp_path / "README.md").read_text() == text


def test_results_are_those_of_the_bundled_model():
    bundle = Bundle.load(default_bundle())
    clip, measured = (json.loads((ROOT / "benchmarks" / "results" / f"{n}.json").read_text()) for n in NAMES)
    assert clip["bundle_sha256"] == bundle.sha256
    files = measured["bundle_files"][bundle.name]
    for name in ("analyzer.onnx", "restorer.onnx", "subspace.safetensors"):
        assert files[name] == bundle.manifest.files[name].sha256
    rows = bundle.manifest.quality["rows"]
    assert rows
    assert all(row in measured["rows"] for row in rows)


# Those of the full protocol at 8/255. One that is added there has to be added here.
GREY_BOX = {"PGD-40", "PGD-10", "MI-FGSM-10", "FGSM", "DI-FGSM-10", "TI-FGSM-10", "APGD-40"}


def test_undefended_recognisers_are_broken_by_every_grey_box_attack():
    """At 8/255 each succeeds with more than 95 % of the pairs of both goals, 600 pairs, on every recogniser.

    FGSM is the exception: a single step goes as far as the gradient of the clean face says and does not look again, so
    of it more than 90 % is asked.
    """
    report = json.loads((ROOT / "benchmarks" / "results" / "robustness.json").read_text())
    rows = {
        (row["recognizer"], row["attack"], row["purified"]): row
        for row in report["rows"]
        if (row["threat"], row["defence"], row["budget"]) == ("grey-box", "none", "8/255")
    }
    # Nothing is purified on either side, so both name the same figures.
    assert set(rows) == set(itertools.product(report["thresholds"], GREY_BOX, ("both", "probe")))
    for (recognizer, attack, _), row in rows.items():
        survive = 10 if attack == "FGSM" else 5
        assert row["pairs"] == 600
        assert row["same_accepted_percent"] < survive, (recognizer, attack)
        assert row["different_rejected_percent"] < survive, (recognizer, attack)


def test_robustness_page_is_that_of_its_report():
    report = json.loads((ROOT / "benchmarks" / "results" / "robustness.json").read_text())
    assert (ROOT / "docs" / "robustness.md").read_text() == robustness.page_with_plots(report, "robustness")


def _result(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_latency_page_is_that_of_its_report():
    assert (ROOT / "docs" / "latency.md").read_text() == latency_table.page(_result("latency"))


def test_times_are_those_of_the_installed_bundle_and_of_the_int8_bundle_that_was_judged():
    bundles = {"edge": Bundle.load(default_bundle()).sha256, "edge-int8": _result("int8_quantisation")["bundle_sha256"]}
    for name in ("latency", "latency_one_face"):
        measured = {row["bundle"]: row["bundle_sha256"] for row in _result(name)["rows"] if row["bundle"]}
        assert {bundle: measured[bundle] for bundle in bundles} == bundles
    assert _result("int8_speed")["int8_sha256"] == bundles["edge-int8"]


def test_goals_of_latency_that_are_met():
    """On two cores. Not met is 25 times the paper's form; the 3.5 ms a face that were meant by it are."""
    latency, one_face = (_result(name) for name in ("latency", "latency_one_face"))
    rows = {(row["form"], row["bundle"], row["threads"], row["batch"]): row for row in latency["rows"]}
    face = rows["faces", "edge-int8", 2, 1]
    assert face["total_p50_ms"] < 3.5
    assert face["times_faster_than_paper"][0] > 20
    for row in rows.values():
        assert row["form"] not in OURS or row["cold_start_most_s"] < 1
        assert row["form"] not in OURS or row["peak_memory_mib"] * 2**20 < 250e6
    rates = [row["faces_per_s"] for row in one_face["rows"] if (row["form"], row["threads"]) == ("followed", 2)]
    assert len(rates) >= 2
    assert min(rates) > 60
    for live in (*latency["live"], *one_face["live"]):
        assert live["frames_per_s"] == 30
        assert live["age_p95_ms"] < 60
    losses = [figure["before"] - figure["after"] for figure in _result("int8_quantisation")["rows"]]
    assert max(losses) <= MOST_POINTS


def test_goals_of_ais_that_are_met():
    """On two cores 2.5 times the paper's form, in int8 6 times; and at most 28 MB, which are not in the report."""
    faces = {
        (row["bundle"], row["threads"]): row["times_faster_than_paper"][0]
        for row in _result("latency_ais")["rows"]
        if (row["form"], row["batch"]) == ("faces", 1)
    }
    assert faces["ais", 2] > 2.5
    assert faces["ais-int8", 2] > 6
    assert faces["ais-int8", 1] > 6


def test_int8_page_is_that_of_its_reports():
    reports = [_result(name) for name in ("int8_grey_box", "int8_quick")]
    assert (ROOT / "docs" / "int8.md").read_text() == bundle_difference.page(reports, "edge", "edge-int8")
    shipped = {name: record.sha256 for name, record in Bundle.load(default_bundle()).manifest.files.items()}
    for report in reports:
        assert {name: report["bundle_files"]["edge"][name] for name in shipped} == shipped
        assert report["bundle_files"]["edge-int8"] == reports[0]["bundle_files"]["edge-int8"]


def test_liveness_times_are_those_of_their_report():
    report = json.loads((ROOT / "benchmarks" / "results" / "liveness_speed.json").read_text())
    times = {
        (row["backbone"], row["precision"], row["batch"]): row["wall_p50_ms"]
        for row in report["rows"]
        if "backbone" in row
    }
    lines = (ROOT / "docs" / "liveness.md").read_text().splitlines()
    for backbone in TRUNKS:
        cells = [f"{times[backbone, precision, batch]:.1f}" for batch in (1, 8) for precision in ("fp32", "int8")]
        assert f"| {backbone} | {' | '.join(cells)} |" in lines
        assert times[backbone, "int8", 1] < report["budget_ms"] == 5.0


def test_liveness_page_is_that_of_its_report():
    file = ROOT / "benchmarks" / "results" / "liveness.json"
    if not file.is_file():
        pytest.skip("the matrix of liveness networks has not been run to its end yet")
    report = liveness_analysis.load_report(file)
    page = ROOT / "docs" / "liveness-report.md"
    assert page.read_text() == liveness_analysis.page_with_plots(report, liveness_plots(report), page.stem)


def test_selection_benchmark_compares_equal_losses(tmp_path):
    report = tmp_path / "selection.json"
    arguments = ["--batch", "1", "--clones", "2", "--k", "40", "--json", str(report)]
    command = [sys.executable, "-m", selection.__name__, *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    content = json.loads(report.read_text())
    assert content["largest_relative_difference"] < 1e-4
    assert {row["form"] for row in content["rows"]} == {"coefficients", "naive"}


def test_tracked_files_stay_small():
    """All tracked files together stay under 45 MiB, the default bundle under 15 MB, the sample clip under 500 KB."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    sizes = {name.decode(): (ROOT / name.decode()).stat().st_size for name in names if name}
    assert sum(sizes.values()) < 45 << 20
    for bundle, limit in (("edge", 15_000_000), ("ais", 28_000_000)):
        assert sum(size for name, size in sizes.items() if f"/{bundle}.immune/" in name) < limit
    assert (ROOT / "immunecam" / "data" / "sample.mp4").stat().st_size <= 500_000


def test_the_gate_s_figures_are_those_it_claims():
    """Of the bundled model, with the gate's own margin; no enrolment lost; 10,000 people in under 5 ms of one core."""
    results = ROOT / "benchmarks" / "results"
    found, kills, times = (
        json.loads((results / f"{name}.json").read_text()) for name in ("evidence", "enrolment_kills", "identification")
    )
    files = Bundle.load(default_bundle()).manifest.files
    assert found["bundle_files"] == {name: record.sha256 for name, record in files.items()}
    assert found["gate_margin"] == evidence.MARGIN
    assert {row["attack"] for row in found["rows"]} == {"none", *(name for name, _ in evidence_rates.PLANS)}
    (row,) = kills["rows"]
    assert row["kills"] >= 200
    assert row["lost"] == row["damaged"] == row["restored"] == row["bad_backups"] == 0
    assert all(row["people"] == 10_000 and row["cpu_p50_ms"] < 5 for row in times["rows"])
