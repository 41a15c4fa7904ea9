"""Arrays that lie on a card: those that are given, by anybody's library, and those that are handed out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.kernels.cuda.card import one_line
from immunecam.kernels.cuda.staging import Staging

__all__ = ["CardArray", "FacesOnCard", "faces_on_card", "lies_on_card"]

_SIDE = 112
_CARD_DEVICES = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged
_OPENCV_TYPES = {0: "uint8", 5: "float32"}  # CV_8UC1 and CV_32FC1


def lies_on_card(given: Any) -> bool:
    """Whether an array offers itself on a card, by ``__cuda_array_interface__`` or DLPack or as a ``GpuMat``."""
    if isinstance(given, np.ndarray):
        return False
    if hasattr(given, "__cuda_array_interface__") or _is_gpu_mat(given):  # PyTorch's tensors on a CPU have not
        return True
    device = getattr(given, "__dlpack_device__", None)
    return device is not None and int(device()[0]) in _CARD_DEVICES


@dataclass(frozen=True)
class FacesOnCard:
    """Faces that a caller holds on the card.

    Attributes
    ----------
    address : int
        Of the first value.
    n : int
        Faces.
    dtype : {"uint8", "float32"}
        Of their values.
    steps : (int, int)
        Values from one face to the next, and from one row to the next.
    single : bool
        Whether one face was given without a batch axis.
    view : object
        Keeps them alive.
    """

    address: int
    n: int
    dtype: str
    steps: tuple[int, int]
    single: bool
    view: Any

    def at(self, number: int) -> int:
        """Address of a face."""
        return self.address + number * self.steps[0] * np.dtype(self.dtype).itemsize


def faces_on_card(given: Any, *, stream: Any, device_id: int) -> FacesOnCard:
    """What lies at hand, ready to be read by the stream once its producer is done.

    Parameters
    ----------
    given : object
        (N, 112, 112) or (112, 112), float32 or uint8, with DLPack or ``__cuda_array_interface__``; the values of a row
        lie side by side, rows and faces may lie apart. Or one face as OpenCV's ``cv2.cuda.GpuMat``, which names no
        stream: its producer must be done.
    stream : cuda.core.Stream
        Of the reader; made to wait for the producer's, as far as its library names one.
    device_id : int
        Number of the card that it must lie on.

    Raises
    ------
    InputError
        If it has another shape, dtype, layout or card.
    """
    from cuda.core.utils import StridedMemoryView

    if _is_gpu_mat(given):
        return _gpu_mat(given)
    try:
        view = StridedMemoryView.from_any_interface(given, stream_ptr=int(stream.handle))
        dtype, shape = np.dtype(view.dtype), tuple(int(size) for size in view.shape)
    except Exception as error:  # whatever the library of the array raises
        raise InputError(
            f"The faces on the card, a {type(given).__name__}, cannot be read ({one_line(error)}): give a plain array."
        ) from None
    if dtype not in (np.float32, np.uint8):
        raise InputError(f"The faces have the dtype {dtype}, but it must be float32 in [-1, 1] or uint8: convert them.")
    if len(shape) not in (2, 3) or shape[-2:] != (_SIDE, _SIDE):
        raise InputError(
            f"The faces have the shape {shape}, but it must be (N, {_SIDE}, {_SIDE}) or ({_SIDE}, {_SIDE}): align "
            "them to grey crops first."
        )
    if not view.is_device_accessible or (view.device_id >= 0 and view.device_id != device_id):
        raise InputError(f"The faces lie on device {view.device_id}, but the purifier runs on {device_id}: move them.")
    n = shape[0] if len(shape) == 3 else 1
    steps = (_SIDE * _SIDE, _SIDE)
    if view.strides is not None and n:
        face, row, column = (0, *view.strides)[-3:]
        if column != 1 or row < _SIDE or face < 0:
            raise InputError(
                f"The faces have the strides {tuple(view.strides)}, but the {_SIDE} values of a row must lie side by "
                "side, one row after another: copy them first."
            )
        steps = (face, row)
    return FacesOnCard(int(view.ptr), n, dtype.name, steps, len(shape) == 2, view)


def _is_gpu_mat(given: Any) -> bool:
    return hasattr(given, "cudaPtr") and hasattr(given, "step")


def _gpu_mat(given: Any) -> FacesOnCard:
    """A face in OpenCV's pitched memory."""
    dtype, (width, height) = _OPENCV_TYPES.get(given.type()), given.size()
    if dtype is None:
        raise InputError(
            f"The GpuMat has OpenCV's type {given.type()}, but it must be CV_8UC1 or CV_32FC1: convert it."
        )
    if (height, width) != (_SIDE, _SIDE):
        raise InputError(
            f"The GpuMat has the shape {(height, width)}, but it must be ({_SIDE}, {_SIDE}): align the face first."
        )
    return FacesOnCard(int(given.cudaPtr()), 1, dtype, (0, int(given.step) // np.dtype(dtype).itemsize), True, given)


class CardArray:
    """An array on a card, which owns its memory.

    PyTorch, CuPy, PyCUDA and others take it without a copy, by ``__cuda_array_interface__`` or DLPack, and OpenCV by
    ``cv2.cuda.createGpuMatFromCudaMemory`` with its address, of which it does not keep hold. What it holds is finished
    when it is handed out, so a reader on any stream has nothing to wait for. Its memory goes back to the card's pool
    with :meth:`close`, or when nobody holds the array or what was made of it any more; work that reads it must be done
    by then.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    device_id : int
        Number of the card.
    """

    def __init__(self, buffer: Any, shape: tuple[int, ...], dtype: np.dtype[Any], *, device: Any) -> None:
        self.shape, self.dtype, self.device_id = shape, dtype, int(device.device_id)
        self._buffer, self._device = buffer, device

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; no stream, for there is nothing to wait for."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (int(self._held().handle), False),
            "strides": None,
            "version": 3,
            "stream": None,
        }

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule; whoever takes it keeps the memory alive."""
        # There is nothing to wait for, so no stream is passed on.
        return self._view().__dlpack__(stream=-1, max_version=max_version, dl_device=dl_device, copy=copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        """(kDLCUDA, number of the card)."""
        kind, number = self._view().__dlpack_device__()
        return int(kind), int(number)

    def to_numpy(self) -> NDArray[Any]:
        """A copy in the host's memory."""
        buffer = self._held()
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        self._device.set_current()
        stream, staging = self._device.create_stream(), Staging(buffer.size)
        try:
            return staging.get(buffer, stream=stream).view(self.dtype).reshape(self.shape)
        finally:
            staging.close()
            stream.close()

    def close(self) -> None:
        """Give the memory back, if no capsule holds it; calling it again does nothing."""
        self._buffer = None

    def _held(self) -> Any:
        if self._buffer is None:
            raise UsageError("The array on the card has been released: keep it until everybody has read it.")
        return self._buffer

    def _view(self) -> Any:
        from cuda.core.utils import StridedMemoryView

        return StridedMemoryView.from_buffer(self._held(), self.shape, dtype=self.dtype)
