"""Both clocks of a record: the wall's, which may jump, and one that only goes forward."""

from __future__ import annotations

import datetime
import functools
import time
from pathlib import Path
from typing import Any

__all__ = ["boot_id", "stamp", "wall_seconds"]


def stamp() -> dict[str, Any]:
    """`time` (UTC, ISO 8601, microseconds), `monotonic_s`, and `boot`, within which the latter may be compared."""
    now = datetime.datetime.fromtimestamp(time.time(), datetime.timezone.utc)
    return {
        "time": now.isoformat(timespec="microseconds"),
        "monotonic_s": round(time.monotonic(), 6),
        "boot": boot_id(),
    }


def wall_seconds(record: dict[str, Any]) -> float | None:
    """A record's time as seconds since 1970; None if it has none that can be read."""
    try:
        return datetime.datetime.fromisoformat(str(record.get("time"))).timestamp()
    except (ValueError, OverflowError):
        return None


@functools.cache
def boot_id() -> str:
    """A number of this start of the machine (Linux); empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
