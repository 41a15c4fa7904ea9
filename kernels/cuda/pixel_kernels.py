"""Faces in and out on a card: from pixels or float32 to what networks take, and back to pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from immunecam.errors import UsageError
from immunecam.kernels.cuda.launch_plan import quantize_launch, take_launch
from immunecam.kernels.cuda.launching import launch
from immunecam.kernels.cuda.programs import Programs

__all__ = ["PixelKernels"]


class PixelKernels:
    """Launches what :mod:`immunecam.kernels.pixels` does on a CPU. It holds no memory; addresses are the caller's.

    Parameters
    ----------
    programs : Programs
        Of the card.
    d, width : int
        Values of a face, and of a row of it.
    """

    def __init__(self, programs: Programs, d: int, width: int) -> None:
        self._programs, self._d, self._width = programs, d, width

    def take(
        self,
        n: int,
        given: int,
        dtype: str,
        faces: int,
        *,
        steps: tuple[int, int] | None = None,
        faults: Any,
        stream: Any,
    ) -> None:
        """Faces as they are given to float32 in [-1, 1].

        Parameters
        ----------
        n : int
            Faces, 1 to 128.
        given : int
            Address of (N, D) uint8 or float32 that the card can read: its own memory, or pinned memory of the host.
        dtype : {"uint8", "float32"}
            Of them; float32 is looked through for what a face may not be, see :class:`Fault`.
        faces : int
            Address of (N, D) float32, which is written.
        steps : (int, int), optional
            Values from one given face to the next, and from one of its rows to the next; None: nothing lies between.
        faults : cuda.core.Buffer
            One uint32 to report to.
        """
        if dtype not in ("uint8", "float32"):
            raise UsageError(f"The faces are {dtype}, but they must be uint8 or float32.")
        face, row = (self._d, self._width) if steps is None else steps
        layout = (np.int32(self._width), np.uint64(row), np.uint64(face))
        plan, faulty = take_launch(n, self._d, dtype), () if dtype == "uint8" else (faults,)
        launch(self._programs, plan, stream, given, *layout, np.int32(self._d), faces, *faulty)

    def quantize(self, n: int, faces: int, pixels: int, *, faults: Any, stream: Any) -> None:
        """Float32 (N, D) at an address to uint8 (N, D) at another: clipped, halves to even; NaN is reported."""
        launch(self._programs, quantize_launch(n, self._d), stream, faces, np.int32(self._d), pixels, faults)
