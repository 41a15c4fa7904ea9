"""What a service has to answer with, and who does which part of it: threads, the shared engine, the gate."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import ImmuneCamError, InputError, UsageError
from immunecam.runtime.faces import FaceFinder
from immunecam.runtime.purifier import MAX_BATCH, Purifier
from immunecam.runtime.results import PurifiedFaces
from immunecam.runtime.service.batcher import Batcher
from immunecam.runtime.service.cameras import CameraDeck
from immunecam.runtime.service.gate_preview import GatePreview
from immunecam.runtime.service.live_view import LiveView
from immunecam.runtime.service.metrics import ServiceMetrics
from immunecam.runtime.service.pixel_budget import PixelBudget
from immunecam.runtime.service.purification import Prepared, Purification
from immunecam.runtime.service.refusal import Overloaded, Refusal
from immunecam.runtime.service.settings import ServiceSettings

if TYPE_CHECKING:
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.embedder import FaceEmbedder
    from immunecam.runtime.gate.event import GateEvent

__all__ = ["ServiceWork"]

_T = TypeVar("_T")
_SHARE = 0.5  # of a request's time that it may wait for others: it is told 429 while there is time to tell it
_LARGEST = 4  # pictures of the largest kind in memory at a time
_PLACES = 8  # pictures in work at a time, enough for a batch


class ServiceWork:
    """One purifier, its batcher, threads for what requests do on their own, and one thread for the gate.

    Parameters
    ----------
    settings : ServiceSettings
    purifier : Purifier
        Shared by all requests, the gate's too; closed with this.
    finder : FaceFinder
        Safe to use from several threads.
    embedder : FaceEmbedder, optional
        For embeddings and the cosine of the evidence; closed with this.
    gate : AccessGate, optional
        Made with the same purifier; closed with this.
    cameras : CameraDeck, optional
    """

    def __init__(
        self,
        settings: ServiceSettings,
        purifier: Purifier,
        finder: FaceFinder,
        *,
        embedder: FaceEmbedder | None = None,
        gate: AccessGate | None = None,
        cameras: CameraDeck | None = None,
    ) -> None:
        if gate is not None and gate.observer.purifier is not purifier:
            raise UsageError("the gate has another purifier than the service: make it with the service's")
        if embedder is None and gate is not None:
            embedder = gate.observer.embedder
        self.settings, self.purifier, self.gate = settings, purifier, gate
        self.cameras = CameraDeck({}) if cameras is None else cameras
        self.purification = Purification(purifier, finder, embedder, max_pixels=settings.max_pixels)
        self.metrics = ServiceMetrics(purifier.k, lambda: self.batcher.waiting_faces, self.cameras.status)
        self.batcher = Batcher(
            purifier,
            wait_s=settings.batch_wait_ms / 1000,
            max_batch=MAX_BATCH,
            max_waiting=settings.queue_faces,
            max_wait_s=_SHARE * settings.request_timeout_s,
            observe=self.metrics.batch,
        )
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._places, wait_s = max(_PLACES, 2 * cores), _SHARE * settings.request_timeout_s
        self._pixels = PixelBudget(_LARGEST * settings.max_pixels, self._places, wait_s)
        self._decisions = PixelBudget(1, 1, wait_s)
        self._pool = ThreadPoolExecutor(max(2, cores), "request")
        self._gate_thread = ThreadPoolExecutor(1, "gate")  # a gate is for one thread
        preview = None if gate is None else GatePreview(gate, self._gate_thread.submit)
        self.view = LiveView(self.cameras, self.purification, self.metrics, preview)
        self.last_decision: tuple[GateEvent, float] | None = None  # and when, by the monotonic clock
        self._admitted = 0
        self._each_s, self._last = 0.1, 0.0  # seconds from one answer to the next, a running mean; when the last was
        self.ready = False

    def warm_up(self) -> None:
        """One face through everything, so that the first request finds it open; raises what is wrong with it."""
        face = np.full((1, 112, 112), 128, np.uint8)
        batch = self.batcher.submit(face).result()
        self.purification.look(np.full((128, 128, 3), 128, np.uint8))
        self.purifier.antibodies(batch)
        self.ready = True

    def check_ready(self) -> None:
        """Refuse, with status 503, while the engine has not run once, or the end has begun."""
        if not self.ready:
            raise Refusal(503, "the service is starting or shutting down: ask again", retry_after_s=1)

    def close(self) -> None:
        """Finish what was accepted, and give everything back."""
        self.ready = False
        self.view.close()
        self._pool.shutdown(cancel_futures=True)
        self._gate_thread.shutdown(cancel_futures=True)
        self.batcher.close()
        self.cameras.close()
        if self.gate is not None:
            self.gate.close()
        if self.purification.embedder is not None:
            self.purification.embedder.close()
        self.purifier.close()

    @contextlib.asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """A place among the requests in work.

        Raises
        ------
        Overloaded
            If all are taken, or it would wait too long for its turn, as far as the pace of answers tells beforehand.
        """
        wait_s = self._admitted * self._each_s
        too_long = self._admitted >= self._places and wait_s > _SHARE * self.settings.request_timeout_s
        if self._admitted >= self.settings.queue_requests or too_long:
            after = max(1, math.ceil(wait_s))
            raise Overloaded(
                f"{self._admitted} requests are in work or wait already, of {self.settings.queue_requests} that may: "
                f"try again in {after} s",
                after,
            )
        self._admitted += 1
        began = time.monotonic()
        try:
            yield
            now = time.monotonic()  # of answers only: a refusal takes no time, and a time-out all of it
            self._each_s += 0.1 * (now - max(began, self._last) - self._each_s)
            self._last = now
        finally:
            self._admitted -= 1

    async def in_thread(self, do: Callable[..., _T], *arguments: Any) -> _T:
        """Have a thread do what takes long; cancelled while it waits for one, it is never done."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, do, *arguments)

    async def in_gate_thread(self, do: Callable[..., _T], *arguments: Any) -> _T:
        """The same in the thread that the gate's store belongs to."""
        return await asyncio.get_running_loop().run_in_executor(self._gate_thread, do, *arguments)

    async def purified(self, faces: NDArray[Any]) -> PurifiedFaces:
        """Faces through the shared engine; uint8 or float32 (N, 112, 112)."""
        return await asyncio.wrap_future(self.batcher.submit(faces))

    async def answered(self, data: bytes, name: str, finish: Callable[[Prepared, PurifiedFaces | None], _T]) -> _T:
        """What `finish` makes, in a thread, of a picture and its purified faces; None where it has none.

        Raises
        ------
        InputError
            If the picture cannot be used.
        """
        pixels = await self.in_thread(self.purification.pixels, data, name)
        async with self._pixels.taken(pixels):
            prepared = await self.in_thread(self.purification.prepare, data, name)
            return await self._finished(prepared, finish)

    async def answered_frame(
        self, frame: NDArray[np.uint8], finish: Callable[[Prepared, PurifiedFaces | None], _T]
    ) -> _T:
        """The same of a frame, (H, W, 3) uint8 BGR."""
        async with self._pixels.taken(frame.shape[0] * frame.shape[1]):
            return await self._finished(await self.in_thread(self.purification.look, frame), finish)

    async def _finished(self, prepared: Prepared, finish: Callable[[Prepared, PurifiedFaces | None], _T]) -> _T:
        batch = await self.purified(prepared.grey) if len(prepared.grey) else None
        return await self.in_thread(finish, prepared, batch)

    async def decided(self, pictures: Sequence[tuple[str, bytes]], person: str | None) -> GateEvent:
        """The gate's decision on pictures that follow each other: verification of `person`, or identification.

        Raises
        ------
        Refusal
            Status 400 if a picture cannot be used; 404 without a gate, or if nobody of that name is enrolled; 409 if it
            has no threshold; 500 if store or audit trail cannot be used, for which no client is to blame.
        """
        gate = self.gate
        if gate is None:
            raise Refusal(
                404,
                "the service was started without a gate: start it with --store, --recognizer or --masked, and a key",
            )

        def decide() -> GateEvent:
            try:
                event = self._decision(gate, pictures, person)
            except Refusal:
                raise
            except ImmuneCamError as error:
                raise Refusal(500, str(error)) from None
            # Here, for it stands in the audit trail even if nobody waits for it any more.
            self.last_decision = (event, time.monotonic())
            self.metrics.decisions.labels(event.mode, event.event).inc()
            return event

        async with self._decisions.taken(1):
            return await self.in_gate_thread(decide)

    def _decision(self, gate: AccessGate, pictures: Sequence[tuple[str, bytes]], person: str | None) -> GateEvent:
        """In the gate's thread; what the client is to blame for is a Refusal."""
        try:
            gate.threshold()
        except UsageError as error:
            raise Refusal(409, str(error)) from None
        if person is None:
            return gate.identify(self._frames(pictures))
        if person not in {one.person for one in gate.store.people()}:
            raise Refusal(404, f"nobody is enrolled as {person[:64]!r}: enrol first, or see `immunecam gate list`")
        return gate.verify(person, self._frames(pictures))

    def _frames(self, pictures: Sequence[tuple[str, bytes]]) -> Iterator[NDArray[np.uint8]]:
        for name, data in pictures:  # one in memory at a time
            try:
                frame = self.purification.decode(data, name)
            except InputError as error:
                raise Refusal(400, str(error)) from None
            yield frame
