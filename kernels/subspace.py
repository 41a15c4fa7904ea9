"""The eigenface subspace a face is projected onto."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError

__all__ = ["Subspace"]

_BASIS_DTYPES = ("float32", "float16", "int8")


@dataclass(frozen=True, eq=False)
class Subspace:
    """Mean face and eigenfaces, as stored: eigenface k is ``scale[k] * basis[k]``.

    The eigenfaces are meant to be orthonormal; a float16 or int8 basis is so up to its rounding.
    Rows are sorted by variance, largest first. Arrays are made read-only.

    Attributes
    ----------
    mean : ndarray of float32, shape (D,)
        Mean face of the training faces, values in [-1, 1].
    basis : ndarray of float32, float16 or int8, shape (K, D)
        One eigenface a row.
    scale : ndarray of float32, shape (K,), or None
        Positive factor of each row; None means 1. An int8 basis must have it.

    Raises
    ------
    InputError
        If a shape or dtype is wrong, the shapes disagree, or a value is not finite.
    """

    mean: NDArray[np.float32]
    basis: NDArray[Any]
    scale: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Check everything at once, so that no projection has to."""
        _require(self.mean, "mean", ("float32",), 1)
        _require(self.basis, "basis", _BASIS_DTYPES, 2)
        k, d = self.basis.shape
        if self.mean.shape != (d,):
            raise InputError(f"The subspace's mean has {self.mean.size} values, but its basis has D = {d}.")
        if k < 1 or k > d:
            raise InputError(f"The subspace's basis has K = {k} rows, but it must have 1 to D = {d}.")
        if not np.isfinite(self.mean).all():
            raise InputError("The subspace's mean holds NaN or infinity, but every value must be finite.")
        # float16 has to be looked at as a whole too; blocks keep the temporary array small.
        if self.basis.dtype.kind == "f" and not all(
            np.isfinite(self.basis[start : start + 64]).all() for start in range(0, k, 64)
        ):
            raise InputError("The subspace's basis holds NaN or infinity, but every value must be finite.")
        if self.scale is not None:
            _require(self.scale, "scale", ("float32",), 1)
            if self.scale.shape != (k,):
                raise InputError(f"The subspace's scale has {self.scale.size} values, but its basis has K = {k}.")
            if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
                raise InputError("The subspace's scale holds a value that is not a positive finite number.")
        elif self.basis.dtype == np.int8:
            raise InputError("The subspace's basis is int8 without a scale, but an int8 basis needs one a row.")
        for name in ("mean", "basis", "scale"):
            array = getattr(self, name)
            if array is not None:
                # Rows must lie one after the other in memory: kernels and files count on it.
                view = np.ascontiguousarray(array).view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    @property
    def k(self) -> int:
        """Number of eigenfaces, K."""
        return int(self.basis.shape[0])

    @property
    def d(self) -> int:
        """Number of pixels of a face, D."""
        return int(self.basis.shape[1])

    def dequantized(self) -> NDArray[np.float32]:
        """Eigenfaces as float32 rows, shape (K, D): a fresh array of 4 K D bytes."""
        rows = self.basis.astype(np.float32)
        if self.scale is not None:
            rows *= self.scale[:, None]
        return rows


def _require(array: Any, name: str, dtypes: tuple[str, ...], ndim: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.name not in dtypes or array.ndim != ndim:
        found = f"{array.dtype} with the shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        wanted = "(D,)" if name == "mean" else "(K,)" if name == "scale" else "(K, D)"
        raise InputError(f"The subspace's {name} is {found}, but it must be {' or '.join(dtypes)} {wanted}.")
