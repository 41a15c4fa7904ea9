"""The errors a user can meet, each with the exit code the command line gives it.

This module imports nothing, so every folder may use it. A message is one sentence that says
what is wrong, the value found, the value wanted, and what to do.
"""

from __future__ import annotations

__all__ = ["BackendMissingError", "ImmuneCamError", "InputError", "NotLiveError", "UsageError"]


class ImmuneCamError(Exception):
    """Base of every error that ImmuneCam raises on purpose."""

    exit_code = 3


class UsageError(ImmuneCamError, ValueError):
    """The call itself is wrong: an unknown mode, an argument out of its range (exit code 2)."""

    exit_code = 2


class InputError(ImmuneCamError, ValueError):
    """What was given cannot be used: a file, a frame, a face, a bundle, a camera (exit code 3)."""

    exit_code = 3


class NotLiveError(InputError):
    """Pictures to enrol that a liveness network takes for pictures of a picture (exit code 5, as of no grant)."""

    exit_code = 5

    def __init__(self, message: str, scores: tuple[float, ...] = ()) -> None:
        """`scores` are those of the pictures, 0 to 1."""
        super().__init__(message)
        self.scores = scores


class BackendMissingError(ImmuneCamError, RuntimeError):
    """A backend that was asked for by name is not on this machine (exit code 4)."""

    exit_code = 4
