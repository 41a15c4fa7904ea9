"""Faces of a frame that is uploaded once: cut out, purified and pasted back on the card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from immunecam.kernels.cuda import FrameKernels, FrameOnCard
from immunecam.kernels.cuda.frame_kernels import paste_region
from immunecam.kernels.cuda.memory import allocate, part
from immunecam.runtime.card.purifier import CardPurifier
from immunecam.runtime.card.slot import Slot
from immunecam.runtime.engines.onnxruntime_session import without_rounding

if TYPE_CHECKING:
    from immunecam.runtime.faces import Face

__all__ = ["CardFrames", "PurifiedFrame"]

_SIDE = 112
_D = _SIDE * _SIDE


@dataclass(frozen=True, eq=False)
class PurifiedFrame:
    """What comes back of a frame.

    Attributes
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
        A new one with the purified faces in place; the one that was given if nothing was pasted.
    crops : ndarray of uint8, shape (N, 112, 112, 3)
        The aligned faces before purification, BGR.
    purified : ndarray of uint8, shape (N, 112, 112)
    probabilities : ndarray of float32, shape (N, K)
    first_image : int
        Running number of the first face.
    """

    frame: NDArray[np.uint8]
    crops: NDArray[np.uint8] = field(repr=False)
    purified: NDArray[np.uint8] = field(repr=False)
    probabilities: NDArray[np.float32] = field(repr=False)
    first_image: int


class CardFrames:
    """Purifies the faces of frames by a :class:`CardPurifier`. Safe to call from several threads.

    Parameters
    ----------
    card : CardPurifier
        Its stream and its turn are used; this is closed with it.
    """

    def __init__(self, card: CardPurifier) -> None:
        self._card = card
        self._device, self._stream = card.programs.device, card.stream
        with card.slot(), card.launching(card.max_batch):
            self._kernels = FrameKernels(card.programs, stream=card.stream, max_faces=card.max_batch)
        self._held: dict[str, Any] = {}
        card.closers.append(self._close)

    def purify(
        self,
        frame: NDArray[np.uint8],
        found: Sequence[Face],
        *,
        seed: int,
        first_image: int | Callable[[int], int],
        paste: bool = True,
        colour: str = "keep",
    ) -> PurifiedFrame:
        """Cut faces out, purify them and put them back.

        Parameters
        ----------
        frame : ndarray of uint8, shape (H, W, 3)
            BGR; not changed.
        found : sequence of Face
            One at least.
        seed, first_image
            As for :meth:`CardPurifier.purify_on_card`.
        paste : bool
            Whether faces are put back.
        colour : {"keep", "grey"}
            See :func:`immunecam.runtime.faces.paste`.

        Raises
        ------
        InputError
            As :meth:`CardPurifier.purify`, or if the frame or a face's landmarks cannot be used.
        UsageError
            For another colour mode, or if the purifier is closed.
        """
        from immunecam.runtime import faces as face_tools  # imports OpenCV, which purifying crops does not need

        face_tools.check_frame(frame)
        face_tools.check_colour(colour)
        matrices = np.stack([face_tools.similarity(face.landmarks) for face in found])
        n, k = len(matrices), self._card.k
        first = first_image(n) if callable(first_image) else first_image
        height, width = frame.shape[:2]
        region = paste_region(FrameOnCard(0, width, height, 3 * width), matrices)  # looks at the matrices, too
        region = region if paste else None
        back = np.stack([np.linalg.inv(np.vstack([matrix, (0.0, 0.0, 1.0)]))[:2] for matrix in matrices])
        with self._card.slot() as slot:
            rooms = {"frame": frame.size, "crops": 3 * n * _D, "numbers": 16 * n + 8, "purified": n * _D,
                     "probabilities": 4 * n * k}  # fmt: skip
            for name, size in rooms.items():
                slot.room(name, size)
            np.copyto(slot.room("frame", frame.size).reshape(frame.shape), frame)
            with self._card.launching(n):
                self._launch(frame, matrices, back, slot, seed, first, region, colour == "grey")
            self._card.wait(slot, n)
            p = slot.room("probabilities", 4 * n * k).view(np.float32).reshape(n, k)
            return PurifiedFrame(
                _with_rows(frame, slot, region),
                slot.room("crops", 3 * n * _D).reshape(n, _SIDE, _SIDE, 3).copy(),
                slot.room("purified", n * _D).reshape(n, _SIDE, _SIDE).copy(),
                without_rounding(p).copy(),
                first,
            )

    def _close(self) -> None:
        while self._held:
            self._held.popitem()[1].close()
        self._kernels.close()

    def _launch(
        self,
        frame: NDArray[np.uint8],
        matrices: NDArray[np.float64],
        back: NDArray[np.float64],
        slot: Slot,
        seed: int,
        first_image: int,
        region: tuple[int, int, int, int] | None,
        grey: bool,
    ) -> None:
        card, stream, integrated = self._card, self._stream, self._card.programs.card.integrated
        n, (height, width) = len(matrices), frame.shape[:2]
        staged = slot.place("frame", frame.size)
        picture = staged if integrated else part(self._room("frame", frame.size), frame.size)
        crops = slot.place("crops", 3 * n * _D) if integrated else part(self._room("crops", 3 * n * _D), 3 * n * _D)
        purified = part(self._room("purified", n * _D), n * _D)
        if not integrated:
            staged.copy_to(picture, stream=stream)
        place = FrameOnCard(int(picture.handle), width, height, 3 * width)
        parts = [(start, min(card.max_batch, n - start)) for start in range(0, n, card.max_batch)]
        # All are cut out and purified before the first is put back: faces may overlap.
        for start, count in parts:
            card.pipeline.begin(count, slot, seed, first_image + start, at=start)
            faces, colours = int(card.pipeline.kernels.faces.handle), int(crops.handle) + 3 * start * _D
            self._kernels.align(place, back[start : start + count], faces, crops=colours, stream=stream)
            card.pipeline.run(count)
            card.pipeline.give(count, part(purified, count * _D, start * _D))
            card.pipeline.end(count, slot, probabilities=True, at=start)
        purified.copy_to(slot.place("purified", n * _D), stream=stream)
        if not integrated:
            crops.copy_to(slot.place("crops", 3 * n * _D), stream=stream)
        if region is not None:
            for start, count in parts:
                pixels = int(purified.handle) + start * _D
                self._kernels.paste(place, matrices[start : start + count], pixels, grey=grey, stream=stream)
            if not integrated:
                _, top, _, rows = region
                size, offset = 3 * width * rows, 3 * width * top
                part(picture, size, offset).copy_to(slot.place("frame", size, offset), stream=stream)
        stream.record(slot.done)

    def _room(self, name: str, size: int) -> Any:
        """Memory of the card by name, which grows with what is asked."""
        held = self._held.get(name)
        if held is None or held.size < size:
            advice = "give a smaller frame, or close another user of it"
            made = allocate(self._device, size, stream=self._stream, advice=advice)
            if held is not None:
                held.close()
            self._held[name] = held = made
        return held


def _with_rows(frame: NDArray[np.uint8], slot: Slot, region: tuple[int, int, int, int] | None) -> NDArray[np.uint8]:
    """The frame with the rows that were pasted into; itself if there are none."""
    if region is None:
        return frame
    _, top, _, rows = region
    result: NDArray[np.uint8] = frame.copy()
    result[top : top + rows] = slot.room("frame", frame.size).reshape(frame.shape)[top : top + rows]
    return result
