"""A liveness network on a card: faces of the host to scores of the host, by a TensorRT plan."""

from __future__ import annotations

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
from immunecam.runtime.plan_record import LIVENESS

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["LivenessOnCard"]

_MOST = 8  # faces of a call, as the purifier's


class LivenessOnCard:
    """Scores by the plan of a bundle's liveness network. Safe to call from several threads.

    Parameters
    ----------
    bundle : Bundle
        Verified, with the part "liveness" and a plan of it for this machine.

    Raises
    ------
    BackendMissingError
        If TensorRT or the driver is missing.
    InputError
        If there is no such plan, it cannot be run, or the card has not the memory.
    """

    def __init__(self, bundle: Bundle) -> None:
        record = bundle.manifest.liveness
        assert record is not None
        import_tensorrt()  # that it is missing is the better reason
        self._device: Any = open_device()
        self._engine = TensorRTEngine.from_bundle(bundle, device=self._device, roles=(LIVENESS,))
        # A plan for eight faces and more gets eight of which some are not looked at.
        self._most = max(self._engine.min_batch, min(_MOST, self._engine.max_batch))
        self._least, self._closed = self._engine.min_batch, False
        self._lock, self._stream = threading.Lock(), self._device.create_stream()
        face = 4 * 3 * record.side**2
        advice = "close another user of the card, or use --provider cpu"
        self._faces, self._scores = (
            allocate(self._device, self._most * size, stream=self._stream, advice=advice) for size in (face, 4)
        )
        self._in, self._out = Staging(self._most * face), Staging(self._most * 4)

    def scores(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) of faces (N, 3, side, side) in [-1, 1]; N is 1 or more."""
        found = []
        with self._lock:
            if self._closed:
                raise UsageError("This liveness detector was closed, but it was asked to judge: make another.")
            self._device.set_current()
            for start in range(0, len(faces), self._most):
                part = faces[start : start + self._most]
                count = max(len(part), self._least)
                whole = np.zeros((self._most, *faces.shape[1:]), np.float32)
                whole[: len(part)] = part
                self._in.put(whole, self._faces, stream=self._stream)
                self._engine.judge_on(
                    count, faces=int(self._faces.handle), scores=int(self._scores.handle), stream=self._stream
                )
                found.append(self._out.get(self._scores, stream=self._stream).view(np.float32)[: len(part)])
        return np.concatenate(found)

    def close(self) -> None:
        """Give plan and memory back."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._stream.sync()
            self._engine.close()
            for held in (self._in, self._out, self._faces, self._scores, self._stream):
                held.close()
