"""The load of the service in small: nothing fails, nothing is lost at the end, and a full queue says so."""

from __future__ import annotations

import pytest

from immunecam.benchmarks.service_load import _sample, load
from immunecam.errors import InputError, UsageError

pytest.importorskip("fastapi", reason="needs the service's packages (pip install 'immunecam[serve]')")


def test_clients_that_do_not_pause_are_all_answered():
    # With time enough on a busy machine, too: whoever would not be answered in half of it is told 429.
    row = load(16, 3.0, picture=_sample(), arguments=("--threads", "1", "--timeout", "300"))
    assert row["exit_code"] == 0
    assert row["statuses"].keys() == {"200"}, row
    assert row["lost"] == row["lost_at_end"] == row["server_errors"] == 0
    assert row["reset"] == 16  # each met the closed address in the end
    assert row["requests"] >= 16
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert row["rss_end_mib"] > 20
    times, resident = zip(*row["rss_by_seconds_mib"], strict=True)
    assert list(times) == sorted(times)
    assert resident[-1] == pytest.approx(row["rss_end_mib"], abs=20)
    assert {"rss_slope_mib_per_minute", "rss_least_squares_slope_mib_per_minute"} <= row.keys()


def test_more_than_the_queue_takes_is_429_and_no_failure():
    row = load(16, 3.0, picture=_sample(), arguments=("--threads", "1", "--queue-requests", "2"))
    assert row["statuses"].keys() == {"200", "429"}
    assert row["lost"] == row["server_errors"] == 0
    assert row["exit_code"] == 0


def test_a_load_of_nothing_is_refused():
    with pytest.raises(UsageError, match="0 clients"):
        load(0, 1.0, picture=b"")
    with pytest.raises(InputError, match=r"did not start: .*port"):
        load(1, 1.0, picture=b"", arguments=("--port", "70000"))
