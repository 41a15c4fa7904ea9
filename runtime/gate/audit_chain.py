"""The hash chain of an audit trail: one record a line, each bound to the one before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["GENESIS", "SCHEMA", "ChainBroken", "Link", "file_name", "file_number", "next_line", "read_line"]

SCHEMA = "immunecam.audit/1"

GENESIS = "0" * 64
"""What stands for the hash before the first record."""

_RESERVED = ("seq", "prev", "hash")


class ChainBroken(Exception):
    """A line is no record, or its hash is not that of its content."""


@dataclass(frozen=True)
class Link:
    """Where a chain has got to.

    Attributes
    ----------
    seq : int
        Number of the last record, -1 before the first.
    hash : str
        Its SHA-256, 64 hex digits.
    """

    seq: int = -1
    hash: str = GENESIS

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


def next_line(after: Link, content: Mapping[str, Any]) -> tuple[bytes, Link]:
    """The line of the next record, and the link that it makes.

    The hash is SHA-256 of the previous hash's 32 bytes and the record as canonical JSON: sorted keys, no spaces, ASCII,
    without the entry `hash` itself.

    Parameters
    ----------
    after : Link
    content : mapping
        Plain values, finite numbers; not `seq`, `prev` or `hash`.
    """
    assert not any(name in content for name in _RESERVED)
    record = {**content, "seq": after.seq + 1, "prev": after.hash}
    digest = _hash(after.hash, record)
    return _canonical({**record, "hash": digest}) + b"\n", Link(after.seq + 1, digest)


def read_line(line: bytes) -> tuple[dict[str, Any], Link, Link]:
    """A record, the link it makes, and the link it says to follow.

    Raises
    ------
    ChainBroken
        If it is no whole record, or was changed.
    """
    try:
        record = json.loads(line)
        seq, prev, digest = (record[name] for name in _RESERVED)
        if not (isinstance(seq, int) and isinstance(prev, str) and isinstance(digest, str) and len(prev) == 64):
            raise ValueError
        content = {name: value for name, value in record.items() if name != "hash"}
        # The line itself must be canonical: JSON that reads the same may hide a second entry of a name.
        if _hash(prev, content) != digest or _canonical(record) != line.rstrip(b"\n"):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ChainBroken from None
    return record, Link(seq, digest), Link(seq - 1, prev)


def file_name(number: int) -> str:
    """Name of the n-th file of a trail, from 1."""
    return f"audit-{number:08d}.jsonl"


def file_number(name: str) -> int | None:
    """Of :func:`file_name`; None for another file."""
    digits = name.removeprefix("audit-").removesuffix(".jsonl")
    return int(digits) if digits.isdecimal() and name == file_name(int(digits)) else None


def _hash(prev: str, record: Mapping[str, Any]) -> str:
    return hashlib.sha256(bytes.fromhex(prev) + _canonical(record)).hexdigest()


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")
