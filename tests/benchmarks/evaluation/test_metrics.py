"""Figures against the slowest way of computing them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from immunecam.benchmarks.evaluation.metrics import (
    accuracy,
    best_threshold,
    decisions,
    interval,
    rate_threshold,
    rates,
    roc,
)
from immunecam.benchmarks.evaluation.sanity import Check, failed, not_below, not_measured, reaches

scores = st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=2, max_size=30).filter(
    lambda rows: len({same for _, same in rows}) == 2
)


def arrays(rows):
    return np.array([score for score, _ in rows]) / 20, np.array([same for _, same in rows])


@given(scores)
def test_best_threshold(rows):
    cosine, same = arrays(rows)
    found = best_threshold(cosine, same)
    right = {t: int(((cosine >= t) == same).sum()) for t in cosine}
    assert right[found] == max(right.values())
    assert found == min(t for t, n in right.items() if n == max(right.values()))


@given(scores, st.sampled_from([0.0, 1e-3, 0.1, 0.5]))
def test_rate_threshold(rows, rate):
    cosine, same = arrays(rows)
    found = rate_threshold(cosine, same, rate)
    impostors = cosine[~same]
    assert (impostors >= found).mean() <= rate
    below = [t for t in np.unique(impostors) if t < found]
    assert all((impostors >= t).mean() > rate for t in below[-1:])


@given(scores)
def test_rates_and_roc(rows):
    cosine, same = arrays(rows)
    accepted, rejected = rates(cosine, same, 0.1)
    assert accepted == pytest.approx(np.mean([c >= 0.1 for c, s in zip(cosine, same, strict=True) if s]))
    assert rejected == pytest.approx(np.mean([c < 0.1 for c, s in zip(cosine, same, strict=True) if not s]))
    assert accuracy(np.stack([cosine, cosine]), same, 0.1) == pytest.approx((accepted + rejected) / 2)
    fmr, tar = roc(cosine, same)
    assert fmr[0] == tar[0] == 0
    assert fmr[-1] == tar[-1] == 1
    for threshold in np.unique(cosine):
        at = ((cosine >= threshold)[~same].mean(), (cosine >= threshold)[same].mean())
        assert any(np.allclose(at, point) for point in zip(fmr, tar, strict=True))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pairs_that_all_agree_leave_what_clopper_and_pearson_leave(value):
    bound = 0.025 ** (1 / 30)
    found = interval(np.full(30, value), rates=True)
    wanted = (bound, 1.0) if value else (0.0, 1 - bound)
    assert found == pytest.approx(wanted, abs=0.002)
    both = interval(np.full(30, value), np.array([0.0, 1.0] * 15), rates=True)
    assert both[0] < (value + 0.5) / 2 < both[1]


def test_more_right_decisions_never_lower_a_bound():
    """From the exact bounds to the bootstrap's, whose step is the largest."""
    found = [interval((np.arange(30) < hits).astype(float), rates=True) for hits in range(31)]
    lows, highs = zip(*found, strict=True)
    assert found[29] == pytest.approx((0.828, 0.999), abs=0.002)  # Clopper and Pearson's
    for bounds in (lows[:5], lows[5:26], lows[26:], highs[:5], highs[5:26], highs[26:]):
        assert list(bounds) == sorted(bounds)
    assert lows[30] > lows[29] > lows[26]


def test_no_difference_seen_is_not_none():
    low, high = interval(np.zeros(30), np.zeros(30))
    assert low == pytest.approx(-high, abs=1e-3)
    assert 0.04 < high < 1 - 0.025 ** (1 / 30)
    assert interval(np.zeros(300), np.zeros(300))[1] < high / 9


def test_intervals_hold_the_truth_and_shrink():
    rng = np.random.default_rng(0)
    widths = []
    for count in (40, 640):
        same = np.arange(count) % 2 == 0
        cosine = np.where(rng.random(count) < 0.9, 1.0, -1.0) * np.where(same, 1, -1)
        low, high = interval(*decisions(cosine, same, 0.0))
        assert low <= accuracy(cosine, same, 0.0) <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    before, after = decisions(cosine, same, 0.0), decisions(-cosine, same, 0.0)
    low, high = interval(*(b - a for b, a in zip(before, after, strict=True)))
    assert 0.6 < low < 0.8 < high < 0.9
    # The slow way, of one part.
    rng = np.random.default_rng(3)
    drawn = [before[0][rng.integers(0, 320, 320)].mean() for _ in range(1000)]
    assert interval(before[0]) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.01)


def test_sanity():
    def rates(dodging, impersonation, pairs=300):
        return {
            "dodging": (np.arange(pairs) < dodging * pairs).astype(float),
            "impersonation": (np.arange(pairs) < impersonation * pairs).astype(float),
        }

    weak, strong = rates(0.9, 0.9), rates(0.5, 1.0)
    assert not_below("x", strong, rates(0.6, 1.0)).holds
    assert not not_below("x", weak, strong).holds
    # A pair less of ten is what chance does, thirty of three hundred are not.
    assert not_below("x", rates(0.6, 0.5, 10), rates(0.5, 0.5, 10)).holds
    assert not not_below("x", rates(0.6, 0.5), rates(0.5, 0.5)).holds
    # Nor are two of ten, whatever so few can tell.
    assert not not_below("x", rates(0.6, 0.5, 10), rates(0.4, 0.5, 10)).holds
    # The same rate on other pairs differs by chance, and so does one that is a little lower.
    shuffled = {goal: np.random.default_rng(0).permutation(value) for goal, value in rates(0.48, 0.5).items()}
    assert not_below("x", rates(0.5, 0.5), shuffled).holds
    assert reaches("x", strong, 0.5).holds
    assert not reaches("x", strong, 0.95).holds
    assert failed([Check("a", True, "1"), Check("b", False, "2"), not_measured("c", "why")]) == "b: 2"
    assert failed([not_measured("c", "why")]) == ""
