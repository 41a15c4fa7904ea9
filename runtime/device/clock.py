"""Whether the clock can be believed: decisions of the audit trail are stamped with it."""

from __future__ import annotations

import ctypes
import datetime
import time
from pathlib import Path

from immunecam.runtime.device.finding import Finding

__all__ = ["ClockWatch", "is_synchronised"]

_STEP_S = 0.1
_TIME_ERROR = 5  # of adjtimex(2): the clock is not synchronised


class _Timex(ctypes.Structure):
    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),  # more than the kernel writes
    )


def is_synchronised() -> bool | None:
    """Whether the kernel's clock is kept by NTP, PTP or the like; None where the kernel does not say."""
    try:
        asked = _Timex()  # modes = 0 changes nothing
        code = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked))
    except (OSError, AttributeError):
        return None
    return None if code < 0 else bool(code != _TIME_ERROR)


class ClockWatch:
    """Looks at the clock from its making to :meth:`finding`."""

    def __init__(self) -> None:
        self._wall, self._monotonic = time.time(), time.monotonic()

    def finding(self, *, root: Path = Path("/")) -> Finding:
        """What is wrong with it, the worst first."""
        part = "clock"
        # By the wall's clock against the one that only goes forward.
        step = (time.time() - self._wall) - (time.monotonic() - self._monotonic)
        synchronised, keeper = is_synchronised(), any((root / "sys/class/rtc").glob("rtc*"))
        numbers = {"step_ms": round(1000 * step, 3), "synchronised": synchronised, "real_time_clock": keeper}
        now = datetime.datetime.fromtimestamp(time.time(), datetime.timezone.utc)
        why = f"{now:%Y-%m-%d %H:%M:%S} UTC"
        # This file cannot be younger than now; a day is for time zones that an installer mixed up.
        installed = Path(__file__).stat().st_mtime
        if now.timestamp() < installed - 86400:
            than = datetime.datetime.fromtimestamp(installed, datetime.timezone.utc)
            todo = "set it: timedatectl set-ntp true, or by hand; give the device a battery for its clock"
            return Finding(part, "bad", f"{why} is before this software was installed ({than:%Y-%m-%d})", todo, numbers)
        if abs(step) > _STEP_S:
            why += f", which jumped by {step:+.2f} s while it was looked at"
            return Finding(part, "note", why, "let the time service settle, and run it again", numbers)
        if synchronised is False:
            return Finding(part, "note", f"{why}, not synchronised", "timedatectl set-ntp true", numbers)
        if not keeper:
            why += ", but no battery keeps it: after a power cut it is wrong until the network is there"
            return Finding(
                part, "note", why, "add a real-time clock, or let the unit wait for time-sync.target", numbers
            )
        if synchronised is None:
            return Finding(part, "unknown", f"{why}; whether it is synchronised is not known here", "", numbers)
        return Finding(part, "good", f"{why}, synchronised, kept by a real-time clock", "", numbers)
