"""Hours of camera input in minutes: does memory grow, does latency drift, is anything left open?

``python -m immunecam.benchmarks.soak --recognizer FACE.toml --json benchmarks/results/soak.json``

Two runs: an hour of one camera at ten times its rate through the whole gate (finder, purifier, recogniser, decisions
into an audit trail on disk; without a recogniser, finder and purifier), and eight cameras through one purifier. A
camera is a clip that is played again and again by the same reader as a camera's: what is not taken in time is dropped,
and the newest frame is taken. The slope of resident memory is Theil and Sen's, the median over all pairs of points,
over the run without its first fifth, in which caches fill: a leak shows in it, and a step, as when ONNX Runtime meets a
batch of a size that it has not seen before, does not. The least-squares slope, which takes steps for slopes, is told
beside it, and so is memory by time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.resident_memory import growth, resident_bytes
from immunecam.errors import UsageError
from immunecam.runtime.bundle import default_bundle
from immunecam.runtime.faces import FollowingFinder, face_finder
from immunecam.runtime.frames import FrameSource, LiveSource
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.report import percentiles_ms, write_report

__all__ = ["main", "soak"]

_SETTLING = 0.2
_PARTS = 10


def soak(
    clip: Path, sources: int, frames: int, rate: float, recognizer: Path | None, *, threads: int = 1
) -> dict[str, Any]:
    """Let `frames` frames of `clip` in all come in over `sources` sources, and tell what became of the process.

    Parameters
    ----------
    clip : path
        Video.
    sources, frames : int
        Cameras side by side, and frames that they give altogether, taken or dropped.
    rate : float
        Frames a second of each.
    recognizer : path or None
        Description of a recogniser (TOML), for a gate, which serves one source; None purifies only.
    threads : int
        Of ONNX Runtime.

    Returns
    -------
    dict
        A row for a report.

    Raises
    ------
    UsageError
        If a gate is to serve several sources.
    InputError
        If the clip, the bundle or the recogniser cannot be used.
    """
    if recognizer is not None and sources > 1:
        raise UsageError(f"a gate serves one source, and there are {sources}: leave the recogniser out")
    with FrameSource.open(clip) as video:
        speed = rate / video.fps
    before = _threads(), _descriptors()
    with contextlib.ExitStack() as held:
        cameras = []
        for _ in range(sources):
            camera = LiveSource(clip, repeat=True, speed=speed)
            cameras.append(held.enter_context(contextlib.closing(camera)))
        observed = _Observed(cameras, frames)
        decisions = (
            _through_gate(observed, recognizer, threads)
            if recognizer
            else _through_purifier(observed, sources, threads)
        )
        during = _threads(), _descriptors()
        status = [camera.status for camera in cameras]
    memory = np.array(observed.memory, float)
    steady = memory[memory[:, 0] >= _SETTLING * frames]
    slope, line = growth(steady[:, 0], steady[:, 1])
    taken = len(observed.latencies)
    parts = [percentiles_ms(list(part)) for part in np.array_split(np.array(observed.latencies), min(_PARTS, taken))]
    settled = parts[int(_SETTLING * len(parts))]
    return {
        "clip": clip.name,
        "sources": sources,
        "frames_per_second_of_each": rate,
        "gate": recognizer is not None,
        "frames": sum(one.frames for one in status),
        "taken": taken,
        "dropped": sum(one.dropped for one in status),
        "decisions": decisions,
        "reconnections": sum(one.reconnections for one in status),
        "seconds": round(float(memory[-1, 2]), 1),
        "rss_settled_mib": round(float(steady[0, 1]) / 2**20, 2),
        "rss_end_mib": round(float(steady[-1, 1]) / 2**20, 2),
        "rss_slope_mb_per_100000_frames": round(slope / 10, 3),
        "rss_least_squares_slope_mb_per_100000_frames": round(line / 10, 3),
        "rss_by_frames_mib": [
            [int(frames), round(float(resident) / 2**20, 2)]
            for frames, resident, _ in memory[:: max(1, len(memory) // 50)]
        ],
        "latency_p50_ms": [float(part["p50_ms"]) for part in parts],
        "latency_p99_ms": [float(part["p99_ms"]) for part in parts],
        "latency_drift": round(float(parts[-1]["p50_ms"] / settled["p50_ms"]), 3),
        "threads_before_during_after": [before[0], during[0], _threads()],
        "descriptors_before_during_after": [before[1], during[1], _descriptors()],
    }


class _Observed:
    """The newest frames of cameras in turn; times what is done with each, and watches memory meanwhile."""

    def __init__(self, cameras: list[LiveSource], frames: int) -> None:
        self._cameras, self._frames = cameras, frames
        self.number = 0  # of the camera whose frame was given last
        self.latencies: list[float] = []
        self.memory: list[tuple[int, int, float]] = []  # frames that came in, resident bytes, seconds

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        began, every = time.monotonic(), max(1, self._frames // 500)
        before = self._read()  # while models were loaded
        wait = 1.0 if len(self._cameras) == 1 else 0.005
        while True:
            read = self._read() - before
            if not self.memory or read - self.memory[-1][0] >= every:
                self.memory.append((read, resident_bytes(), time.monotonic() - began))
            if read >= self._frames:
                return
            for number, camera in enumerate(self._cameras):
                frame = camera.read(wait)
                if frame is not None:
                    start = time.perf_counter()
                    self.number = number
                    yield frame.image
                    self.latencies.append(time.perf_counter() - start)

    def _read(self) -> int:
        return sum(camera.status.frames for camera in self._cameras)


def _through_purifier(frames: _Observed, cameras: int, threads: int) -> None:
    searching = face_finder()
    with Purifier.load(threads=threads) as purifier, contextlib.ExitStack() as held:
        finders = [held.enter_context(FollowingFinder(searching)) for _ in range(cameras)]
        for image in frames:
            purifier.purify_frame(image, finders[frames.number])


def _through_gate(frames: Iterable[NDArray[np.uint8]], recognizer: Path, threads: int) -> int:
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.keys import GateKey

    with tempfile.TemporaryDirectory() as folder:
        store, key = Path(folder) / "people.store", GateKey.generate()
        with AccessGate.open(store, key, recognizer, create=True, threshold=0.3, threads=threads) as gate:
            return sum(1 for _ in gate.watch(frames))


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="video; default: the bundled sample")
    parser.add_argument("--recognizer", type=Path, help="description of a recogniser (TOML), for the gate")
    parser.add_argument("--rate", type=float, default=30.0, help="frames a second of a camera")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the one camera's time")
    parser.add_argument("--speed", type=float, default=10.0, help="of that time")
    parser.add_argument("--cameras", type=int, default=8, help="of the second run, in real time")
    parser.add_argument("--camera-minutes", type=float, default=8.0, help="of the second run")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    clip = given.clip or default_bundle().with_name("sample.mp4")
    hour, minutes = (round(60 * given.rate * count) for count in (given.minutes, given.camera_minutes))
    rows = [soak(clip, 1, hour, given.rate * given.speed, given.recognizer, threads=given.threads)]
    print(rows[-1])
    rows.append(soak(clip, given.cameras, given.cameras * minutes, given.rate, None, threads=given.threads))
    print(rows[-1])
    if given.json:
        write_report(given.json, "immunecam.soak/1", rows, bundle_sha256=None)


if __name__ == "__main__":
    main()
