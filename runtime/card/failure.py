"""What goes wrong on a card, in one sentence."""

from __future__ import annotations

from immunecam.errors import InputError
from immunecam.kernels.cuda import Fault
from immunecam.kernels.cuda.card import one_line
from immunecam.kernels.mutation import INVALID_PROBABILITIES

__all__ = ["check_faults", "failure"]

_NO_MEMORY = ("out_of_memory", "out of memory", "outofmemory", "failed to allocate memory", "no memory")


def failure(error: Exception, n: int) -> InputError:
    """The error to raise in place of what a library raised on n faces."""
    said = one_line(error)
    if isinstance(error, MemoryError) or any(words in said.lower() for words in _NO_MEMORY):
        return InputError(
            f"The card has no memory left for {n} faces at once ({said}): give fewer, or close another user of it."
        )
    return InputError(
        f"The card failed on {n} faces ({said}): load the purifier again, and if that does not help, restart the "
        "program and look at the card with nvidia-smi."
    )


def check_faults(word: int) -> None:
    """Raise for what kernels have reported, as the CPU's checks do.

    Raises
    ------
    InputError
        If the word is not 0.
    """
    faults = Fault(word)
    if Fault.FACE_NOT_FINITE in faults:
        raise InputError("The faces hold NaN or infinity, but every value must be a number in [-1, 1].")
    if Fault.FACE_OUT_OF_RANGE in faults:
        raise InputError(
            "The faces' values leave [-1, 1], but they must be in it: give uint8 pixels, or scale them by "
            "x / 127.5 - 1."
        )
    if Fault.PROBABILITY in faults:
        raise InputError(INVALID_PROBABILITIES)
    if faults:
        raise InputError("The restored faces hold NaN, but every value must be a number: check the restorer.")
