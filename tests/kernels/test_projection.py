"""Projection against float64, its algebra, and the pixels and subspace it works on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.kernels import Subspace, dequantize_faces, project, project_float, quantize_faces

SEEDS = st.integers(0, 2**32 - 1)


def make_subspace(rng: np.random.Generator, k: int, d: int, dtype: str) -> Subspace:
    q, _ = np.linalg.qr(rng.standard_normal((d, k)))
    rows = np.ascontiguousarray(q.T, dtype=np.float32)
    mean = rng.uniform(-0.5, 0.5, d).astype(np.float32)
    if dtype == "int8":
        scale = np.abs(rows).max(axis=1) / np.float32(127)
        return Subspace(mean, np.rint(rows / scale[:, None]).astype(np.int8), scale)
    return Subspace(mean, rows.astype(dtype))


def make_faces(rng: np.random.Generator, n: int, side: int) -> NDArray[np.float32]:
    return (rng.integers(0, 256, (n, side, side)) / 127.5 - 1).astype(np.float32)


def reference(faces: NDArray[Any], antibody: NDArray[Any], subspace: Subspace) -> NDArray[np.float64]:
    """mu + V (m * (V^T (x - mu))) in float64, with V as the subspace stores it."""
    v = subspace.basis.astype(np.float64)
    if subspace.scale is not None:
        v = v * subspace.scale.astype(np.float64)[:, None]
    x = faces.reshape(len(faces), -1).astype(np.float64)
    mu = subspace.mean.astype(np.float64)
    return (mu + (antibody.astype(np.float64) * ((x - mu) @ v.T)) @ v).reshape(faces.shape)


@settings(max_examples=60, deadline=None)
@given(
    SEEDS,
    st.sampled_from(["float32", "float16", "int8"]),
    st.sampled_from([1, 3, 8, 9, 20]),
    st.integers(1, 90),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.booleans(),
)
def test_agrees_with_float64(seed: int, dtype: str, n: int, k: int, share: float, bits: bool) -> None:
    """Every way through: rows skipped or not, face by face or together, converted or not."""
    rng = np.random.default_rng(seed)
    subspace = make_subspace(rng, k, 12 * 12, dtype)
    faces = make_faces(rng, n, 12)
    antibody: NDArray[Any] = rng.random((n, k)) < share
    if not bits:
        antibody = (antibody * rng.random((n, k))).astype(np.float32)
    exact = reference(faces, antibody, subspace)
    assert np.abs(project_float(faces, antibody, subspace) - exact).max() < 1e-5
    grey = np.rint(np.clip((exact + 1) * 127.5, 0, 255))
    assert np.abs(project(faces, antibody, subspace).astype(int) - grey).max() <= 1


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_agrees_with_float64_over_several_blocks(dtype: str, share: float) -> None:
    rng = np.random.default_rng(0)
    subspace = make_subspace(rng, 300, 18 * 18, dtype)
    faces, bits = make_faces(rng, 9, 18), np.repeat(rng.random((1, 300)) < share, 9, axis=0)
    assert np.abs(project_float(faces, bits, subspace) - reference(faces, bits, subspace)).max() < 1e-5


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 40))
def test_bits_project_idempotently(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    subspace = make_subspace(rng, k, 100, "float32")
    faces = make_faces(rng, 2, 10)
    bits = rng.random((2, k)) < 0.5
    once = project_float(faces, bits, subspace)
    assert np.abs(project_float(once, bits, subspace) - once).max() < 1e-5


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 40))
def test_error_splits_as_orthonormality_says(seed: int, k: int) -> None:
    """What bits leave out of the subspace adds its squared coefficients to the squared error."""
    rng = np.random.default_rng(seed)
    subspace = make_subspace(rng, k, 100, "float32")
    faces = make_faces(rng, 1, 10)
    bits = rng.random((1, k)) < 0.5
    coefficients = subspace.dequantized().astype(np.float64) @ (faces.reshape(-1) - subspace.mean)

    def error(antibody: NDArray[np.bool_]) -> float:
        return float(((project_float(faces, antibody, subspace).astype(np.float64) - faces) ** 2).sum())

    outside = error(np.ones((1, k), np.bool_))
    assert error(bits) == pytest.approx(outside + (coefficients[~bits[0]] ** 2).sum(), rel=1e-4, abs=1e-4)


def test_no_active_row_gives_the_mean_face() -> None:
    rng = np.random.default_rng(0)
    subspace = make_subspace(rng, 5, 100, "int8")
    out = project_float(make_faces(rng, 2, 10), np.zeros((2, 5), np.bool_), subspace)
    assert np.array_equal(out, np.broadcast_to(subspace.mean.reshape(10, 10), (2, 10, 10)))


def test_no_face() -> None:
    subspace = make_subspace(np.random.default_rng(0), 5, 100, "float32")
    assert project(np.zeros((0, 10, 10), np.float32), np.zeros((0, 5), np.bool_), subspace).shape == (
        0,
        10,
        10,
    )


def test_inputs_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    subspace = make_subspace(rng, 5, 100, "float32")
    faces, antibody = make_faces(rng, 2, 10), np.full((2, 5), 0.5, np.float32)
    before = faces.copy(), antibody.copy()
    project(faces, antibody, subspace)
    assert np.array_equal(faces, before[0])
    assert np.array_equal(antibody, before[1])


FACES = np.zeros((2, 10, 10), np.float32)
BITS = np.zeros((2, 5), np.bool_)


@pytest.mark.parametrize(
    ("faces", "antibody", "message"),
    [
        (FACES.astype(np.float64), BITS, "float64"),
        (FACES[0], BITS, r"\(N, H, W\)"),
        ("face", BITS, "str"),
        (np.zeros((2, 9, 10), np.float32), BITS, "D = 100"),
        (FACES, BITS.astype(np.int64), "int64"),
        (FACES, BITS[:1], r"\(2, 5\)"),
        (FACES, np.zeros((2, 6), np.bool_), "K = 5"),
        (FACES + np.float32(np.nan), BITS, "faces hold NaN"),
        (FACES, np.full((2, 5), np.inf, np.float32), "antibody holds NaN"),
    ],
)
def test_wrong_input(faces: Any, antibody: Any, message: str) -> None:
    subspace = make_subspace(np.random.default_rng(0), 5, 100, "float32")
    with pytest.raises(InputError, match=message):
        project(faces, antibody, subspace)


def test_pixels_come_back() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    faces = dequantize_faces(pixels)
    assert faces.dtype == np.float32
    assert faces[0] == -1
    assert faces[-1] == 1
    assert np.array_equal(quantize_faces(faces), pixels)


def test_pixels_are_rounded_and_clipped() -> None:
    values = np.array([0.0, 0.4 / 127.5, -0.6 / 127.5, -3, -1, 1, 300], np.float32)
    assert quantize_faces(values).tolist() == [128, 128, 127, 0, 0, 255, 255]


@pytest.mark.parametrize(
    ("call", "value", "message"),
    [
        (quantize_faces, np.zeros(2, np.int32), "int32"),
        (quantize_faces, np.array([np.nan], np.float32), "NaN"),
        (dequantize_faces, np.zeros(2, np.float32), "float32"),
    ],
)
def test_wrong_pixels(call: Any, value: NDArray[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(value)


def test_subspace_is_read_only_and_row_major() -> None:
    rows = np.asfortranarray(np.eye(3, 4, dtype=np.float32))
    subspace = Subspace(np.zeros(4, np.float32), rows)
    assert (subspace.k, subspace.d) == (3, 4)
    assert subspace.basis.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        subspace.basis[0, 0] = 2
    rows[0, 0] = 1  # the caller's own array stays writeable


def test_dequantized_multiplies_by_the_scale() -> None:
    subspace = Subspace(np.zeros(2, np.float32), np.array([[127, 0]], np.int8), np.array([0.5], np.float32))
    assert subspace.dequantized().tolist() == [[63.5, 0.0]]


MEAN, ROWS, SCALE = np.zeros(4, np.float32), np.eye(3, 4, dtype=np.float32), np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("mean", "basis", "scale", "message"),
    [
        (MEAN.astype(np.float64), ROWS, None, "mean is float64"),
        ([0.0], ROWS, None, "mean is list"),
        (MEAN, ROWS.astype(np.int16), SCALE, "int16"),
        (MEAN, ROWS[0], None, r"\(K, D\)"),
        (MEAN[:3], ROWS, None, "mean has 3 values"),
        (np.zeros(3, np.float32), np.zeros((4, 3), np.float32), None, "K = 4"),
        (MEAN + np.float32(np.inf), ROWS, None, "mean holds NaN"),
        (MEAN, ROWS * np.float32(np.nan), None, "basis holds NaN"),
        (MEAN, ROWS.astype(np.int8), None, "int8 without a scale"),
        (MEAN, ROWS.astype(np.int8), SCALE[:2], "scale has 2 values"),
        (MEAN, ROWS.astype(np.int8), SCALE * 0, "not a positive"),
        (MEAN, ROWS.astype(np.int8), SCALE.astype(np.float16), "scale is float16"),
    ],
)
def test_wrong_subspace(mean: Any, basis: Any, scale: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Subspace(mean, basis, scale)
