"""Verdicts on reports that were made up, so that the truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from immunecam.benchmarks.latency.compare import compare, read_report
from immunecam.errors import InputError


def _row(form, milliseconds, *, bundle="edge", launches=5, seed=0, batch=1, threads=1):
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.01, launches))
    return {
        "form": form,
        "bundle": bundle if form != "reference" else None,
        "beside": bundle if form == "reference" else None,
        "provider": "cpu",
        "threads": threads,
        "batch": batch if form != "reference" else None,
        "launch_medians_ms": list(milliseconds * noise),
    }


def _report(*rows):
    return {"schema": "immunecam.bench/1", "machine": {}, "rows": list(rows)}


def _verdict(old, new):
    (found,) = compare(old, new)
    return found["verdict"]


OLD = _report(_row("faces", 10.0, seed=1), _row("reference", 5.0, seed=2))


@pytest.mark.parametrize(
    ("times", "reference", "verdict"),
    [
        (8.0, 5.0, "faster"),
        (12.5, 5.0, "slower"),
        (10.05, 5.0, "no difference shown"),
        (20.0, 10.0, "no difference shown"),  # the machine had half of itself for us
        (10.0, 4.0, "no difference shown"),  # the machine was faster and the code slower, or only the reference was
        (5.0, 4.0, "faster"),
    ],
)
def test_a_verdict_needs_both_intervals(times, reference, verdict):
    assert _verdict(OLD, _report(_row("faces", times, seed=3), _row("reference", reference, seed=4))) == verdict


def test_how_often_a_verdict_is_wrong_and_how_often_a_tenth_is_seen():
    """Launches differ by 2 %, those of the reference work likewise, and a run's share of the machine by 10 %."""
    rng = np.random.default_rng(0)

    def report(milliseconds):
        share = np.exp(rng.normal(0, 0.1))
        noise = np.exp(rng.normal(0, 0.02, (2, 5)))
        rows = _row("faces", 1.0), _row("reference", 1.0)
        for row, times in zip(rows, (milliseconds * share * noise[0], 5.0 * share * noise[1]), strict=True):
            row["launch_medians_ms"] = list(times)
        return _report(*rows)

    same = [_verdict(report(10.0), report(10.0)) for _ in range(150)]
    assert sum(verdict != "no difference shown" for verdict in same) <= 3
    for factor, right, wrong in ((1.1, "slower", "faster"), (1 / 1.1, "faster", "slower")):
        found = [_verdict(report(10.0), report(10.0 * factor)) for _ in range(60)]
        assert wrong not in found
        assert found.count(right) > 24  # three in five: the share of the machine hides the rest


def test_a_report_is_no_different_from_itself():
    assert _verdict(OLD, OLD) == "no difference shown"


def test_bundles_of_other_names_are_compared_if_there_is_one_on_each_side():
    new = _report(_row("faces", 5.0, bundle="smaller", seed=5), _row("reference", 5.0, bundle="smaller", seed=6))
    assert _verdict(OLD, new) == "faster"
    # Each bundle's times belong to the reference work that ran beside it.
    busy = _row("faces", 20.0, seed=7), _row("reference", 10.0, seed=8)
    for rows in ((*new["rows"], *busy), (*busy, *new["rows"])):
        (found,) = compare(OLD, _report(*rows))
        assert (found["bundle"], found["verdict"]) == ("edge", "no difference shown")
        assert found["ratio_to_reference"][0] == pytest.approx(1, rel=0.05)


def test_reports_with_nothing_in_common():
    with pytest.raises(InputError, match="no row in common"):
        compare(OLD, _report(_row("faces", 10.0, batch=8), _row("reference", 5.0)))


def test_frames_of_other_sources_are_not_compared():
    rows = [_row(form, 10.0) for form in ("frames", "followed", "faces")] + [_row("reference", 5.0)]
    old, new = _report(*rows), _report(*rows)
    assert {found["form"] for found in compare(old, new)} == {"frames", "followed", "faces"}
    assert {found["form"] for found in compare(old, new | {"source": "other.mp4"})} == {"faces"}


def test_too_few_launches_to_know_the_noise():
    few = _report(_row("faces", 10.0, launches=2), _row("reference", 5.0, launches=2))
    with pytest.raises(InputError, match=r"2 launches, but 3 or more .* --launches 5"):
        compare(OLD, few)


def test_the_reference_must_be_of_the_same_threads():
    with pytest.raises(InputError, match="lacks the reference work"):
        compare(OLD, _report(_row("faces", 10.0), _row("reference", 5.0, threads=2)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "cannot be read"),
        ("[]", "no report of immunecam bench"),
        ('{"schema": "immunecam.purify/1", "rows": []}', "no report of immunecam bench"),
        ('{"schema": "immunecam.bench/1"}', "damaged"),
        ('{"schema": "immunecam.bench/1", "rows": [{"form": "faces"}]}', "damaged"),
        ('{"schema": "immunecam.bench/1", "rows": [{"launch_medians_ms": [0]}]}', "damaged"),
        ('{"schema": "immunecam.bench/1", "rows": [{"launch_medians_ms": [NaN]}]}', "damaged"),
        ('{"schema": "immunecam.bench/1", "rows": 5}', "damaged"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, content, words):
    file = tmp_path / "report.json"
    file.write_text(content)
    with pytest.raises(InputError, match=words):
        read_report(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_report(tmp_path / "none.json")


def test_a_report_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "report.json"
    file.write_text(json.dumps(OLD))
    assert read_report(file) == OLD
