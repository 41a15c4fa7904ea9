"""What a service counts and times, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from immunecam.runtime.frames import SourceState

__all__ = ["ServiceMetrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64)


class ServiceMetrics:
    """Counters and histograms of one service, in a registry of its own.

    Parameters
    ----------
    k : int
        Eigenfaces, for the buckets of active ones.
    waiting_faces : callable
        Gives how many wait.
    cameras : callable
        Gives :meth:`CameraDeck.status`.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(
        self,
        k: int,
        waiting_faces: Callable[[], int] = lambda: 0,
        cameras: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "immunecam_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "immunecam_request_seconds", "From head to answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.refused = Counter(
            "immunecam_refused",
            "Requests that were dropped: 429 over a limit, 408 and 503 out of time, 413 too large, 401 no token.",
            ["status"],
            registry=registry,
        )
        self.abandoned = Counter(
            "immunecam_abandoned", "Requests whose client went away before the answer.", registry=registry
        )
        self.in_work = Gauge("immunecam_requests_in_work", "Requests that are being answered.", registry=registry)
        self.pictures = Counter("immunecam_pictures", "Pictures that were looked at.", registry=registry)
        self.faces = Counter("immunecam_faces", "Faces that were purified.", registry=registry)
        self.batch_faces = Histogram(
            "immunecam_batch_faces", "Faces that the engine had at once.", buckets=_BATCH, registry=registry
        )
        self.batch_seconds = Histogram(
            "immunecam_batch_seconds", "Time of the engine for a batch.", buckets=_SECONDS, registry=registry
        )
        self.stage_seconds = Histogram(
            "immunecam_stage_seconds", "Time of a stage of a request.", ["stage"], buckets=_SECONDS, registry=registry
        )
        self.active = Histogram(
            "immunecam_active_antibodies",
            "Active eigenfaces of a face's antibody.",
            buckets=[round(k * part / 10) for part in range(1, 11)] if k >= 10 else [k],
            registry=registry,
        )
        self.decisions = Counter("immunecam_decisions", "Decisions of the gate.", ["mode", "event"], registry=registry)
        waiting = Gauge("immunecam_waiting_faces", "Faces that wait for the engine.", registry=registry)
        waiting.set_function(waiting_faces)
        registry.register(_Cameras(cameras))

    def batch(self, faces: int, submissions: int, seconds: float) -> None:
        """Count a batch of the engine; what a :class:`Batcher` calls."""
        self.faces.inc(faces)
        self.batch_faces.observe(faces)
        self.batch_seconds.observe(seconds)

    def stages(self, timings_ms: Mapping[str, float], active: Iterable[float] = ()) -> None:
        """Count a picture by its stages, and the active eigenfaces of its faces."""
        self.pictures.inc()
        for stage, value in timings_ms.items():
            self.stage_seconds.labels(stage).observe(value / 1000)
        for number in active:
            self.active.observe(number)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _Cameras(Collector):
    """Reads the cameras' own counters when it is asked, instead of keeping others beside them."""

    def __init__(self, cameras: Callable[[], list[dict[str, Any]]]) -> None:
        self._cameras = cameras

    def collect(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "immunecam_camera_state", "1 for the state that it is in.", labels=["camera", "state"]
        )
        frames = CounterMetricFamily("immunecam_camera_frames", "Frames that were read.", labels=["camera"])
        dropped = CounterMetricFamily("immunecam_camera_dropped", "Frames that nobody took.", labels=["camera"])
        for camera in self._cameras():
            status = camera["status"]
            if status is None:
                continue
            for one in SourceState:
                state.add_metric([camera["name"], one.value], float(status["state"] == one.value))
            frames.add_metric([camera["name"]], status["frames"])
            dropped.add_metric([camera["name"]], status["dropped"])
        yield from (state, frames, dropped)
