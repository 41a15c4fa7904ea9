"""Faces out of a frame that lies on the card, and back into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.kernels.cuda.launch_plan import MAX_BATCH, align_launch, paste_launch
from immunecam.kernels.cuda.launching import launch
from immunecam.kernels.cuda.memory import allocate
from immunecam.kernels.cuda.programs import Programs
from immunecam.kernels.cuda.staging import StagingRing

__all__ = ["LAYOUTS", "FrameKernels", "FrameOnCard", "paste_region"]

LAYOUTS = ("bgr", "nv12")
"""Three bytes a pixel; or luminance, then one pair (U, V) for every 2x2 pixels, as hardware decoders write it."""

_SIDE = 112


@dataclass(frozen=True)
class FrameOnCard:
    """Where a frame lies.

    Attributes
    ----------
    address : int
        Of its first byte, on the card.
    width, height : int
        Pixels; of NV12 both even.
    pitch : int
        Bytes from one row to the next.
    layout : {"bgr", "nv12"}
        Of its bytes.
    chroma : int
        Address of the (U, V) pairs of NV12; None puts them where the luminance ends.
    full_range : bool
        Whether luminance goes from 0 to 255 (else from 16 to 235, as video does); NV12 only.

    Raises
    ------
    InputError
        If the sizes do not fit one another.
    UsageError
        If the layout is unknown.
    """

    address: int
    width: int
    height: int
    pitch: int
    layout: str = "bgr"
    chroma: int | None = None
    full_range: bool = False

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UsageError(f"The layout of the frame is {self.layout!r}, but it must be one of {', '.join(LAYOUTS)}.")
        row = 3 * self.width if self.layout == "bgr" else self.width
        if self.width < 1 or self.height < 1 or self.pitch < row:
            raise InputError(
                f"The frame is {self.width}x{self.height} with rows of {self.pitch} bytes, but it needs a pixel, and "
                f"{row} bytes a row."
            )
        if self.layout == "nv12" and (self.width % 2 or self.height % 2):
            raise InputError(f"The NV12 frame is {self.width}x{self.height}, but both must be even.")
        if self.layout == "nv12" and self.chroma is None:
            object.__setattr__(self, "chroma", self.address + self.pitch * self.height)


class FrameKernels:
    """Launches alignment and paste-back; for one thread and one stream at a time.

    Parameters
    ----------
    programs : Programs
        Of the card.
    stream : cuda.core.Stream
        Of the allocation.
    max_faces : int
        Of a frame at most, 1 to 128.
    """

    def __init__(self, programs: Programs, *, stream: Any, max_faces: int = 32) -> None:
        if not 1 <= max_faces <= MAX_BATCH:
            raise UsageError(f"max_faces is {max_faces}, but it must be from 1 to {MAX_BATCH}.")
        self.max_faces, self._programs = max_faces, programs
        size = max_faces * 6 * 4
        self._staging = [StagingRing(size) for _ in range(2)]
        advice = "close another user of it"
        self._matrices = [allocate(programs.device, size, stream=stream, advice=advice) for _ in range(2)]

    def align(
        self, frame: FrameOnCard, back: NDArray[np.float64], faces: int, *, crops: int | None = None, stream: Any
    ) -> None:
        """Cut faces out, aligned and grey.

        Parameters
        ----------
        frame : FrameOnCard
            Not changed.
        back : ndarray, shape (N, 2, 3)
            From pixels of the crop to pixels of the frame.
        faces : int
            Address of (N, 112, 112) float32, which become the faces in [-1, 1].
        crops : int, optional
            Address of (N, 112, 112, 3) uint8, which become the same in the colours of a BGR frame.

        Raises
        ------
        InputError
            If the matrices have another shape, there are too many, or a value is not finite.
        UsageError
            If crops are asked of an NV12 frame.
        """
        if n := self._put(0, back, stream):
            self.launch_align(frame, n, faces, crops=crops, stream=stream)

    def launch_align(self, frame: FrameOnCard, n: int, faces: int, *, crops: int | None = None, stream: Any) -> None:
        """The launch of `align` alone, with the matrices of its last call: what may be captured in a CUDA graph."""
        if crops is not None and frame.layout != "bgr":
            raise UsageError(f"Crops in colour were asked of a frame in {frame.layout}, but only bgr gives them.")
        last = (faces, crops) if frame.layout == "bgr" else (np.int32(frame.full_range), faces)
        launch(self._programs, align_launch(n, frame.layout), stream, *_members(frame, chroma=False),
                     self._matrices[0], *last)  # fmt: skip

    def paste(
        self, frame: FrameOnCard, matrices: NDArray[np.float64], faces: int, *, grey: bool = False, stream: Any
    ) -> None:
        """Put purified faces in place of the ones in the frame, which is changed.

        Parameters
        ----------
        frame : FrameOnCard
            A pixel outside every face's region stays as it was.
        matrices : ndarray, shape (N, 2, 3)
            From pixels of the frame to pixels of the crop.
        faces : int
            Address of (N, 112, 112) uint8.
        grey : bool
            Whether the region loses its colour.

        Raises
        ------
        InputError
            As `align`, or if a matrix has no inverse.
        """
        n = self._put(1, matrices, stream)
        region = paste_region(frame, np.asarray(matrices, np.float64)) if n else None
        if region is not None:
            self.launch_paste(frame, n, region, faces, grey=grey, stream=stream)

    def launch_paste(
        self,
        frame: FrameOnCard,
        n: int,
        region: tuple[int, int, int, int],
        faces: int,
        *,
        grey: bool = False,
        stream: Any,
    ) -> None:
        """The launch of `paste` alone, with the matrices of its last call, into a `paste_region`."""
        _, _, width, height = region
        last = (np.int32(n), np.int32(grey), *(() if frame.layout == "bgr" else (np.int32(frame.full_range),)))
        launch(self._programs, paste_launch(width, height, frame.layout), stream, *_members(frame,
        chroma=frame.layout == "nv12"),
                     *(np.int32(x) for x in region), faces, self._matrices[1], *last)  # fmt: skip

    def close(self) -> None:
        """Give the memory back."""
        for buffer in (*self._staging, *self._matrices):
            buffer.close()

    def _put(self, which: int, matrices: NDArray[np.float64], stream: Any) -> int:
        """The matrices to the card; how many there are."""
        values = np.asarray(matrices, np.float32)
        if values.ndim != 3 or values.shape[1:] != (2, 3) or len(values) > self.max_faces:
            raise InputError(
                f"The matrices have the shape {values.shape}, but (N, 2, 3) is needed, with N up to {self.max_faces}."
            )
        if not np.isfinite(values).all():
            raise InputError("The matrices hold NaN or infinity: align the faces again.")
        if len(values):
            self._staging[which].put(values, self._matrices[which], stream=stream)
        return len(values)


def paste_region(frame: FrameOnCard, matrices: NDArray[np.float64]) -> tuple[int, int, int, int] | None:
    """Left, top, width and height of what the faces (N, 2, 3) may touch, None if nothing; even numbers of NV12.

    Raises
    ------
    InputError
        If a matrix has no inverse.
    """
    linear = matrices[:, :, :2]
    if not (np.abs(np.linalg.det(linear)) > 1e-12).all():
        raise InputError("A paste matrix has no inverse, so its face has no place in the frame: align the face again.")
    # A face shows down to one pixel beyond its crop, where it has faded to nothing.
    crop = np.array([[x, y] for x in (-1.0, _SIDE) for y in (-1.0, _SIDE)])
    corners = np.linalg.solve(linear[:, None], (crop - matrices[:, None, :, 2])[..., None])[..., 0].reshape(-1, 2)
    low = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    high = np.minimum(np.ceil(corners.max(0)) + 1, (frame.width, frame.height)).astype(int)
    if frame.layout == "nv12":
        low -= low % 2
    if (low >= high).any():
        return None
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def _members(frame: FrameOnCard, *, chroma: bool) -> tuple[Any, ...]:
    planes = (frame.address, frame.chroma) if chroma else (frame.address,)
    return (*planes, np.int32(frame.width), np.int32(frame.height), np.int32(frame.pitch))
