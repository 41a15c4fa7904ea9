"""Traces that an adversarial perturbation leaves in purification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.kernels import Subspace, project_float

if TYPE_CHECKING:
    from immunecam.runtime.gate.operating_point import OperatingPoint

__all__ = ["MARGIN", "Evidence", "evidence_limits", "residual_energy", "suspected"]

MARGIN = 3.0
"""How many times further than the clean quantile a sign must go. Another camera or another alignment moves clean
faces, too; attacks lie much further away (benchmarks/results/evidence.json has both)."""


@dataclass(frozen=True)
class Evidence:
    """What purification took away from a face, and what that meant to the recogniser.

    Attributes
    ----------
    residual : float
        Energy of the face outside of its antibody's subspace, in its energy about the mean face, 0 to about 1.
    cosine : float
        Between the embeddings before and after purification, -1 to 1. A perturbation is made for the recogniser, so
        taking it away turns the embedding further than taking detail from a clean face does.
    active : float
        Active eigenfaces of the antibody; the sum of its weights where none is drawn.
    """

    residual: float
    cosine: float
    active: float


def residual_energy(
    faces: NDArray[np.float32], antibodies: NDArray[np.float32], subspace: Subspace
) -> NDArray[np.float64]:
    """Energy outside of each antibody's subspace: ``|x - mu - V (m * V^T (x - mu))|^2 / |x - mu|^2``.

    Parameters
    ----------
    faces : ndarray of float32, shape (N, H, W)
        Before purification, in [-1, 1].
    antibodies : ndarray of float32, shape (N, K)
        From :meth:`Purifier.antibodies`.
    subspace : Subspace

    Returns
    -------
    ndarray of float64, shape (N,)

    Raises
    ------
    InputError
        If shapes or dtypes are wrong.
    """
    if len(faces) != len(antibodies):
        raise InputError(f"there are {len(antibodies)} antibodies for {len(faces)} faces")
    if not len(faces):
        return np.empty(0)
    outside = (faces - project_float(faces, antibodies, subspace)).reshape(len(faces), -1).astype(np.float64)
    centred = faces.reshape(len(faces), -1).astype(np.float64) - subspace.mean
    energy: NDArray[np.float64] = np.square(outside).sum(1) / np.maximum(np.square(centred).sum(1), 1e-12)
    return energy


def evidence_limits(
    found: Sequence[Evidence], false_alarm: float, *, margin: float = MARGIN
) -> tuple[float, float] | None:
    """Limits of both signs, from clean faces.

    The quantile that each sign passes on half of `false_alarm` of the faces, `margin` times as far from no change at
    all (a residual of 0, a cosine of 1).

    Parameters
    ----------
    found : sequence of Evidence
        Of clean faces.
    false_alarm : float
        Above 0, below 1.
    margin : float
        1 or more.

    Returns
    -------
    tuple of (float, float) or None
        Residual and cosine limits; None where the faces are too few to place the quantile (rule of three).
    """
    share = false_alarm / 2
    if len(found) < 3 / share:
        return None
    residual = float(np.quantile([evidence.residual for evidence in found], 1 - share, method="higher"))
    cosine = float(np.quantile([evidence.cosine for evidence in found], share, method="lower"))
    return margin * residual, max(-1.0, 1 - margin * (1 - cosine))


def suspected(found: Sequence[Evidence], point: OperatingPoint | None) -> bool:
    """Whether the frames of a track, by the median of each sign, look attacked.

    The median, so that one frame alone, attacked or odd, decides nothing. Without limits nothing is suspected.
    """
    if point is None or not found:
        return False
    residual = float(np.median([evidence.residual for evidence in found]))
    cosine = float(np.median([evidence.cosine for evidence in found]))
    above = point.residual_limit is not None and residual > point.residual_limit
    below = point.cosine_limit is not None and cosine < point.cosine_limit
    return above or below
