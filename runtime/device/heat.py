"""How hot it is, and whether the machine slows down for it."""

from __future__ import annotations

from pathlib import Path

from immunecam.runtime.device.finding import Finding
from immunecam.runtime.device.system_files import read_text

__all__ = ["check_heat"]

# Bits of the Raspberry Pi's firmware: now, and since it was started.
_PI_NOW, _PI_SINCE = 0b1111, 0b1111 << 16


def check_heat(*, root: Path = Path("/")) -> Finding:
    """Temperatures against the trip points of their zones, and what the processor says of its own slowing down."""
    part = "heat"
    zones = [zone for path in sorted((root / "sys/class/thermal").glob("thermal_zone*")) if (zone := _zone(path))]
    slowed = [
        int(text)
        for path in (root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/*_throttle_count")
        if (text := read_text(path) or "").isdecimal()
    ]
    firmware = _hexadecimal(read_text(root / "sys/devices/platform/soc/soc:firmware/get_throttled"))
    if not zones and not slowed and firmware is None:
        return Finding(part, "unknown", "not known here: /sys tells no temperature")
    hottest = max(zones, key=lambda zone: zone[1], default=None)
    numbers = {
        "hottest_celsius": hottest[1] if hottest else None,
        "slowed_down_times": sum(slowed) if slowed else None,
        "firmware_flags": firmware,
    }
    why = f"hottest {hottest[1]:.0f} degrees ({hottest[0]})" if hottest else "no temperature is told"
    todo = "cool it: a bigger heat sink, less sun, a lower power mode"
    for name, celsius, slow_at, stop_at in zones:
        if stop_at is not None and celsius >= stop_at:
            return Finding(part, "bad", f"{why}; {name} is at its critical {stop_at:.0f} degrees", todo, numbers)
        if slow_at is not None and celsius >= slow_at:
            return Finding(
                part, "note", f"{why}; {name} slows the machine from {slow_at:.0f} degrees on", todo, numbers
            )
    if firmware is not None and firmware & _PI_NOW:
        why += f"; the firmware slows it down or lacks voltage now (flags {firmware:#x})"
        return Finding(part, "bad", why, "use a stronger power supply and a short cable, or cool it", numbers)
    if (firmware is not None and firmware & _PI_SINCE) or sum(slowed):
        return Finding(part, "note", f"{why}; it has been slowed down since it was started", todo, numbers)
    return Finding(part, "good", why, "", numbers)


def _zone(path: Path) -> tuple[str, float, float | None, float | None] | None:
    """Name, temperature, and the lowest temperatures at which it slows down and stops the machine."""
    celsius = _celsius(path / "temp")
    if celsius is None:
        return None
    trips: dict[str, float] = {}
    for file in path.glob("trip_point_*_type"):
        at = _celsius(file.with_name(file.name.replace("_type", "_temp")))
        kind = read_text(file) or ""
        if at is not None and at > 0:  # 0 and below stand for a trip point that is off
            trips[kind] = min(at, trips.get(kind, at))
    slow = min((trips[kind] for kind in ("passive", "hot") if kind in trips), default=None)
    return read_text(path / "type") or path.name, celsius, slow, trips.get("critical")


def _celsius(file: Path) -> float | None:
    try:
        return int(read_text(file) or "") / 1000
    except ValueError:
        return None


def _hexadecimal(text: str | None) -> int | None:
    try:
        return None if text is None else int(text, 16)
    except ValueError:
        return None
