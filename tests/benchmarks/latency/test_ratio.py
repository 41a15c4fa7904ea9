"""Intervals know the noise between processes: how often equal programs are told apart, and unequal ones."""

from __future__ import annotations

import numpy as np
import pytest

from immunecam.benchmarks.latency.ratio import CONFIDENCE, paired_ratio, student_quantile, unpaired_ratio


@pytest.mark.parametrize(
    ("confidence", "freedom", "expected"),  # tables of Student's distribution
    [(0.95, 1, 12.7062), (0.99, 4, 4.60409), (0.95, 10, 2.22814), (0.99, 100, 2.62589), (0.99, 2, 9.92484)],
)
def test_quantiles_are_those_of_the_tables(confidence, freedom, expected):
    assert student_quantile(confidence, freedom) == pytest.approx(expected, rel=1e-5)


def _launches(rng, count, milliseconds):
    """Medians of launches that differ by 4 %, as processes do, whatever the noise within them."""
    return list(milliseconds * np.exp(rng.normal(0, 0.04, count)))


def _wrong(compare, true_ratio, runs=1000):
    rng = np.random.default_rng(0)
    found = [compare(_launches(rng, 5, 10 * true_ratio), _launches(rng, 5, 10.0)) for _ in range(runs)]
    return sum(not ratio.low <= true_ratio <= ratio.high for ratio in found) / runs


@pytest.mark.parametrize("compare", [paired_ratio, unpaired_ratio])
@pytest.mark.parametrize("true_ratio", [1.0, 1.3])
def test_intervals_cover_the_truth_as_often_as_they_say(compare, true_ratio):
    assert _wrong(compare, true_ratio) <= 1 - CONFIDENCE + 0.01


@pytest.mark.parametrize("compare", [paired_ratio, unpaired_ratio])
def test_a_real_difference_is_shown(compare):
    rng = np.random.default_rng(1)
    found = [compare(_launches(rng, 5, 13.0), _launches(rng, 5, 10.0)) for _ in range(200)]
    assert sum(ratio.low > 1 for ratio in found) > 180


def test_launches_without_any_noise_have_an_interval_of_one_point():
    assert unpaired_ratio([2.0] * 3, [1.0] * 4).to_list() == [2, 2, 2]
    assert paired_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]).to_list() == [2, 2, 2]


def test_too_few_launches_have_no_interval():
    assert paired_ratio([1.0, 2.0], [1.0, 2.0]) is None
    assert unpaired_ratio([1.0] * 5, [1.0] * 2) is None
    with pytest.raises(ValueError, match="no pairs"):
        paired_ratio([1.0] * 3, [1.0] * 4)
