"""Measurements in processes of their own: a module that is started again to measure once, and prints JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["launched", "per_face"]


def launched(module: str, arguments: Sequence[str], times: int = 1) -> list[Any]:
    """What each of so many launches of a module found.

    Parameters
    ----------
    module : str
        Of `immunecam.benchmarks`; given `--one`, it measures once and prints JSON.
    arguments : sequence of str
        For it.
    times : int
        Launches, one after the other.

    Raises
    ------
    SystemExit
        If a launch fails, with the last line that it said.
    """
    command = [sys.executable, "-m", f"immunecam.benchmarks.{module}", *arguments, "--one"]
    found = []
    for number in range(times):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            sys.exit(
                f"launch {number + 1} of {times} of {module} ended with {done.returncode} ({said}): mend that, and "
                "start again"
            )
        found.append(json.loads(done.stdout))
    return found


def per_face(launches: Sequence[Mapping[str, Mapping[str, float]]], name: str, batch: int) -> dict[str, float]:
    """A row's times of what `in_turn` measured in every launch: of one face, median over launches and worst launch."""
    row: dict[str, float] = {}
    for clock in ("cpu_p50_ms", "wall_p50_ms"):
        times = [launch[name][clock] / batch for launch in launches]
        row |= {clock: round(float(np.median(times)), 4), f"{clock}_worst_launch": round(max(times), 4)}
    return row
