"""How far a build has come: TensorRT's progress monitor as bars on the terminal."""

from __future__ import annotations

import threading
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["BuildProgress"]


class BuildProgress:
    """A bar for each phase of a build, and a way to cancel it.

    Parameters
    ----------
    trt : module
        tensorrt.
    console : Console
        Where the bars are drawn.

    Attributes
    ----------
    monitor : tensorrt.IProgressMonitor
        For the builder configuration; TensorRT calls it from threads of its own.
    steps : int
        How many were completed.
    """

    def __init__(self, trt: Any, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),  # names of layers have brackets
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._depths: dict[str, int] = {}
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self.steps = 0
        outer = self

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                outer._start(phase_name, parent_phase, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return outer._step(phase_name, step)

            def phase_finish(self, phase_name: str) -> None:
                outer._finish(phase_name)

        self.monitor: Any = Monitor()

    def __enter__(self) -> BuildProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def cancel(self) -> None:
        """Let the build end at its next step, without a plan."""
        self._cancelled.set()

    def _start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            depth = self._depths[name] = self._depths.get(parent or "", -1) + 1
            self._tasks[name] = self._bars.add_task("  " * depth + name, total=steps)

    def _step(self, name: str, step: int) -> bool:
        with self._lock:
            self.steps += 1
            if name in self._tasks:
                self._bars.update(self._tasks[name], completed=step + 1)
        return not self._cancelled.is_set()

    def _finish(self, name: str) -> None:
        with self._lock:
            task = self._tasks.pop(name, None)
            if task is not None:
                self._bars.remove_task(task)
