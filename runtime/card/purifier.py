"""CardPurifier: networks and kernels on one stream of a card, as one CUDA graph for each number of faces."""

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

from immunecam.errors import ImmuneCamError, InputError, UsageError
from immunecam.kernels import MutationMode, check_mutation_mode
from immunecam.kernels.cuda import PixelKernels, Programs, SubspaceKernels
from immunecam.kernels.cuda.card import one_line
from immunecam.kernels.cuda.memory import allocate, part
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.card.arrays import CardArray, faces_on_card
from immunecam.runtime.card.failure import check_faults, failure
from immunecam.runtime.card.slot import Slot
from immunecam.runtime.engines.onnxruntime_session import without_rounding
from immunecam.runtime.engines.protocol import CardEngine

__all__ = ["CardPurifier"]

_SIDE = 112
_D = _SIDE * _SIDE
_MAX_BATCH = 32
_ADVICE = "close another user of it, or make max_batch smaller"

_log = logging.getLogger(__name__)


class CardPurifier:
    """Purifies faces on a card. Safe to call from several threads.

    Threads share one stream, its buffers and its graphs, and take turns at launching: the kernels of one batch fill a
    card (the one-pass projection even needs all its multiprocessors at once), so a second stream would wait all the
    same, while a context a thread would hold basis and networks once more each. Copying on the host and waiting happen
    outside the turn, with two sets of pinned memory.

    The first call with a number of faces launches kernel by kernel, which is what loads and allocates; later ones
    replay a CUDA graph of it, where the engine can be captured. Seed and numbers are read from memory, so they change
    between replays. A call makes the card's primary context current in its thread.

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
        self.mutation: MutationMode = check_mutation_mode(mutation)
        if engine.k != bundle.k:
            raise InputError(f"The engine has K = {engine.k}, but the bundle {bundle.path} has K = {bundle.k}.")
        self.max_batch = min(_MAX_BATCH, engine.max_batch) if max_batch is None else max_batch
        if self.max_batch > engine.max_batch:
            raise UsageError(f"max_batch is {max_batch}, but the engine takes {engine.max_batch} faces at most.")
        self._bundle, self._engine, self.programs, self.stream = bundle, engine, programs, stream
        self._graphs: dict[int, Any] = {}  # by number of faces; None where only a first run has been
        self._lock = threading.Lock()  # of the stream: who holds it launches
        self._closing = threading.Lock()
        self._slots: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self._all_slots: list[Slot] = []
        self.closers: list[Callable[[], None]] = []
        """Called when the purifier is closed, after the last call and before the stream goes."""
        self.kernels = SubspaceKernels(bundle.subspace, programs, stream=stream, max_batch=self.max_batch)
        self._restored: Any = None
        try:
            self._pixels = PixelKernels(programs, self.kernels.d)
            if bundle.graph("restorer") is not None:
                size = 4 * self.max_batch * _D
                self._restored = allocate(programs.device, size, stream=stream, advice=_ADVICE)
            options = _event_options(programs.card.integrated)
            for _ in range(2):
                slot = Slot(programs.device.create_event(options))
                self._all_slots.append(slot)
                for name, size in self._rooms(self.max_batch).items():
                    slot.room(name, size)
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
        return self._engine.provider

    @property
    def k(self) -> int:
        """Number of eigenfaces, K."""
        return self._bundle.k

    def has_graph(self, n: int) -> bool:
        """Whether n faces are launched as a CUDA graph by now."""
        return bool(self._graphs.get(n))

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
            (N, 112, 112) or (112, 112), float32 in [-1, 1] or uint8, contiguous on this card, with DLPack or
            ``__cuda_array_interface__``. They are read once their producer's stream has come to them, if their
            library names it, and no longer when this returns.
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
                    self.begin(n, slot, seed, first + start)
                    value = 4 if given.dtype == "float32" else 1
                    self.take(n, given.address + value * start * _D, given.dtype)
                    self.networks(n)
                    self.give(n, part(buffer, n * _D, start * _D))
                    self.end(n, slot, probabilities=False)
                with self.waiting(slot, n):
                    check_faults(int(slot.room("faults", 4).view(np.uint32)[0]))
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

    # -- steps of a call, for who holds the stream -------------------------------------------------------------------

    def begin(self, n: int, slot: Slot, seed: int, first_image: int, at: int = 0) -> None:
        """Bring seed and numbers of n faces to the card; `at` is where the slot has room for them, in faces."""
        if at == 0:
            self.kernels.faults.fill(0, stream=self.stream)
        if self.mutation == "sample":
            size, offset = 8 * (1 + n), 16 * at
            numbers = slot.room("numbers", offset + size)[offset:].view(np.uint64)
            numbers[0], numbers[1:] = seed, np.array(range(first_image, first_image + n), np.uint64)
            slot.place("numbers", size, offset).copy_to(part(self.kernels.numbers, size), stream=self.stream)

    def take(self, n: int, address: int, dtype: str) -> None:
        """Bring n faces from an address that the card can read to where the networks look for them."""
        self._pixels.take(n, address, dtype, int(self.kernels.faces.handle), faults=self.kernels.faults,
                          stream=self.stream)  # fmt: skip

    def networks(self, n: int) -> None:
        """Analysis, mutation, projection and restoration of n faces; a graph from the second time on."""
        if n not in self._graphs:
            self._launch(n, self.stream)
            self._graphs[n] = None
            return
        if self._graphs[n] is None and self._engine.capturable:
            self._graphs[n] = self._captured(n)
        if not self._graphs[n]:  # the engine cannot be captured, or it has failed
            self._launch(n, self.stream)
        else:
            self._graphs[n].launch(self.stream)

    def give(self, n: int, target: Any) -> None:
        """Bring n purified faces as pixels to a buffer that the card can write."""
        if self._restored is None:
            part(self.kernels.pixels, n * _D).copy_to(target, stream=self.stream)
        else:
            self._pixels.quantize(n, int(self._restored.handle), int(target.handle), faults=self.kernels.faults,
                                  stream=self.stream)  # fmt: skip

    def end(self, n: int, slot: Slot, *, probabilities: bool, at: int = 0) -> None:
        """Bring what was found wrong, and if wanted the probabilities, to the slot, and mark the end of the call."""
        if probabilities:
            size, offset = 4 * n * self.k, 4 * at * self.k
            found = part(self.kernels.probabilities, size)
            found.copy_to(slot.place("probabilities", size, offset), stream=self.stream)
        self.kernels.faults.copy_to(slot.place("faults", 4), stream=self.stream)
        self.stream.record(slot.done)

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """One of the two, when it is free."""
        slot = self._slots.get()
        if slot is None:
            self._slots.put(None)
            raise UsageError("The purifier has been closed: load it again.")
        try:
            yield slot
        finally:
            self._slots.put(slot)

    @contextmanager
    def launching(self, n: int) -> Iterator[None]:
        """The turn at the stream. Whatever goes wrong, the stream has come to rest afterwards, and errors are ours."""
        with self._lock:
            self.programs.device.set_current()
            try:
                yield
            except Exception as error:
                self._come_to_rest()
                if isinstance(error, ImmuneCamError):
                    raise
                raise failure(error, n) from None

    @contextmanager
    def waiting(self, slot: Slot, n: int) -> Iterator[None]:
        """Until the slot's call is done."""
        try:
            slot.done.sync()
        except Exception as error:
            raise failure(error, n) from None
        yield

    def _purify_part(
        self,
        faces: NDArray[Any],
        slot: Slot,
        seed: int,
        first_image: int,
        purified: NDArray[np.uint8],
        probabilities: NDArray[np.float32],
    ) -> None:
        n, integrated = len(faces), self.programs.card.integrated
        slot.room("faces", faces.nbytes)[:] = faces.reshape(-1).view(np.uint8)
        with self.launching(n):
            self.begin(n, slot, seed, first_image)
            staged, size = slot.place("faces", faces.nbytes), n * _D
            if integrated:  # the card reads and writes the host's memory itself
                self.take(n, int(staged.handle), faces.dtype.name)
            else:
                given = part(self._upload, faces.nbytes)
                staged.copy_to(given, stream=self.stream)
                self.take(n, int(given.handle), faces.dtype.name)
            self.networks(n)
            if integrated:
                self.give(n, slot.place("purified", size))
            else:
                done = part(self.kernels.pixels, size)
                if self._restored is not None:
                    self.give(n, done)
                done.copy_to(slot.place("purified", size), stream=self.stream)
            self.end(n, slot, probabilities=True)
        with self.waiting(slot, n):
            check_faults(int(slot.room("faults", 4).view(np.uint32)[0]))
            purified[...] = slot.room("purified", size).reshape(purified.shape)
            found = slot.room("probabilities", probabilities.nbytes).view(np.float32)
            probabilities[...] = without_rounding(found.reshape(probabilities.shape))

    @property
    def _upload(self) -> Any:
        """Where faces from the host arrive; nothing else is there before the networks have run."""
        return self.kernels.projected

    def _launch(self, n: int, target: Any) -> None:
        """The networks and kernels of n faces; kernels to a stream or graph builder, networks to the stream of it."""
        kernels, stream = self.kernels, self.stream
        faces, projected = int(kernels.faces.handle), int(kernels.projected.handle)
        self._engine.analyze_on(n, faces=faces, probabilities=int(kernels.probabilities.handle), stream=stream)
        kernels.mutate(n, mode=self.mutation, stream=target)
        kernels.project(n, stream=target)
        if self._restored is not None:
            # The restorer gets the projected face rounded to 8 bits, on every backend.
            self._pixels.take(n, int(kernels.pixels.handle), "uint8", projected, faults=kernels.faults, stream=target)
            restored = int(self._restored.handle)
            self._engine.restore_on(n, faces=faces, projected=projected, restored=restored, stream=stream)

    def _captured(self, n: int) -> Any:
        """A graph of the launches; False, with a warning, if that fails."""
        # Thread-local: any other mode would forbid other pipelines of the process what they do meanwhile.
        builder = self.stream.create_graph_builder().begin_building(mode="thread_local")
        try:
            try:
                self._launch(n, builder)
            finally:
                builder.end_building()
            return builder.complete()
        except Exception as error:
            _log.warning("No CUDA graph of %d faces (%s): they are launched kernel by kernel.", n, one_line(error))
            return False
        finally:
            builder.close()

    def _rooms(self, n: int) -> dict[str, int]:
        """Bytes of a slot for n faces."""
        return {"faces": 4 * n * _D, "numbers": 8 * (1 + n), "purified": n * _D, "probabilities": 4 * n * self.k,
                "faults": 4}  # fmt: skip

    def _come_to_rest(self) -> None:
        try:
            self.stream.sync()
        except Exception as error:  # what goes on being wrong is told by the next call
            _log.debug("The stream did not come to rest: %s", one_line(error))

    def _give_back(self) -> None:
        self.programs.device.set_current()
        self._come_to_rest()
        for graph in self._graphs.values():
            if graph:
                graph.close()
        self._graphs.clear()
        while self.closers:
            self.closers.pop()()
        self._engine.close()
        self.kernels.close()
        if self._restored is not None:
            self._restored.close()
        for slot in self._all_slots:
            slot.close()
        self.stream.close()


def _event_options(integrated: bool) -> Any:
    """Small machines have few cores, which waiting threads leave to others; elsewhere a busy wait is quicker."""
    from cuda.core import EventOptions

    return EventOptions(blocking_sync=integrated)
