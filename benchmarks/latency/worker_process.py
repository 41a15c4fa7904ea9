"""A measuring process as the one that started it sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from immunecam import errors
from immunecam.errors import ImmuneCamError, InputError

__all__ = ["Block", "WorkerProcess"]

# Whatever library multiplies matrices takes its number of threads from one of these.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class Block:
    """What was measured one repeat after another.

    Attributes
    ----------
    stages_ms : Mapping of str to list of float
        Milliseconds of each repeat by stage; "total" is always there.
    faces : int
        Of all repeats.
    about : Mapping
        What the process says of its work at the end.
    peak_memory_mib : float or None
        Most resident memory of the process until then.
    """

    stages_ms: Mapping[str, list[float]]
    faces: int
    about: Mapping[str, Any]
    peak_memory_mib: float | None


class WorkerProcess:
    """Starts a process and waits for its first piece of work; to be closed.

    Parameters
    ----------
    specification : mapping
        For :mod:`immunecam.benchmarks.latency.worker`.

    Attributes
    ----------
    cold_start_s : float
        From the start of the process to its first face, or the end of the first piece of work. Files that were read
        before come from memory.
    about : Mapping
        What the process says of its work.

    Raises
    ------
    ImmuneCamError
        Whatever the process raised, or an InputError if it ended without a word.
    """

    def __init__(self, specification: Mapping[str, Any]) -> None:
        self._form = specification["form"]
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed below)
        command = [sys.executable, "-m", "immunecam.benchmarks.latency.worker", json.dumps(specification)]
        began = time.monotonic()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | dict.fromkeys(_THREADS, str(specification["threads"])),
        )
        try:
            ready = self._answer()
        except BaseException:
            self.close()
            raise
        # Linux has one monotonic clock for all processes.
        self.cold_start_s: float = ready["ready_s"] - began
        self.about: Mapping[str, Any] = ready["about"]

    def measure(self, batch: int, seconds: float) -> Block:
        """Repeats for that long.

        Raises
        ------
        ImmuneCamError
            As for starting it.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"batch": batch, "seconds": seconds}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer, or that there is none, says more
        answer = self._answer()
        return Block(answer["stages_ms"], answer["faces"], answer["about"], answer["peak_memory_mib"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()  # it holds nothing that would have to be written
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        watch = threading.Timer(_PATIENCE_S, self._process.kill)
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line.endswith("\n"):
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" not in answer:
            return answer
        kind = getattr(errors, answer["kind"] or "", None)
        if kind is None:
            raise ImmuneCamError(f"the process that measures {self._form} failed: {answer['error']}")
        raise kind(answer["error"])

    def _ended(self) -> InputError:
        code = self._process.wait()
        self._errors.seek(0)
        said = [line.strip() for line in self._errors if line.strip()]
        why = f": {said[-1][:200]}" if said else ", for lack of memory or of patience (600 s)" if code == -9 else ""
        return InputError(f"the process that measures {self._form} ended with {code} before it answered{why}")
