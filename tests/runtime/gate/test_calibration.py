"""Thresholds from a false match rate, and what the data can say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from immunecam.errors import InputError, UsageError
from immunecam.runtime.gate.calibration import calibrate_identities, calibrate_pairs, clopper_pearson
from immunecam.runtime.gate.error_rates import ErrorRates


@pytest.mark.parametrize(
    ("errors", "trials", "low", "high"),
    [  # scipy.stats.beta.ppf
        (0, 10, 0.0, 0.3084971078187608),
        (1, 10, 0.0025285785444617, 0.4450161170306917),
        (10, 10, 0.6915028921812392, 1.0),
        (3, 3000, 0.0002062715378, 0.0029196164627),
    ],
)
def test_exact_intervals(errors, trials, low, high):
    assert clopper_pearson(errors, trials) == pytest.approx((low, high), rel=1e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_hold_the_rate_and_mirror_each_other(drawn):
    errors, trials = drawn
    low, high = clopper_pearson(errors, trials)
    assert 0 <= low <= errors / trials <= high <= 1
    assert clopper_pearson(trials - errors, trials) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_an_exact_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = [low <= 0.03 <= high for low, high in (clopper_pearson(int(k), 200) for k in rng.binomial(200, 0.03, 400))]
    assert np.mean(inside) >= 0.94


def people(count: int, pictures: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, 64))
    rows = np.repeat(centres, pictures, 0) + spread * rng.standard_normal((count * pictures, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), np.repeat(np.arange(count), pictures)


def test_the_threshold_keeps_to_the_rate_on_all_pairs():
    rows, who = people(60, 3, 0.7)
    found = calibrate_identities(rows, who, 0.01)
    cosines = rows @ rows.T
    upper = np.triu(np.ones_like(cosines, bool), 1)
    same = who[:, None] == who[None, :]
    impostors, genuine = cosines[upper & ~same], cosines[upper & same]
    assert found.comparisons == len(impostors)
    assert found.genuine == len(genuine)
    assert found.independent == 60 * 59 // 2
    assert (impostors > found.threshold + 1e-6).mean() <= 0.01 < (impostors >= found.threshold - 0.02).mean()
    assert found.fmr == pytest.approx((impostors >= found.threshold).mean(), abs=2 / len(impostors))
    assert found.fnmr == pytest.approx((genuine < found.threshold).mean())
    assert found.threshold_low <= found.threshold <= found.threshold_high
    assert found.fmr_low <= found.fmr <= found.fmr_high


def test_intervals_of_people_hold_the_rate_of_everybody():
    """Threshold and interval of 40 people, against the true rate of 700 others."""
    rows, who = people(700, 2, 0.7, seed=99)
    cosines = (rows @ rows.T)[np.triu(who[:, None] != who[None, :], 1)]
    inside = 0
    for seed in range(20):
        some, own = people(40, 3, 0.7, seed=seed)
        found = calibrate_identities(some, own, 0.02)
        inside += found.fmr_low <= (cosines >= found.threshold).mean() <= found.fmr_high
    assert inside >= 18


def test_pairs_and_people_agree():
    rows, who = people(80, 2, 0.6)
    i, j = np.triu_indices(len(rows), 1)
    scores = (rows[i] * rows[j]).sum(1).astype(np.float64)
    pairs = calibrate_pairs(scores, who[i] == who[j], 0.01)
    whole = calibrate_identities(rows, who, 0.01)
    assert pairs.threshold == pytest.approx(whole.threshold, abs=1e-4)
    assert pairs.threshold_high - pairs.threshold_low <= whole.threshold_high - whole.threshold_low
    assert calibrate_pairs(scores, who[i] == who[j], 0.01) == pairs


def test_what_the_data_cannot_support_is_told_by_the_rule_of_three():
    rows, who = people(30, 2, 0.5)
    found = calibrate_identities(rows, who, 1e-4)
    assert not found.supported
    with pytest.raises(InputError, match=r"needs 30,000 independent comparisons .* has 435: .* ask for 0.0069 or more"):
        found.check_supported()
    with pytest.raises(InputError, match=r"has 6: give more people$"):  # not for 0.5, which would be refused
        calibrate_identities(*people(4, 2, 0.5), 0.01).check_supported()
    assert found.fmr_high >= 3 / 435  # however many pictures: no error seen is not no error
    calibrate_identities(rows, who, 0.01).check_supported()


def test_wrong_input_is_told():
    rows, who = people(5, 2, 0.5)
    for target in (0.0, 0.5, float("nan")):
        with pytest.raises(UsageError, match=r"above 0 and below 0\.5"):
            calibrate_identities(rows, who, target)
    with pytest.raises(InputError, match="two pictures of somebody"):
        calibrate_identities(rows[::2], who[::2], 0.1)
    with pytest.raises(InputError, match="wanted some of both"):
        calibrate_pairs(np.ones(3), np.ones(3, bool), 0.1)
    with pytest.raises(UsageError, match="there must be"):
        clopper_pearson(3, 2)


def test_rates_at_all_thresholds_are_those_of_all_scores():
    rows, who = people(700, 2, 0.7)  # more than the scores that are kept, and than fit into a block
    found = calibrate_identities(rows, who, 0.001)
    cosines = rows @ rows.T
    upper = np.triu(np.ones_like(cosines, bool), 1)
    same = who[:, None] == who[None, :]
    impostors, genuine = cosines[upper & ~same], cosines[upper & same]
    assert (found.rates.comparisons, found.rates.independent, found.rates.genuine) == (len(impostors), 244650, 700)
    for index in (0, 60, 100, 117, 140, 171, 200):
        threshold = (index - 100) / 100
        assert found.rates.fmr[index] == pytest.approx((impostors >= threshold).mean(), abs=2 / len(impostors))
        assert found.rates.fnmr[index] == pytest.approx((genuine < threshold).mean(), abs=2 / len(genuine))
    assert found.rates.fmr[0] == 1
    assert found.rates.fnmr[0] == 0


def test_rates_of_pairs_that_reach_one_and_go_beyond():
    scores = np.array([-1.0000001, 0.2, 1.0000001, 0.5, 0.9, 1.0])
    found = calibrate_pairs(scores, np.array([False, False, False, True, True, True]), 0.4).rates
    assert found.fmr[0] == 1
    assert [found.fmr[i] for i in (100, 121, 200)] == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert [found.fnmr[i] for i in (100, 151, 200)] == pytest.approx([0, 1 / 3, 2 / 3])


def test_rates_of_another_length_are_refused():
    with pytest.raises(InputError, match="there are 2 and 1 error rates, but there must be 201 of both"):
        ErrorRates((0.0, 1.0), (0.0,), 1, 1, 1)
