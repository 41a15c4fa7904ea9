"""Philox4x32-10: the counter-based random numbers behind every mutation.

A counter-based generator has no state: the value for (seed, image, clone, k) is a pure function of
those four, so a face gets the same random numbers alone, in a batch, on a CPU and on a GPU.

The algorithm is that of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC'11. It is statistically strong but not a cipher; what keeps an attacker from predicting an antibody
is that the 64-bit seed is drawn from the operating system and never shown.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from immunecam.errors import InputError, UsageError

__all__ = ["philox4x32", "uniforms"]

_ROUNDS = 10
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = np.uint64(0xFFFFFFFF)
_HALF_WORD = np.uint64(32)
_TO_24_BITS = np.uint64(8)
_STEP = np.float32(2.0**-24)

# The multipliers of the words 0 and 2, in the order of the first axis of ``even`` below.
_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)


def philox4x32(counter: ArrayLike, key: ArrayLike) -> NDArray[np.uint32]:
    """Philox4x32-10 of each counter.

    Parameters
    ----------
    counter : array_like of uint32, shape (..., 4)
        The counters' four 32-bit words, lowest first.
    key : array_like of uint32, shape (2,) or (..., 2)
        The key's two 32-bit words, lowest first; broadcast against the counters.

    Returns
    -------
    ndarray of uint32, shape (..., 4)
        Four random words for each counter.

    Raises
    ------
    InputError
        If the last axes are not 4 and 2 long, or a word is not an unsigned 32-bit integer.
    """
    counters = _words(counter, 4, "counter")
    keys = _words(key, 2, "key")
    shape = np.broadcast_shapes(counters.shape[:-1], keys.shape[:-1])
    lanes = np.moveaxis(np.broadcast_to(counters, (*shape, 4)), -1, 0).astype(np.uint64)
    halves = np.moveaxis(np.broadcast_to(keys, (*shape, 2)), -1, 0).astype(np.uint64)
    weyl = np.array(_WEYL, dtype=np.uint64).reshape(2, *([1] * len(shape)))
    schedule = [(halves + np.uint64(r) * weyl) & _MASK for r in range(_ROUNDS)]
    even, odd = _rounds(lanes[0::2].copy(), lanes[1::2].copy(), schedule)
    out = np.empty((*shape, 4), dtype=np.uint32)
    out[..., 0::2] = np.moveaxis(even, 0, -1)
    out[..., 1::2] = np.moveaxis(odd, 0, -1)
    return out


def uniforms(seed: int, images: ArrayLike, clones: int, k: int) -> NDArray[np.float32]:
    """Uniform numbers that decide the mutation of faces.

    ``u[n, s, j]`` comes from the counter ``(j // 4, s, image_lo, image_hi)`` under the key
    ``(seed_lo, seed_hi)``: lane ``j % 4`` gives ``r``, and ``u = (r >> 8) * 2**-24``, which float32
    holds exactly. It depends on nothing else, so not on the batch a face came in.

    Parameters
    ----------
    seed : int
        0 to 2**64 - 1.
    images : array_like of int, shape (N,)
        The running number of each face, 0 to 2**64 - 1.
    clones : int
        Clones of each face, S >= 1.
    k : int
        Numbers a clone, K >= 1.

    Returns
    -------
    ndarray of float32, shape (N, S, K)
        Values in [0, 1).

    Raises
    ------
    UsageError
        If the seed, an image number, ``clones`` or ``k`` is out of its range.
    """
    schedule = _schedule(_seed_of(seed))
    numbers = _image_numbers(images)
    clones = _count(clones, "clones")
    k = _count(k, "k")
    blocks = -(-k // 4)
    shape = (2, numbers.size, clones, blocks)
    even = np.empty(shape, dtype=np.uint64)
    odd = np.empty(shape, dtype=np.uint64)
    even[0] = np.arange(blocks, dtype=np.uint64)
    even[1] = (numbers & _MASK)[:, None, None]
    odd[0] = np.arange(clones, dtype=np.uint64)[:, None]
    odd[1] = (numbers >> _HALF_WORD)[:, None, None]
    even, odd = _rounds(even, odd, schedule)
    even >>= _TO_24_BITS
    odd >>= _TO_24_BITS
    out = np.empty((numbers.size, clones, blocks, 2, 2), dtype=np.float32)
    out[..., 0] = np.moveaxis(even, 0, -1)
    out[..., 1] = np.moveaxis(odd, 0, -1)
    out *= _STEP
    return out.reshape(numbers.size, clones, blocks * 4)[:, :, :k]


def _rounds(
    even: NDArray[np.uint64], odd: NDArray[np.uint64], schedule: Any
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Ten rounds on 32-bit words kept in 64-bit ones; both arrays are overwritten.

    ``even`` holds the words 0 and 2, ``odd`` the words 1 and 3. One round is
    ``(c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))``:
    stacked so, it is five array operations, which is what a single face's latency consists of.
    """
    multipliers = _MULTIPLIERS.reshape(2, *([1] * (even.ndim - 1)))
    product = np.empty_like(even)
    crossed = product[::-1]
    for key in schedule:
        np.multiply(even, multipliers, out=product)
        np.right_shift(crossed, _HALF_WORD, out=even)
        even ^= odd
        even ^= key
        np.bitwise_and(crossed, _MASK, out=odd)
    return even, odd


@functools.lru_cache(maxsize=64)
def _schedule(seed: int) -> tuple[NDArray[np.uint64], ...]:
    halves = (seed & 0xFFFFFFFF, seed >> 32)
    rows = []
    for r in range(_ROUNDS):
        words = [(half + r * weyl) & 0xFFFFFFFF for half, weyl in zip(halves, _WEYL, strict=True)]
        row = np.array(words, dtype=np.uint64).reshape(2, 1, 1, 1)
        row.flags.writeable = False  # the cache hands the same array to every caller
        rows.append(row)
    return tuple(rows)


def _words(values: ArrayLike, width: int, name: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim < 1 or array.shape[-1] != width:
        raise InputError(f"The Philox {name} has the shape {array.shape}, but its last axis must be {width}.")
    if array.dtype.kind not in "ui" or (array.size and (int(array.min()) < 0 or int(array.max()) > 0xFFFFFFFF)):
        raise InputError(f"The Philox {name} ({array.dtype}) holds something other than integers from 0 to 2**32 - 1.")
    return array


def _seed_of(seed: int) -> int:
    try:
        value = operator.index(seed)
    except TypeError:
        raise UsageError(f"The seed is a {type(seed).__name__}, but it must be an integer.") from None
    if not 0 <= value < 2**64:
        raise UsageError(f"The seed is {value}, but it must be from 0 to 2**64 - 1.")
    return value


def _count(value: int, name: str) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} is a {type(value).__name__}, but it must be an integer.") from None
    if count < 1:
        raise UsageError(f"{name} is {count}, but it must be at least 1.")
    return count


def _image_numbers(images: ArrayLike) -> NDArray[np.uint64]:
    array = np.asarray(images)
    if array.ndim != 1:
        raise UsageError(f"The image numbers have the shape {array.shape}, but it must be (N,).")
    if array.dtype == np.uint64:
        return array
    # numpy gives a list that mixes small and very large integers the dtype float64 or object.
    given = array.tolist() if array.dtype.kind in "uib" else list(images)  # type: ignore[arg-type]
    try:
        return np.array([_image_number(value) for value in given], dtype=np.uint64)
    except TypeError:
        raise UsageError(f"The image numbers are {array.dtype}, but they must be integers.") from None


def _image_number(value: Any) -> int:
    number = operator.index(value)
    if not 0 <= number < 2**64:
        raise UsageError(f"An image number is {number}, but it must be from 0 to 2**64 - 1.")
    return number
