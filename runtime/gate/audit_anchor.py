"""What is known of a trail's end elsewhere, and what it tells of the trail."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from immunecam.runtime.gate.audit_chain import ChainBroken, Link, read_line

__all__ = ["Anchor", "compare_with_anchor"]


class Anchor(Protocol):
    """Keeps the last link of a trail elsewhere, out of reach of whoever cuts the trail: the template store does."""

    def read_anchor(self, chain: str) -> tuple[int, str] | None:
        """Number and hash of the last record that is known."""
        ...

    def write_anchor(self, chain: str, seq: int, digest: str) -> None:
        """Remember them."""
        ...

    def anchored_chains(self) -> list[str]:
        """Names of all trails that are known."""
        ...


def compare_with_anchor(
    known: Link, head: Link, unreadable: int, files: Mapping[int, Path]
) -> tuple[str, dict[str, Any]] | None:
    """The record that must say for good in which way a trail's end is not the one that its anchor knows.

    The next record overwrites the anchor, so this is the last moment at which the difference shows.

    Parameters
    ----------
    known : Link
        By the anchor.
    head : Link
        The trail's last record that can be read.
    unreadable : int
        Lines after it.
    files : mapping of int to Path
        Of the trail.

    Returns
    -------
    (str, dict) or None
        Type and content: "cut-off", "rewritten" or "unanchored" (records that came after the last one known: by a power
        cut, or by somebody who is no gate). None where there is nothing to say.
    """
    last = head.seq + unreadable
    if known.seq > last:
        return "cut-off", {"missing_from": last + 1, "missing_to": known.seq, "anchor": known.hash}
    if known == head or known.seq > head.seq:  # the latter is one of the changed lines, which shows
        return None
    if _hash_of(known.seq, files) not in (known.hash, None):  # None: dropped by retention, or missing, which shows
        return "rewritten", {"record": known.seq, "anchor": known.hash}
    return "unanchored", {"unanchored_from": known.seq + 1, "unanchored_to": head.seq, "anchor": known.hash}


def _hash_of(seq: int, files: Mapping[int, Path]) -> str | None:
    """Hash of the record of a number, None if it is not there; it is nearly always one of the last."""
    for number in sorted(files, reverse=True):
        for line in reversed(files[number].read_bytes().splitlines()):
            with suppress(ChainBroken):
                _, link, _ = read_line(line)
                if link.seq == seq:
                    return link.hash
    return None
