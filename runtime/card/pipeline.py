"""A batch's way over a card, from faces at an address to pixels at another: a CUDA graph for each number of faces."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from immunecam.errors import InputError, UsageError
from immunecam.kernels import MutationMode, check_mutation_mode
from immunecam.kernels.cuda import PixelKernels, Programs, SubspaceKernels
from immunecam.kernels.cuda.card import one_line
from immunecam.kernels.cuda.memory import allocate, part
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.card.capture import captured
from immunecam.runtime.card.slot import Slot
from immunecam.runtime.engines.protocol import CardEngine

__all__ = ["Pipeline"]

_MAX_BATCH = 32
_SIDE = 112
_ADVICE = "close another user of it, or make max_batch smaller"

_log = logging.getLogger(__name__)


class Pipeline:
    """Networks and kernels on one stream, between buffers that stay where they are; for one thread at a time.

    The first run with a number of faces launches kernel by kernel, which is what loads and allocates; then the same is
    captured as a CUDA graph, if the engine can be, and later runs replay it. Seed and numbers are read from memory, so
    they change between replays.

    Parameters
    ----------
    bundle, engine, programs, stream, mutation, max_batch
        As for :class:`CardPurifier`.

    Attributes
    ----------
    kernels : SubspaceKernels
        Whose buffers are filled and read.
    max_batch : int
        Faces of a run at most.
    mutation : str
        How probabilities become an antibody.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: CardEngine,
        programs: Programs,
        *,
        stream: Any,
        mutation: str,
        max_batch: int | None,
    ) -> None:
        self.mutation: MutationMode = check_mutation_mode(mutation)
        if engine.k != bundle.k:
            raise InputError(f"The engine has K = {engine.k}, but the bundle {bundle.path} has K = {bundle.k}.")
        self.max_batch = min(_MAX_BATCH, engine.max_batch) if max_batch is None else max_batch
        if self.max_batch > engine.max_batch:
            raise UsageError(f"max_batch is {max_batch}, but the engine takes {engine.max_batch} faces at most.")
        self._engine, self._stream = engine, stream
        self._graphs: dict[int, Any] = {}  # by number of faces; False where none can be had
        self._restored: Any = None
        self.kernels = SubspaceKernels(bundle.subspace, programs, stream=stream, max_batch=self.max_batch)
        self.d = self.kernels.d
        self._pixels = PixelKernels(programs, self.d, _SIDE)
        if bundle.graph("restorer") is not None:
            try:
                size = 4 * self.max_batch * self.d
                self._restored = allocate(programs.device, size, stream=stream, advice=_ADVICE)
            except BaseException:
                self.kernels.close()
                raise

    @property
    def provider(self) -> str:
        """The backend of the networks."""
        return self._engine.provider

    @property
    def upload(self) -> Any:
        """Where faces of the host may arrive, float32 (N, D) at most: a buffer that is idle until the networks run."""
        return self.kernels.projected

    def rooms(self, n: int) -> dict[str, int]:
        """Bytes that a call with n faces needs of a slot."""
        faces, p = n * self.d, n * self.kernels.k
        return {"faces": 4 * faces, "numbers": 16 * n, "purified": faces, "probabilities": 4 * p, "faults": 4}

    def begin(self, n: int, slot: Slot, seed: int, first_image: int, at: int = 0) -> None:
        """Bring seed and numbers of n faces to the card; `at` faces of the call have been before, in parts of it."""
        if at == 0:
            self.kernels.faults.fill(0, stream=self._stream)
        if self.mutation == "sample":
            size, offset = 8 * (1 + n), 16 * at  # the parts before had a face each at least
            numbers = slot.room("numbers", offset + size)[offset:].view(np.uint64)
            numbers[0], numbers[1:] = seed, np.array(range(first_image, first_image + n), np.uint64)
            slot.place("numbers", size, offset).copy_to(part(self.kernels.numbers, size), stream=self._stream)

    def take(self, n: int, address: int, dtype: str, steps: tuple[int, int] | None = None) -> None:
        """Bring n faces from an address that the card can read to where the networks look for them.

        `steps` are the values from face to face and from row to row; None: nothing lies between.
        """
        faces, faults = int(self.kernels.faces.handle), self.kernels.faults
        self._pixels.take(n, address, dtype, faces, steps=steps, faults=faults, stream=self._stream)

    def run(self, n: int) -> None:
        """Analysis, mutation, projection and restoration of n faces."""
        if self._graphs.get(n):
            self._graphs[n].launch(self._stream)
            return
        self._launch(n, self._stream)
        if n not in self._graphs:
            # Right after a run with as many faces, in which kernels were loaded and the engine's shapes have settled.
            self._graphs[n] = self._captured(n) if self._engine.capturable else False

    def has_graph(self, n: int) -> bool:
        """Whether n faces are launched as a CUDA graph by now."""
        return bool(self._graphs.get(n))

    def give(self, n: int, target: Any) -> None:
        """Bring n purified faces as pixels to a buffer that the card can write."""
        if self._restored is not None:
            restored, faults = int(self._restored.handle), self.kernels.faults
            self._pixels.quantize(n, restored, int(target.handle), faults=faults, stream=self._stream)
            return
        pixels = part(self.kernels.pixels, n * self.d)
        if int(target.handle) != int(pixels.handle):
            pixels.copy_to(target, stream=self._stream)

    def end(self, n: int, slot: Slot, *, probabilities: bool, at: int = 0) -> None:
        """Bring what was found wrong, and if wanted the probabilities, to the slot, and mark the end of the call."""
        if probabilities:
            size, offset = 4 * n * self.kernels.k, 4 * at * self.kernels.k
            found = part(self.kernels.probabilities, size)
            found.copy_to(slot.place("probabilities", size, offset), stream=self._stream)
        self.kernels.faults.copy_to(slot.place("faults", 4), stream=self._stream)
        self._stream.record(slot.done)

    def close(self) -> None:
        """Give everything back, the engine included, once the stream has come to rest."""
        for graph in self._graphs.values():
            if graph:
                graph.close()
        self._graphs.clear()
        self._engine.close()
        self.kernels.close()
        if self._restored is not None:
            self._restored.close()

    def _launch(self, n: int, target: Any) -> None:
        """Kernels to a stream or graph builder, networks to the stream behind it."""
        kernels, stream, networks = self.kernels, self._stream, self._padded(n)
        faces, projected = int(kernels.faces.handle), int(kernels.projected.handle)
        self._engine.analyze_on(networks, faces=faces, probabilities=int(kernels.probabilities.handle), stream=stream)
        kernels.mutate(n, mode=self.mutation, stream=target)
        kernels.project(n, stream=target)
        if self._restored is not None:
            # The restorer gets the projected face rounded to 8 bits, on every backend.
            self._pixels.take(n, int(kernels.pixels.handle), "uint8", projected, faults=kernels.faults, stream=target)
            restored = int(self._restored.handle)
            self._engine.restore_on(networks, faces=faces, projected=projected, restored=restored, stream=stream)

    def _padded(self, n: int) -> int:
        """How many faces the networks are given for n: a power of two, where every number of them costs memory.

        What lies behind the n faces is left from earlier ones or was never written; nobody reads what becomes of it.
        """
        return min(1 << (n - 1).bit_length(), self.max_batch) if self._engine.capturable else n

    def _captured(self, n: int) -> Any:
        """A graph of the launches; False, with a warning, if that fails."""
        try:
            return captured(self._stream, lambda builder: self._launch(n, builder))
        except Exception as error:  # whatever a library raises; without a graph it is slower, not wrong
            _log.warning("No CUDA graph of %d faces (%s): they are launched kernel by kernel.", n, one_line(error))
            return False
