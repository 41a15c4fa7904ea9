"""A measuring process: ``python -m immunecam.benchmarks.latency.worker SPECIFICATION``, JSON lines in and out.

It imports what its work needs and no more, and does the first piece of it at once, so that the time until then is that
of a device's start. Afterwards it measures a block for every line that comes in, and ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

__all__ = ["FORMS", "Work", "main", "peak_memory_mib"]

_LEAST_REPEATS = 3
_FIRST_FRAMES = 100

FORMS = ("faces", "stages", "masked", "frames", "followed", "live", "paper", "reference")
"""What a process may measure; each is a module `NAME_work` with a class `Work`."""


class Work(Protocol):
    """What is measured. Making it opens everything, and running it once shows that it works."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What the report says of it, such as the provider that was taken, now."""
        ...

    def run(self, batch: int) -> tuple[dict[str, float], int]:
        """Milliseconds by stage, with "total" among them, and how many faces that was for."""
        ...


def main() -> int:
    """Serve the process that started this one."""
    specification = json.loads(sys.argv[1])
    # Whatever a library prints must not get between the lines.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if specification["pin"] is not None:
        os.sched_setaffinity(0, specification["pin"])
    try:
        work = _opened(specification)
        for _ in range(_FIRST_FRAMES):
            _, faces = work.run(1)
            if faces or specification["form"] not in ("frames", "followed"):  # the first frames may show nobody
                break
        _say(answers, {"ready_s": time.monotonic(), "about": dict(work.about), **_memory()})
        for line in sys.stdin:
            order = json.loads(line)
            _say(answers, _block(work, order["batch"], order["seconds"]) | {"about": dict(work.about), **_memory()})
    except Exception as error:
        # The class by its name: the process that asked raises it again, with its exit code.
        known = type(error).__name__ if hasattr(error, "exit_code") else None
        _say(answers, {"error": str(error) or type(error).__name__, "kind": known})
        return 1
    return 0


def peak_memory_mib() -> float | None:
    """Most resident memory that this process has had; None where the system does not tell (it is not Linux)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def _opened(specification: Mapping[str, Any]) -> Work:
    import importlib

    home = importlib.import_module(f"immunecam.benchmarks.latency.{specification['form']}_work")
    work: Work = home.Work(specification)
    return work


def _block(work: Work, batch: int, seconds: float) -> dict[str, Any]:
    """Repeats for that long, three at least."""
    stages: dict[str, list[float]] = {}
    faces = repeats = 0
    end = time.monotonic() + seconds
    while repeats < _LEAST_REPEATS or time.monotonic() < end:
        timings, count = work.run(batch)
        for name, value in timings.items():
            stages.setdefault(name, []).append(round(value, 5))
        faces += count
        repeats += 1
    return {"stages_ms": stages, "faces": faces}


def _memory() -> dict[str, Any]:
    return {"peak_memory_mib": peak_memory_mib()}


def _say(answers: Any, content: Mapping[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
