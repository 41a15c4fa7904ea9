"""The projection whose two passes over the basis all faces of a batch share, on tensor cores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from immunecam.kernels.cuda.launch_plan import Batched, batched
from immunecam.kernels.cuda.launching import launch
from immunecam.kernels.cuda.programs import Programs
from immunecam.kernels.subspace import Subspace

__all__ = ["BatchedProjection", "lift_of"]

_LARGEST = 60_000.0  # just below what a half holds
_MOST_LIFT = 60


class BatchedProjection:
    """Scratch memory and launches of project_batch.cu.

    Parameters
    ----------
    subspace : Subspace
        For its sizes and the range of its values.
    programs : Programs
        Of a card that :func:`batched` has a plan for.
    room : callable
        Takes bytes, and gives a buffer that lives as long as this object.
    max_batch : int
        Faces of a call at most.

    Attributes
    ----------
    written : tuple of cuda.core.Buffer
        Scratch: what launches write before anything reads it.
    """

    def __init__(self, subspace: Subspace, programs: Programs, room: Callable[[int], Any], *, max_batch: int) -> None:
        self._k, self._d, self._basis = subspace.k, subspace.d, subspace.basis.dtype.name
        self._programs, self._lift = programs, np.int32(lift_of(subspace))
        plans = [self._plan(n) for n in range(1, max_batch + 1)]
        pitch = plans[-1].pitch
        self._centred, self._coefficients = room(4 * max_batch * self._d), room(4 * max_batch * pitch)
        # Not of the largest batch: fewer faces may be spread over more blocks.
        self._partial = room(max(4 * plan.splits * n * pitch for n, plan in enumerate(plans, 1)))
        self._active = room(4 * ((self._k + 31) // 32))
        self.written = (self._centred, self._coefficients, self._partial, self._active)

    def project(
        self,
        n: int,
        *,
        faces: Any,
        mean: Any,
        basis: Any,
        scale: Any,
        bits: Any,
        rows: Any,
        weights: Any,
        counts: Any,
        pixels: Any,
        projected: Any,
        stream: Any,
    ) -> None:
        """The first n faces onto their active rows; the buffers are those of :class:`SubspaceKernels`."""
        plan = self._plan(n)
        count, k, d, pitch = np.int32(n), np.int32(self._k), np.int32(self._d), np.int32(plan.pitch)
        launch(self._programs, plan.centre, stream, faces, mean, bits, count, k, d, self._centred, self._active)
        launch(
            self._programs, plan.coefficients, stream, self._centred, basis, self._active, count, k, d, pitch,
            np.int32(plan.steps), self._partial,
        )  # fmt: skip
        launch(
            self._programs, plan.weigh, stream, self._partial, scale, bits, rows, weights, counts,
            np.int32(plan.splits), count, k, pitch, self._lift, self._coefficients,
        )  # fmt: skip
        launch(
            self._programs, plan.reconstruct, stream, mean, basis, self._active, self._coefficients, count, k, d, pitch,
            self._lift, pixels, projected,
        )  # fmt: skip

    def _plan(self, n: int) -> Batched:
        plan = batched(self._programs.card, n, self._k, self._d, self._basis)
        assert plan is not None, "possible_forms has looked"
        return plan


def lift_of(subspace: Subspace) -> int:
    """Exponent of the power of two that coefficients are multiplied by before they become halves.

    A half is finer than 2^-24 nowhere, and an int8 row's coefficient, with the row's scale in it, may be as small as
    that. So they are lifted until the largest that faces in [-1, 1] could give is just below what a half holds.
    """
    basis = subspace.basis
    if basis.dtype == np.float16:
        # Bits without the sign are ordered as the values, and compared much quicker.
        largest = float((basis.view(np.uint16) & 0x7FFF).max().view(np.float16))
    else:
        largest = float(np.abs(basis.astype(np.int16)).max())
    scale = 1.0 if subspace.scale is None else float(subspace.scale.max())
    bound = largest * subspace.d * (1.0 + float(np.abs(subspace.mean).max())) * scale**2
    if bound == 0.0:
        return 0
    return max(-_MOST_LIFT, min(_MOST_LIFT, math.floor(math.log2(_LARGEST / bound))))
