"""Whether a hardware watchdog restarts the machine when its kernel hangs; the service's own is systemd's."""

from __future__ import annotations

from pathlib import Path

from immunecam.runtime.device.finding import Finding
from immunecam.runtime.device.system_files import read_text

__all__ = ["check_watchdog"]


def check_watchdog(*, root: Path = Path("/")) -> Finding:
    """What /sys says of the watchdogs, and whether somebody serves one."""
    part = "watchdog"
    dogs = sorted((root / "sys/class/watchdog").glob("watchdog*"))
    if not dogs:
        if (root / "dev/watchdog").exists():
            return Finding(part, "unknown", "there is one, but /sys does not tell whether it is served")
        todo = (
            "switch it on in the firmware, or load its module; without one a kernel that hangs keeps the door as it is"
        )
        return Finding(part, "note", "there is none", todo)
    # One that is served counts, whichever it is.
    dog = next((dog for dog in dogs if read_text(dog / "state") == "active"), dogs[0])
    name, state, timeout = (read_text(dog / entry) for entry in ("identity", "state", "timeout"))
    numbers = {"identity": name, "served": None if state is None else state == "active", "timeout_s": _whole(timeout)}
    named = f"{name or dog.name}, {timeout or 'unknown'} s"
    if state == "active":
        return Finding(part, "good", f"{named}, is served", "", numbers)
    if state is None:
        return Finding(part, "unknown", f"{named}; whether it is served is not known here", "", numbers)
    todo = "let systemd serve it: RuntimeWatchdogSec=30 in /etc/systemd/system.conf"
    return Finding(part, "note", f"{named}, is not served", todo, numbers)


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
