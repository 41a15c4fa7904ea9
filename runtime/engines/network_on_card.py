"""A network of an optional part on a card: arrays of the host to arrays of the host, by a TensorRT plan."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import UsageError
from immunecam.kernels.cuda import open_device
from immunecam.kernels.cuda.memory import allocate
from immunecam.kernels.cuda.staging import Staging
from immunecam.runtime.engines.tensorrt_engine import TensorRTEngine
from immunecam.runtime.engines.tensorrt_library import import_tensorrt

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["NetworkOnCard"]


class NetworkOnCard:
    """The plan of one network, which has one input and one output. Safe to call from several threads.

    Parameters
    ----------
    bundle : Bundle
        Verified, with the part and a plan of the network for this machine.
    role : str
        Of the network, see :attr:`immunecam.runtime.part_record.PartRecord.COMPILED`.
    most : int
        Faces of a call.

    Raises
    ------
    BackendMissingError
        If TensorRT or the driver is missing.
    InputError
        If there is no such plan, it cannot be run, or the card has not the memory.
    """

    def __init__(self, bundle: Bundle, role: str, most: int) -> None:
        import_tensorrt()  # that it is missing is the better reason
        self._device: Any = open_device()
        self._role = role
        self._engine = TensorRTEngine.from_bundle(bundle, device=self._device, roles=(role,))
        ((self._input, face),), ((self._output, self._result),) = (part.items() for part in self._engine.tensors(role))
        # A plan for eight faces and more gets eight of which some are not looked at.
        self._most = max(self._engine.min_batch, min(most, self._engine.max_batch))
        self._least, self._closed = self._engine.min_batch, False
        self._lock, self._stream = threading.Lock(), self._device.create_stream()
        advice = "close another user of the card, or use --provider cpu"
        sizes = [4 * self._most * math.prod(shape) for shape in (face, self._result)]
        self._given, self._found = (allocate(self._device, size, stream=self._stream, advice=advice) for size in sizes)
        self._in, self._out = (Staging(size) for size in sizes)

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 (N, ...) to float32 (N, ...); N is 1 or more."""
        found = []
        with self._lock:
            if self._closed:
                raise UsageError(f"The plan of the {self._role} was closed, but it was asked to run: open another.")
            self._device.set_current()
            for start in range(0, len(batch), self._most):
                part = batch[start : start + self._most]
                whole = np.zeros((self._most, *batch.shape[1:]), np.float32)
                whole[: len(part)] = part
                self._in.put(whole, self._given, stream=self._stream)
                addresses = {self._input: int(self._given.handle), self._output: int(self._found.handle)}
                self._engine.run_on(self._role, max(len(part), self._least), addresses, stream=self._stream)
                values = self._out.get(self._found, stream=self._stream).view(np.float32)
                found.append(values.reshape(self._most, *self._result)[: len(part)])
        return np.concatenate(found)

    def close(self) -> None:
        """Give plan and memory back."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._stream.sync()
            self._engine.close()
            for held in (self._in, self._out, self._given, self._found, self._stream):
                held.close()
