"""Projection of faces onto the eigenfaces that their antibodies leave active."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.kernels.pixels import quantize_faces
from immunecam.kernels.subspace import Subspace

__all__ = ["project", "project_float"]

# Up to this many faces, matrix-vector products face by face beat matrix products, and by far on a busy
# machine, where every matrix product waits for a BLAS thread to be scheduled (measured: OpenBLAS, 2 cores).
_FACE_BY_FACE = 8

# Rows of the basis worked on at a time. Face by face, a block stays in cache, so every row is read from
# memory once (16 to 128 rows are within 10% of each other at D = 12544). Otherwise few and large products.
_ROWS_FACE_BY_FACE = 32
_ROWS_TOGETHER = 256

# Skipping inactive rows costs a copy of the active ones. Measured break-even shares of active rows:
# converting to float32 copies anyway, so there it pays almost at once.
_GATHER_BELOW_FLOAT32 = 0.6
_GATHER_BELOW_CONVERTED = 0.95


def project(faces: NDArray[np.float32], antibody: NDArray[Any], subspace: Subspace) -> NDArray[np.uint8]:
    """Purified faces as 8-bit pixels: :func:`project_float`, then :func:`quantize_faces`.

    Parameters
    ----------
    faces : ndarray of float32, shape (N, H, W) with H W = D
        Values in [-1, 1].
    antibody : ndarray of bool or float32, shape (N, K)
        Bits or weights of the eigenfaces, from :func:`immunecam.kernels.mutation.mutate`.
    subspace : Subspace

    Returns
    -------
    ndarray of uint8, shape (N, H, W)

    Raises
    ------
    InputError
        If a shape or dtype is wrong, K or D disagree, or a value is not finite.
    """
    return quantize_faces(project_float(faces, antibody, subspace))


def project_float(faces: NDArray[np.float32], antibody: NDArray[Any], subspace: Subspace) -> NDArray[np.float32]:
    """Purified faces before rounding: ``mu + V (m * (V^T (x - mu)))``.

    ``V * m`` is never formed: the antibody multiplies the K coefficients. Eigenfaces that no face of
    the batch uses are not read when that is faster; it changes sums by float32 rounding only.

    Parameters and errors are those of :func:`project`.

    Returns
    -------
    ndarray of float32, shape (N, H, W)
        Not clipped: values may leave [-1, 1].
    """
    weights = _check(faces, antibody, subspace)
    k = subspace.k
    if subspace.scale is not None:
        # V_k = scale_k b_k stands on both sides of m_k, so the scales never touch the big array.
        weights = weights * np.square(subspace.scale)
    active = np.flatnonzero(weights.any(axis=0))
    converted = subspace.basis.dtype != np.float32
    share = active.size / k
    gather = share < (_GATHER_BELOW_CONVERTED if converted else _GATHER_BELOW_FLOAT32)
    if gather:
        weights = weights[:, active]
    centred = faces.reshape(len(faces), subspace.d) - subspace.mean
    out = np.empty_like(centred)
    out[:] = subspace.mean
    face_by_face = len(faces) <= _FACE_BY_FACE
    size = min(_ROWS_FACE_BY_FACE if face_by_face else _ROWS_TOGETHER, k)
    rows = np.empty((size, subspace.d), subspace.basis.dtype) if gather else None
    floats = np.empty((size, subspace.d), np.float32) if converted else None
    for start in range(0, weights.shape[1], size):
        stop = min(start + size, weights.shape[1])
        if rows is None:
            block = subspace.basis[start:stop]
        else:
            block = rows[: stop - start]
            # "clip" because numpy buffers the output in its default mode; no index is out of range.
            np.take(subspace.basis, active[start:stop], axis=0, out=block, mode="clip")
        if floats is not None:
            np.copyto(floats[: stop - start], block)
            block = floats[: stop - start]
        if face_by_face:
            for face, weight, result in zip(centred, weights[:, start:stop], out, strict=True):
                result += (weight * (block @ face)) @ block
        else:
            out += (weights[:, start:stop] * (centred @ block.T)) @ block
    return out.reshape(faces.shape)


def _check(faces: Any, antibody: Any, subspace: Subspace) -> NDArray[np.float32]:
    """Check everything eagerly; the antibody as float32 weights."""
    if not isinstance(faces, np.ndarray) or faces.dtype != np.float32 or faces.ndim != 3:
        raise InputError(f"The faces are {_describe(faces)}, but they must be float32 (N, H, W).")
    if faces.shape[1] * faces.shape[2] != subspace.d:
        raise InputError(f"A face has {faces.shape[1]}x{faces.shape[2]} pixels, but the subspace has D = {subspace.d}.")
    if not isinstance(antibody, np.ndarray) or antibody.dtype.name not in ("bool", "float32"):
        raise InputError(f"The antibody is {_describe(antibody)}, but it must be bool or float32 (N, K).")
    if antibody.shape != (len(faces), subspace.k):
        raise InputError(
            f"The antibody has the shape {antibody.shape}, but {len(faces)} faces and a subspace with "
            f"K = {subspace.k} need {(len(faces), subspace.k)}."
        )
    if not np.isfinite(faces).all():
        raise InputError("The faces hold NaN or infinity, but every value must be in [-1, 1].")
    weights = antibody.astype(np.float32)
    if not np.isfinite(weights).all():
        raise InputError("The antibody holds NaN or infinity, but every weight must be finite.")
    return weights


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} with the shape {value.shape}"
    return type(value).__name__
