"""What kernels find wrong with values: the host cannot look at what stays on the card."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["Fault"]


class Fault(IntFlag):
    """Bits of the word that kernels report to, as `fault.cuh` has them."""

    PROBABILITY = 1
    """A probability is outside [0, 1] or NaN."""

    FACE_NOT_FINITE = 2
    """A face that was given holds NaN or infinity."""

    FACE_OUT_OF_RANGE = 4
    """A face that was given leaves [-1, 1] by more than 0.001."""

    RESTORED_NAN = 8
    """A restored face holds NaN."""
