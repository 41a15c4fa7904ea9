"""Philox4x32-10 against its published vectors, and the numbering of the uniforms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from immunecam.errors import InputError, UsageError
from immunecam.kernels import philox4x32, uniforms

WORD = st.integers(0, 2**32 - 1)
NUMBER = st.integers(0, 2**64 - 1)

# Random123's known-answer vectors (kat_vectors, philox4x32 10): counter, key, output.
VECTORS = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def philox_of_integers(counter: list[int], key: list[int]) -> list[int]:
    """The algorithm as the paper writes it, on Python integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (right >> 32) ^ c1 ^ k0,
            right & 0xFFFFFFFF,
            (left >> 32) ^ c3 ^ k1,
            left & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(("counter", "key", "output"), VECTORS)
def test_known_answers(counter: list[int], key: list[int], output: list[int]) -> None:
    result = philox4x32(counter, key)
    assert result.dtype == np.uint32
    assert result.tolist() == output
    assert philox_of_integers(counter, key) == output


def test_known_answers_in_one_call() -> None:
    counters, keys, outputs = (np.array(part, dtype=np.uint32) for part in zip(*VECTORS, strict=True))
    assert np.array_equal(philox4x32(counters, keys), outputs)
    assert np.array_equal(philox4x32(counters[:, None], keys)[range(3), range(3)], outputs)


@given(st.lists(WORD, min_size=4, max_size=4), st.lists(WORD, min_size=2, max_size=2))
def test_agrees_with_integers(counter: list[int], key: list[int]) -> None:
    assert philox4x32(counter, key).tolist() == philox_of_integers(counter, key)


@given(NUMBER, NUMBER, st.integers(0, 5), st.integers(0, 70))
def test_uniforms_follow_the_definition(seed: int, image: int, clone: int, k: int) -> None:
    """Counter (k // 4, clone, image_lo, image_hi), key (seed_lo, seed_hi), lane k % 4, 24 bits."""
    counter = [k // 4, clone, image & 0xFFFFFFFF, image >> 32]
    r = philox_of_integers(counter, [seed & 0xFFFFFFFF, seed >> 32])[k % 4]
    u = uniforms(seed, [image], clone + 1, k + 1)
    assert u.dtype == np.float32
    assert float(u[0, clone, k]) == (r >> 8) * 2.0**-24


@settings(max_examples=50)
@given(NUMBER, st.lists(NUMBER, min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 40), st.data())
def test_uniforms_do_not_depend_on_the_batch(
    seed: int, images: list[int], clones: int, k: int, data: st.DataObject
) -> None:
    u = uniforms(seed, np.array(images, dtype=np.uint64), clones, k)
    assert u.shape == (len(images), clones, k)
    n = data.draw(st.integers(0, len(images) - 1))
    more = uniforms(seed, [images[n]], clones + data.draw(st.integers(0, 3)), k + data.draw(st.integers(0, 9)))
    assert np.array_equal(u[n], more[0, :clones, :k])


def test_uniforms_are_uniform() -> None:
    u = uniforms(1, range(64), 4, 1000)
    assert u.min() >= 0.0
    assert u.max() < 1.0
    counts, _ = np.histogram(u, bins=64, range=(0, 1))
    expected = u.size / 64
    # Chi-squared with 63 degrees of freedom: mean 63, standard deviation 11.2.
    assert 63 - 5 * 11.2 < ((counts - expected) ** 2 / expected).sum() < 63 + 5 * 11.2


def test_uniforms_of_no_image() -> None:
    assert uniforms(1, [], 2, 5).shape == (0, 2, 5)


def test_large_and_small_image_numbers_in_one_list() -> None:
    u = uniforms(1, [3, 2**64 - 1], 1, 8)
    assert np.array_equal(u[0], uniforms(1, np.array([3], np.int32), 1, 8)[0])


@pytest.mark.parametrize("counter", [[0, 0, 0], 5, [[1, 2]]])
def test_wrong_counter_shape(counter: object) -> None:
    with pytest.raises(InputError, match="last axis must be 4"):
        philox4x32(counter, [0, 0])  # type: ignore[arg-type]


@pytest.mark.parametrize("counter", [[0, 0, 0, 2**32], [0, 0, 0, -1], [0.0, 0, 0, 0]])
def test_wrong_counter_value(counter: list[int]) -> None:
    with pytest.raises(InputError, match="integers from 0"):
        philox4x32(counter, [0, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, [0], 1, 4), "seed is -1"),
        ((2**64, [0], 1, 4), "seed is 18446744073709551616"),
        ((1.5, [0], 1, 4), "seed is a float"),
        ((1, [-1], 1, 4), "image number is -1"),
        ((1, [2**64], 1, 4), "image number is 18446744073709551616"),
        ((1, [0.5], 1, 4), "must be integers"),
        ((1, 7, 1, 4), r"shape \(\)"),
        ((1, [0], 0, 4), "clones is 0"),
        ((1, [0], 1, 0), "k is 0"),
        ((1, [0], 1.0, 4), "clones is a float"),
    ],
)
def test_arguments_out_of_range(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        uniforms(*arguments)  # type: ignore[arg-type]
