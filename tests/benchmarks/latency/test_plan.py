"""What a plan refuses before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from immunecam.benchmarks.latency.plan import LatencyPlan, cores_from_text, usable_cores
from immunecam.errors import UsageError

CORES = usable_cores()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"launches": 0}, "number of launches is 0"),
        ({"rounds": -1}, "number of rounds is -1"),
        ({"block_s": 0.0}, "a block takes 0 s"),
        ({"block_s": float("nan")}, "a block takes nan s"),
        ({"warm_s": float("inf")}, "the warm-up takes inf s"),
        ({"batches": (1, 0)}, "the batch is 0"),
        ({"batches": ()}, "no batches"),
        ({"threads": (0,)}, "number of threads is 0"),
        ({"threads": (len(CORES) + 1,)}, f"number of threads is {len(CORES) + 1}, but this process may use"),
        (
            {"threads": (2,), "pin": (CORES[0],)},
            "number of threads is 2, but the processes are pinned to 1 core",
        ),
    ],
)
def test_a_number_out_of_its_range(changed, words):
    with pytest.raises(UsageError, match=words):
        LatencyPlan(**({"bundles": (Path("a.immune"),), "source": Path("a.mp4")} | changed))


def test_cores_to_pin_to():
    first = CORES[0]
    assert cores_from_text(str(first)) == (first,)
    assert cores_from_text(f"{first},{first}-{first}") == (first,)
    for text in ("", "a", "0-", "-1", "0,,1", "0;1", str(CORES[-1] + 1), f"{CORES[-1] + 1}-{CORES[-1] + 2}", "5-3"):
        with pytest.raises(UsageError, match="the cores to pin to are"):
            cores_from_text(text)
