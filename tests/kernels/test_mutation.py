"""Mutation: the three modes, clones, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.kernels import mutate, uniforms

PROBABILITIES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.floats(0, 1, width=32)
)


@given(PROBABILITIES, st.integers(0, 2**64 - 1))
def test_sample_is_uniform_below_p(p: NDArray[np.float32], seed: int) -> None:
    images = np.arange(len(p)) + 5
    bits = mutate(p, mode="sample", seed=seed, images=images)
    assert bits.dtype == np.bool_
    assert np.array_equal(bits, uniforms(seed, images, 1, p.shape[1])[:, 0] < p)
    assert bits[p == 1].all()
    assert not bits[p == 0].any()


@settings(max_examples=50)
@given(PROBABILITIES, st.integers(1, 5))
def test_clones_begin_with_the_single_draw(p: NDArray[np.float32], clones: int) -> None:
    images = np.arange(len(p))
    several = mutate(p, mode="sample", seed=9, images=images, clones=clones)
    assert several.shape == (len(p), clones, p.shape[1])
    assert np.array_equal(several[:, 0], mutate(p, mode="sample", seed=9, images=images))


@settings(max_examples=50)
@given(PROBABILITIES, st.data())
def test_a_face_is_mutated_the_same_in_any_batch(p: NDArray[np.float32], data: st.DataObject) -> None:
    images = data.draw(st.permutations(range(len(p))))
    whole = mutate(p, mode="sample", seed=1, images=images)
    n = data.draw(st.integers(0, len(p) - 1))
    assert np.array_equal(whole[n : n + 1], mutate(p[n : n + 1], mode="sample", seed=1, images=[images[n]]))


@given(PROBABILITIES)
def test_threshold_and_expected(p: NDArray[np.float32]) -> None:
    assert np.array_equal(mutate(p, mode="threshold"), p > 0.5)
    weights = mutate(p, mode="expected")
    assert weights.dtype == np.float32
    assert np.array_equal(weights, p)
    assert not np.shares_memory(weights, p)


def test_rate_of_bits_is_p() -> None:
    p = np.tile(np.array([[0.1, 0.5, 0.9]], np.float32), (20_000, 1))
    rates = mutate(p, mode="sample", seed=4, images=np.arange(len(p))).mean(axis=0)
    assert np.abs(rates - p[0]).max() < 5 * 0.5 / np.sqrt(len(p))


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (np.zeros((2, 3)), "float64"),
        ([[0.5]], "list"),
        (np.zeros(3, np.float32), r"shape \(3,\)"),
        (np.zeros((3, 0), np.float32), r"\(N, K\)"),
        (np.array([[np.nan]], np.float32), "NaN"),
        (np.array([[1.5]], np.float32), "outside"),
        (np.array([[-0.1]], np.float32), "outside"),
    ],
)
def test_wrong_probabilities(p: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mutate(p, mode="threshold")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "guess"}, "sample, threshold, expected"),
        ({"mode": "sample", "images": [0, 1]}, "needs seed="),
        ({"mode": "sample", "seed": 1}, "needs images="),
        ({"mode": "sample", "seed": 1, "images": [0]}, "1 image numbers for 2 faces"),
        ({"mode": "threshold", "clones": 3}, "only 'sample' draws clones"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mutate(np.full((2, 3), 0.5, np.float32), **options)
