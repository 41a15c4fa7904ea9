"""Whether the memory is enough, by what this very process needed."""

from __future__ import annotations

import re
from pathlib import Path

from immunecam.runtime.device.finding import Finding
from immunecam.runtime.device.system_files import read_text

__all__ = ["check_memory"]


def check_memory(*, root: Path = Path("/")) -> Finding:
    """Compare the peak of this process with what is available; to be called after all that a service would load."""
    part = "memory"
    needed, own = (_kib(root / "proc/self/status", name) for name in ("VmHWM", "VmRSS"))
    free, limit = _kib(root / "proc/meminfo", "MemAvailable"), _limit_mib(root)
    if needed is None or own is None or free is None:
        return Finding(part, "unknown", "not known here")
    there = (free + own) / 1024  # what this process holds will be the service's
    least, needs = there if limit is None else min(there, limit), needed / 1024
    numbers = {"needed_mib": round(needs, 1), "available_mib": round(there, 1), "limit_mib": limit}
    why = f"{needs:.0f} MiB needed without the recogniser, {there:.0f} available" + (
        "" if limit is None else f", limited to {limit:.0f}"
    )
    if least < needs:
        return Finding(part, "bad", why, "stop what else runs here, or raise MemoryMax=", numbers)
    if least < 2 * needs:
        return Finding(part, "note", f"{why}: less than twice as much", "see what else runs here", numbers)
    return Finding(part, "good", why, "", numbers)


def _kib(file: Path, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", read_text(file) or "", re.MULTILINE)
    return int(found.group(1)) if found else None


def _limit_mib(root: Path) -> float | None:
    """The tightest limit of the control groups that this process is in; None if there is none."""
    own = re.search(r"^0::/(.*)$", read_text(root / "proc/self/cgroup") or "", re.MULTILINE)
    if own is None:
        return None
    top = root / "sys/fs/cgroup"
    folder = top / own.group(1)
    limits = [
        int(text) / 2**20
        for group in (folder, *folder.parents)
        if group.is_relative_to(top) and (text := read_text(group / "memory.max") or "").isdecimal()
    ]
    return min(limits, default=None)
