"""One probe against all templates."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from immunecam.errors import InputError
from immunecam.runtime.gate.matcher import TemplateMatrix


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=12), seed=st.integers(0, 99), wanted=st.integers(1, 5))
def test_scores_are_the_best_cosines_of_each_person(counts, seed, wanted):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((sum(counts), 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    parts = np.split(rows, np.cumsum(counts)[:-1])
    gallery = TemplateMatrix(((f"p{i}", part) for i, part in enumerate(parts)), 16)
    probe = rows[rng.integers(len(rows))] * np.float32(0.9)
    naive = np.array([max(float(template @ probe) for template in part) for part in parts])
    np.testing.assert_allclose(gallery.scores(probe), naive, atol=1e-5)
    found = gallery.identify(probe, count=wanted)
    assert [match.score for match in found] == pytest.approx(sorted(naive, reverse=True)[:wanted], abs=1e-5)
    assert found[0].person == f"p{naive.argmax()}" or sorted(naive)[-1] - sorted(naive)[-2] < 1e-5
    for number, part in enumerate(parts):
        assert gallery.verify(f"p{number}", probe).score == pytest.approx(naive[number], abs=1e-5)
        np.testing.assert_array_equal(gallery.of(f"p{number}"), part)


def test_nobody_enrolled_is_nobody_found(unit):
    gallery = TemplateMatrix([], 32)
    assert gallery.identify(unit(1)[0]) == []
    assert len(gallery) == 0
    with pytest.raises(InputError, match="nobody is enrolled as 'x'"):
        gallery.verify("x", unit(1)[0])


@pytest.mark.parametrize("probe", [np.zeros(31, np.float32), np.zeros(32), [0.0] * 32, np.full(32, np.nan, np.float32)])
def test_a_wrong_probe_is_refused(unit, probe):
    with pytest.raises(InputError, match="the probe"):
        TemplateMatrix([("a", unit(2))], 32).scores(probe)


def test_templates_that_are_no_unit_vectors_are_refused(unit):
    with pytest.raises(InputError, match="not of unit length"):
        TemplateMatrix([("a", unit(2) * 2)], 32)


def test_ten_thousand_people_take_less_than_five_milliseconds(unit):
    """30,000 templates of 128 numbers, by the processor's time: the machine that tests run on has other work."""
    rows = unit(30_000, size=128)
    gallery = TemplateMatrix(((f"p{i}", rows[3 * i : 3 * i + 3]) for i in range(10_000)), 128)
    times = []
    for i in range(0, 3000, 100):
        began = time.thread_time()  # one thread; the clock would count other processes' work, too
        found = gallery.identify(rows[i])
        times.append(time.thread_time() - began)
        assert found[0].person == f"p{i // 3}"
    assert sorted(times)[len(times) // 2] < 0.005
