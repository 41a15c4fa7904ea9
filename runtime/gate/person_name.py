"""What a person may be called."""

from __future__ import annotations

from immunecam.errors import InputError

__all__ = ["MAX_NAME", "check_name"]

MAX_NAME = 256
"""Characters of a person's name at most."""


def check_name(person: str) -> None:
    """Refuse names that are empty, too long or not printable."""
    if (
        not isinstance(person, str)
        or not 0 < len(person) <= MAX_NAME
        or not person.isprintable()
        or person != person.strip()
    ):
        raise InputError(f"the person's name is {person!r}, but it must be 1 to {MAX_NAME} printable characters")
