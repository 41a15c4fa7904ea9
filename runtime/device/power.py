"""How fast the machine is allowed to be: a Jetson's power mode, a processor's governor."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from immunecam.runtime.device.finding import Finding
from immunecam.runtime.device.system_files import read_text

__all__ = ["check_power", "mode_of"]


def check_power(*, root: Path = Path("/")) -> Finding:
    """The mode that nvpmodel tells, and the governors of the cores; a latency that was measured holds for these."""
    part = "power mode"
    model = read_text(root / "proc/device-tree/model")
    governors = sorted(
        {
            text
            for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
            if (text := read_text(path))
        }
    )
    mode = _nvpmodel()
    numbers = {"model": model, "power_mode": mode, "governors": governors}
    why = ", ".join(
        said
        for said in (
            model or "",
            f"nvpmodel {mode}" if mode else "",
            f"governor {', '.join(governors)}" if governors else "",
        )
        if said
    )
    if mode is None and model is not None and "jetson" in model.lower():
        return Finding(part, "note", f"{why}; nvpmodel does not tell its mode", "run it as root", numbers)
    if governors == ["powersave"] and not (root / "sys/devices/system/cpu/intel_pstate").exists():
        # Of intel_pstate it is the usual one, and not the slowest.
        todo = "cpupower frequency-set -g schedutil"
        return Finding(part, "note", f"{why}: the slowest clock always", todo, numbers)
    if mode is None and not governors:
        return Finding(part, "unknown", "not known here: neither nvpmodel nor a governor", "", numbers)
    return Finding(part, "good", why, "", numbers)


def _nvpmodel() -> str | None:
    """Name of the mode, such as MAXN or 15W; None if it is not told."""
    program = shutil.which("nvpmodel", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        return None
    try:
        done = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return mode_of(done.stdout)


def mode_of(said: str) -> str | None:
    """The mode in what `nvpmodel -q` says."""
    found = re.search(r"NV Power Mode:\s*(\S.*?)\s*$", said, re.MULTILINE)
    return found.group(1) if found else None
