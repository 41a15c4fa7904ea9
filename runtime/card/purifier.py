"""CardPurifier: faces from the host or the card, through a pipeline on the card, for any number of threads."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import ImmuneCamError, UsageError
from immunecam.kernels.cuda import Programs
from immunecam.kernels.cuda.card import one_line
from immunecam.kernels.cuda.memory import allocate, part
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.card.arrays import CardArray, faces_on_card
from immunecam.runtime.card.failure import check_faults, failure
from immunecam.runtime.card.pipeline import Pipeline
from immunecam.runtime.card.slot import Slot
from immunecam.runtime.engines.onnxruntime_session import without_rounding
from immunecam.runtime.engines.protocol import CardEngine

__all__ = ["CardPurifier"]

_SIDE = 112
_D = _SIDE * _SIDE

_log = logging.getLogger(__name__)


class CardPurifier:
    """Purifies faces on a card. Safe to call from several threads.

    Threads share one stream, its buffers and its graphs, and take turns at launching: the kernels of one batch fill a
    card (the one-pass projection even needs all its multiprocessors at once), so a second stream would wait all the
    same, while a context a thread would hold basis and networks once more each. Copying on the host and waiting happen
    outside the turn, with two sets of pinned memory.

    A call makes the card's primary context current in its thread.

    Parameters
    ----------
    bundle : Bundle
        Gives the subspace, and whether faces are restored.
    engine : CardEngine
        Made from the same bundle; closed with the purifier.
    programs : Programs
        Of the card.
    stream : cuda.core.Stream
        Of everything, not the default one; closed with the purifier.
    mutation : {"sample", "threshold", "expected"}
        How probabilities become an antibody.
    max_batch : int, optional
        Faces at once; more are split. None takes 32, or what the engine can.

    Raises
    ------
    UsageError
        If an argument is out of its range.
    InputError
        If engine and bundle disagree, or the card has not the memory; what was taken is given back.
    BackendMissingError
        If a kernel was not built ahead of time and NVRTC is missing.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: CardEngine,
        programs: Programs,
        *,
        stream: Any,
        mutation: str = "sample",
        max_batch: int | None = None,
    ) -> None:
        self.programs, self.stream = programs, stream
        self._lock = threading.Lock()  # of the stream: who holds it launches
        self._closing = threading.Lock()
        self._slots: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self._all_slots: list[Slot] = []
        self.closers: list[Callable[[], None]] = []
        """Called when the purifier is closed, after the last call and before the stream goes."""
        self.pipeline = Pipeline(bundle, engine, programs, stream=stream, mutation=mutation, max_batch=max_batch)
        self.k, self.max_batch, self.mutation = bundle.k, self.pipeline.max_batch, self.pipeline.mutation
        try:
            options = _event_options(programs.card.integrated)
            for _ in range(2):
                self._all_slots.append(Slot(programs.device.create_event(options)))
                for name, size in self.pipeline.rooms(self.max_batch).items():
                    self._all_slots[-1].room(name, size)
            # One face, so that what is missing or does not fit shows now.
            self._slots.put(self._all_slots[0])
            self.purify(np.zeros((1, _SIDE, _SIDE), np.uint8), seed=0, first_image=0)
            self._slots.put(self._all_slots[1])
        except BaseException:
            self._give_back()
            raise

    @property
    def provider(self) -> str:
        """The backend of the networks: "cuda" or "tensorrt"."""
        return self.pipeline.provider

    def purify(
        self, faces: NDArray[Any], *, seed: int, first_image: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Purified faces and their probabilities, from and to the host's memory.

        Parameters
        ----------
        faces : ndarray of float32 or uint8, shape (N, 112, 112)
            Contiguous; float32 in [-1, 1], or uint8 pixels.
        seed : int
            Key of the random numbers, 0 to 2**64 - 1; not used without them.
        first_image : int
            Running number of the first face.

        Returns
        -------
        purified : ndarray of uint8, shape (N, 112, 112)
        probabilities : ndarray of float32, shape (N, K)

        Raises
        ------
        InputError
            If a value or a probability is invalid, or the card fails; out of memory it works on with fewer faces.
        UsageError
            If the purifier is closed.
        """
        purified = np.empty(faces.shape, np.uint8)
        probabilities = np.empty((len(faces), self.k), np.float32)
        for start in range(0, len(faces), self.max_batch):
            at = slice(start, min(start + self.max_batch, len(faces)))
            with self.slot() as slot:
                self._purify_part(faces[at], slot, seed, first_image + start, purified[at], probabilities[at])
        return purified, probabilities

    def purify_on_card(self, faces: Any, *, seed: int, first_image: int | Callable[[int], int]) -> CardArray:
        """Purified faces that stay on the card.

        Parameters
        ----------
        faces : object
            (N, 112, 112) or (112, 112), float32 in [-1, 1] or uint8, on this card, with DLPack or
            ``__cuda_array_interface__``, or one as an OpenCV ``GpuMat``; rows may lie apart. They are read once their
            producer's stream has come to them, if their library names it, and no longer when this returns.
        seed : int
            As for :meth:`purify`.
        first_image : int or callable
            As for :meth:`purify`, or what gives it for the number of faces.

        Returns
        -------
        CardArray of uint8, same shape
            Finished: nothing has to be waited for.

        Raises
        ------
        InputError, UsageError
            As :meth:`purify`, or if the array's shape, dtype, layout or card is another.
        """
        device = self.programs.device
        with self.slot(), self.launching(0):
            given = faces_on_card(faces, stream=self.stream, device_id=device.device_id)
            buffer = allocate(device, max(given.n, 1) * _D, stream=self.stream, advice="give fewer faces at once")
        first = first_image(given.n) if callable(first_image) else first_image
        for start in range(0, given.n, self.max_batch):
            n = min(self.max_batch, given.n - start)
            with self.slot() as slot:
                with self.launching(n):
                    self.pipeline.begin(n, slot, seed, first + start)
                    self.pipeline.take(n, given.at(start), given.dtype, given.steps)
                    self.pipeline.run(n)
                    self.pipeline.give(n, part(buffer, n * _D, start * _D))
                    self.pipeline.end(n, slot, probabilities=False)
                self.wait(slot, n)
        shape = (_SIDE, _SIDE) if given.single else (given.n, _SIDE, _SIDE)
        return CardArray(buffer, shape, np.dtype(np.uint8), device=device)

    def close(self) -> None:
        """Wait for calls that are under way and give everything back; calling it again does nothing.

        Arrays that were handed out stay valid.
        """
        with self._closing:
            open_slots = [slot for slot in (self._slots.get(), self._slots.get()) if slot is not None]
            self._slots.put(None)  # whoever comes now, or has waited, finds it closed
            self._slots.put(None)
            if open_slots:
                self._give_back()

    def __enter__(self) -> CardPurifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """One of the two, when it is free."""
        slot = self._slots.get()
        if slot is None:
            self._slots.put(None)
            raise UsageError("The purifier has been closed: load it again.")
        try:
            self.programs.device.set_current()  # for pinned memory and events, in whatever thread this is
            yield slot
        finally:
            self._slots.put(slot)

    @contextmanager
    def launching(self, n: int) -> Iterator[None]:
        """The turn at the stream. Whatever goes wrong, the stream has come to rest afterwards, and errors are ours."""
        with self._lock:
            try:
                self.programs.device.set_current()
                yield
            except Exception as error:
                self._come_to_rest()
                if isinstance(error, ImmuneCamError):
                    raise
                raise failure(error, n) from None

    def wait(self, slot: Slot, n: int) -> None:
        """Until the slot's call is done; an InputError if kernels found something wrong with its n faces."""
        try:
            slot.done.sync()
        except Exception as error:
            raise failure(error, n) from None
        check_faults(int(slot.room("faults", 4).view(np.uint32)[0]))

    def _purify_part(
        self,
        faces: NDArray[Any],
        slot: Slot,
        seed: int,
        first_image: int,
        purified: NDArray[np.uint8],
        probabilities: NDArray[np.float32],
    ) -> None:
        n, size, pipeline, stream = len(faces), len(faces) * _D, self.pipeline, self.stream
        slot.room("faces", faces.nbytes)[:] = faces.reshape(-1).view(np.uint8)
        with self.launching(n):
            pipeline.begin(n, slot, seed, first_image)
            staged = slot.place("faces", faces.nbytes)
            if self.programs.card.integrated:  # the card reads and writes the host's memory itself
                pipeline.take(n, int(staged.handle), faces.dtype.name)
                pipeline.run(n)
                pipeline.give(n, slot.place("purified", size))
            else:
                given, done = part(pipeline.upload, faces.nbytes), part(pipeline.kernels.pixels, size)
                staged.copy_to(given, stream=stream)
                pipeline.take(n, int(given.handle), faces.dtype.name)
                pipeline.run(n)
                pipeline.give(n, done)
                done.copy_to(slot.place("purified", size), stream=stream)
            pipeline.end(n, slot, probabilities=True)
        self.wait(slot, n)
        purified[...] = slot.room("purified", size).reshape(purified.shape)
        found = slot.room("probabilities", probabilities.nbytes).view(np.float32)
        probabilities[...] = without_rounding(found.reshape(probabilities.shape))

    def _come_to_rest(self) -> None:
        try:
            self.stream.sync()
        except Exception as error:  # what goes on being wrong is told by the next call
            _log.debug("The stream did not come to rest: %s", one_line(error))

    def _give_back(self) -> None:
        self.programs.device.set_current()
        self._come_to_rest()
        while self.closers:
            self.closers.pop()()
        self.pipeline.close()
        for slot in self._all_slots:
            slot.close()
        self.stream.close()


def _event_options(integrated: bool) -> Any:
    """Small machines have few cores, which waiting threads leave to others; elsewhere a busy wait is quicker."""
    from cuda.core import EventOptions

    return EventOptions(blocking_sync=integrated)
