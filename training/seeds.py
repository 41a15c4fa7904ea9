"""Seeds by name: what is random depends on what it is for, not on what was drawn before."""

from __future__ import annotations

import hashlib

__all__ = ["seed_of"]


def seed_of(name: str) -> int:
    """63 bits that no other name is likely to share."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
