"""Energy, where the machine tells: RAPL's counters on x86, tegrastats on a Jetson."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Protocol

__all__ = ["EnergyMeter", "RaplMeter", "TegrastatsMeter", "open_meter"]

_POWERCAP = Path("/sys/class/powercap")
_INTERVAL_MS = 100
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]+)\s+(\d+)(?:mW)?/\d")  # "VDD_IN 4900mW/4800mW": now, and on average
# What is summed: the first of these whose rails are all told. Orin NX and Nano, Thor, and the first Nano measure an
# input; an AGX Orin measures three rails that are no part of each other (VDDQ_VDD2_1V8AO is one of VIN_SYS_5V0).
_WHOLE = (("VDD_IN",), ("VIN",), ("POM_5V_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))


class EnergyMeter(Protocol):
    """Counts joules."""

    @property
    def says(self) -> str:
        """What is counted, for the report."""
        ...

    def joules(self) -> float:
        """Since the meter was opened."""
        ...

    def close(self) -> None:
        """Stop counting."""
        ...


class RaplMeter:
    """The counters of the processor's packages, which count all that runs there.

    Parameters
    ----------
    powercap : Path
        The kernel's folder of power zones.

    Raises
    ------
    OSError
        If there is no package, or its counter cannot be read (by default only root may).
    """

    says = "processor packages by RAPL, everything that runs on them"

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        # "intel-rapl:0" is a package, on AMD too; "intel-rapl:0:1" is a part of one, counted in it.
        zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1)
        packages = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        if not packages:
            raise FileNotFoundError(f"no RAPL package in {powercap}")
        self._counters = [zone / "energy_uj" for zone in packages]
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in packages]
        self._last = self._read()
        self._counted = 0

    def joules(self) -> float:
        """Since it was opened; read it at least once before a counter has gone round (minutes)."""
        now = self._read()
        for value, last, whole in zip(now, self._last, self._ranges, strict=True):
            self._counted += value - last if value >= last else value - last + whole
        self._last = now
        return self._counted / 1e6

    def close(self) -> None:
        """Nothing is held."""

    def _read(self) -> list[int]:
        return [int(counter.read_text()) for counter in self._counters]


class TegrastatsMeter:
    """The power of a whole Jetson module, summed over time from samples 0.1 s apart.

    Parameters
    ----------
    program : str
        tegrastats.

    Raises
    ------
    OSError
        If it does not start, or tells no power within 3 s.
    """

    says = "the whole module, of a Thor the whole board, by tegrastats, sampled every 0.1 s"

    def __init__(self, program: str) -> None:
        self._joules = 0.0
        self._told = threading.Event()
        self._process = subprocess.Popen(
            [program, "--interval", str(_INTERVAL_MS)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()
        if not self._told.wait(3):
            self.close()
            raise OSError("tegrastats tells no power")

    def joules(self) -> float:
        """Since it was opened."""
        return self._joules

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        last = time.monotonic()
        for line in self._process.stdout:
            power = _milliwatts(line)
            now = time.monotonic()
            if power is not None:
                self._joules += power / 1000 * (now - last)
                self._told.set()
            last = now


def _milliwatts(line: str) -> int | None:
    """Of the whole module, from a line of tegrastats; None if it does not tell."""
    rails = {name: int(now) for name, now in _RAIL.findall(line)}
    return next((sum(rails[name] for name in whole) for whole in _WHOLE if rails.keys() >= set(whole)), None)


def open_meter(powercap: Path = _POWERCAP) -> tuple[EnergyMeter | None, str]:
    """The machine's meter and what it counts, or None and why there is none."""
    try:
        rapl = RaplMeter(powercap)
        return rapl, rapl.says
    except PermissionError:
        reason = "RAPL's counters may be read by root only"
    except (OSError, ValueError):
        reason = "no RAPL package"
    program = shutil.which("tegrastats")
    if program is None:
        return None, f"not known here: {reason}, no tegrastats"
    try:
        jetson = TegrastatsMeter(program)
        return jetson, jetson.says
    except OSError as error:
        return None, f"not known here: {reason}, {error}"
