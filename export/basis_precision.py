"""The basis as a device stores it: float32, float16, or int8 with a scale per row."""

from __future__ import annotations

import numpy as np

from immunecam.errors import UsageError
from immunecam.export.int8 import int8_rows
from immunecam.kernels import Subspace
from immunecam.models import Eigenspace

__all__ = ["BASIS_PRECISIONS", "subspace_from_eigenspace"]

BASIS_PRECISIONS = ("fp32", "fp16", "int8")


def subspace_from_eigenspace(eigenspace: Eigenspace, precision: str = "int8") -> Subspace:
    """Round the eigenfaces to a storage format.

    Parameters
    ----------
    eigenspace : Eigenspace
        Float32 rows.
    precision : str
        "fp32", "fp16", or "int8": row k is ``scale_k * q_k`` with q in [-127, 127] and scale_k = max |V_k| / 127.

    Raises
    ------
    UsageError
        For another precision.
    """
    if precision not in BASIS_PRECISIONS:
        raise UsageError(f"basis precision {precision!r} is unknown: use one of {', '.join(BASIS_PRECISIONS)}")
    mean = eigenspace.mean.cpu().numpy().astype(np.float32)
    rows = eigenspace.basis.cpu().numpy()
    if precision == "int8":
        quantised, scale = int8_rows(rows)
        return Subspace(mean, quantised, scale[:, 0])
    return Subspace(mean, rows.astype(np.float32 if precision == "fp32" else np.float16))
