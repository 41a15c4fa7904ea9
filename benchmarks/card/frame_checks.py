"""Alignment and paste-back against the runtime's own on the CPU, and their times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.card.timing import time_replays
from immunecam.kernels.cuda import FrameKernels, FrameOnCard, Programs
from immunecam.kernels.cuda.frame_kernels import paste_region
from immunecam.kernels.cuda.staging import Staging

if TYPE_CHECKING:
    from immunecam.runtime.faces import Face

__all__ = ["check_frames", "frame_failures", "random_faces"]

_SIDE, _POISON = 112, 0xA5
# OpenCV samples at 1/32 of a pixel and rounds more often: grey levels, on average and at most in 99 % of the pixels.
_MEAN, _MOST = 1.0, 12


def check_frames(programs: Programs, stream: Any, frame: NDArray[np.uint8], faces: int = 4) -> Iterator[dict[str, Any]]:
    """Faces at random places of a frame (H, W, 3), cut out and pasted back in both layouts and both colour modes.

    Yields
    ------
    dict
        "kernel" (with the layout and what was asked of it), "mean_difference_grey", "p99_difference_grey", and of the
        launch alone "bytes" (what of the frame it reads and writes, faces and crops) and times.

    Raises
    ------
    ImportError
        Without OpenCV, which the runtime's alignment is made with.
    """
    from immunecam.runtime.faces import align

    rng = np.random.default_rng()
    height, width = (size // 2 * 2 for size in frame.shape[:2])  # as NV12 wants it
    frame = np.ascontiguousarray(frame[:height, :width])
    found = random_faces(height, width, faces, rng)
    purified = rng.integers(0, 256, (faces, 14, 14), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    on_card = _OnCard(programs, stream, align(frame, found).matrices, purified, frame.size)
    yield from _bgr(on_card, frame, found)
    for full_range in (True, False):
        yield from _nv12(on_card, frame, found, full_range, rng)
    on_card.close()


class _OnCard:
    """A frame of either layout on the card, and the launches that change it or cut faces out of it."""

    def __init__(
        self,
        programs: Programs,
        stream: Any,
        matrices: NDArray[np.float64],
        purified: NDArray[np.uint8],
        size: int,
    ) -> None:
        n = len(matrices)
        self.matrices, self.purified = matrices, purified
        self._stream = stream
        self._back = np.stack([np.linalg.inv(np.vstack([m, [0, 0, 1]]))[:2] for m in matrices])
        self._kernels = FrameKernels(programs, stream=stream, max_faces=n)
        sizes = {"frame": size, "purified": purified.size, "faces": 4 * purified.size, "crops": 3 * purified.size}
        memory = programs.device.memory_resource
        self._rooms = {name: (memory.allocate(size, stream=stream), Staging(size)) for name, size in sizes.items()}
        self._put("purified", purified)

    def place(self, width: int, height: int, layout: str, full_range: bool = False) -> FrameOnCard:
        """The frame, of which nothing lies between two rows."""
        pitch = 3 * width if layout == "bgr" else width
        return FrameOnCard(self._address("frame"), width, height, pitch, layout, full_range=full_range)

    def align(
        self, place: FrameOnCard, content: NDArray[np.uint8], *, colours: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], dict[str, Any]]:
        """Faces (N, 112, 112) in [-1, 1], their colours (N, 112, 112, 3) if asked for, and times."""
        n, faces, crops = len(self.matrices), self._address("faces"), self._address("crops") if colours else None
        self._put("frame", content)
        for name in ("faces", "crops"):
            self._rooms[name][0].fill(_POISON, stream=self._stream)
        self._kernels.align(place, self._back, faces, crops=crops, stream=self._stream)
        cut = self._get("faces").view(np.float32).reshape(n, _SIDE, _SIDE)
        timing = time_replays(
            self._stream, lambda i, to: self._kernels.launch_align(place, n, faces, crops=crops, stream=to)
        )
        seen = np.abs(np.linalg.det(self._back[:, :, :2])).sum() * _SIDE**2  # pixels of the frame, if all are in it
        pixel = 3 if place.layout == "bgr" else 1
        moved = pixel * min(int(seen), place.width * place.height) + n * _SIDE**2 * (4 + 3 * colours)
        return cut, self._get("crops").reshape(n, _SIDE, _SIDE, 3), {"bytes": moved, **timing.to_dict()}

    def paste(
        self, place: FrameOnCard, content: NDArray[np.uint8], *, grey: bool
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """The frame with the purified faces, in the shape of its content, and times where a face touches it."""
        n, purified = len(self.matrices), self._address("purified")
        self._put("frame", content)
        self._kernels.paste(place, self.matrices, purified, grey=grey, stream=self._stream)
        pasted = self._get("frame")[: content.size].reshape(content.shape)
        region = paste_region(place, self.matrices)
        if region is None:
            return pasted, {}
        timing = time_replays(
            self._stream, lambda i, to: self._kernels.launch_paste(place, n, region, purified, grey=grey, stream=to)
        )
        pixel = 3.0 if place.layout == "bgr" else 1.0 + 0.5 * grey
        moved = int(2 * pixel * region[2] * region[3]) + n * _SIDE**2
        return pasted, {"bytes": moved, **timing.to_dict()}

    def close(self) -> None:
        """Give the memory back."""
        self._kernels.close()
        for buffer, staging in self._rooms.values():
            buffer.close()
            staging.close()

    def _address(self, name: str) -> int:
        return int(self._rooms[name][0].handle)

    def _put(self, name: str, array: NDArray[np.uint8]) -> None:
        buffer, staging = self._rooms[name]
        staging.put(array, buffer, stream=self._stream)
        self._stream.sync()

    def _get(self, name: str) -> NDArray[np.uint8]:
        buffer, staging = self._rooms[name]
        return staging.get(buffer, stream=self._stream)


def _bgr(on_card: _OnCard, frame: NDArray[np.uint8], found: list[Face]) -> Iterator[dict[str, Any]]:
    from immunecam.runtime.faces import align, paste

    height, width = frame.shape[:2]
    place, aligned, batch = on_card.place(width, height, "bgr"), align(frame, found), {"batch": len(found)}
    cut, crops, timing = on_card.align(place, frame, colours=True)
    yield {"kernel": "align", **batch, **_difference(127.5 * (cut - aligned.grey)), **timing}
    yield {"kernel": "align, crops in colour", **batch, **_difference(crops.astype(float) - aligned.crops), **timing}
    for colour in ("keep", "grey"):
        wanted = paste(frame, on_card.purified, aligned.matrices, colour=colour)
        pasted, timing = on_card.paste(place, frame, grey=colour == "grey")
        changed = (wanted != frame).any(2)
        difference = _difference((pasted.astype(float) - wanted)[changed])
        yield {"kernel": f"paste, {colour}", **batch, **difference, **timing}


def _nv12(
    on_card: _OnCard, frame: NDArray[np.uint8], found: list[Face], full_range: bool, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """The frame's green as luminance, under random colours; OpenCV gets a grey picture of the same lightness."""
    from immunecam.runtime.faces import align, paste

    height, width = frame.shape[:2]
    scale, black = (1.0, 0.0) if full_range else (219 / 255, 16.0)  # of luminance, as BT.601 has it
    luminance = np.rint(frame[..., 1] * scale + black).astype(np.uint8)
    chroma = rng.integers(0, 256, (height // 2, width), dtype=np.uint8)
    content = np.vstack([luminance, chroma])
    lightness = np.clip(np.rint((luminance - black) / scale), 0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    place, aligned = on_card.place(width, height, "nv12", full_range), align(lightness, found)
    name, batch = f"NV12, {'full' if full_range else 'video'} range", {"batch": len(found)}
    cut, _, timing = on_card.align(place, content)
    yield {"kernel": f"align, {name}", **batch, **_difference(127.5 * (cut - aligned.grey)), **timing}

    matrices, purified = aligned.matrices, on_card.purified
    wanted = paste(lightness, purified, matrices, colour="grey")[..., 0] * scale + black
    # How much of a frame is left where faces are laid over it; colours are shared by four pixels, the least counts.
    left = paste(np.full_like(frame, 255), np.zeros_like(purified), matrices, colour="grey")[..., 0] / 255
    kept = left.reshape(height // 2, 2, width // 2, 2).min((1, 3)).repeat(2, 1)
    for colour, colours in (("keep", chroma), ("grey", 128 + kept * (chroma - 128.0))):
        pasted, timing = on_card.paste(place, content, grey=colour == "grey")
        wrong = np.concatenate([(pasted[:height] - wanted)[left < 1], (pasted[height:] - colours)[kept < 1]])
        yield {"kernel": f"paste, {colour}, {name}", **batch, **_difference(wrong), **timing}


def random_faces(height: int, width: int, count: int, rng: np.random.Generator) -> list[Face]:
    """Faces of half to twice the template's size, turned by up to half a radian, in a frame of that size."""
    from immunecam.runtime.faces import TEMPLATE, Face

    found = []
    for _ in range(count):
        turn = rng.uniform(0.5, 2.0) * np.exp(1j * rng.uniform(-0.5, 0.5))
        place = complex(rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height)
        points = (TEMPLATE[:, 0] - 56 + 1j * (TEMPLATE[:, 1] - 56)) * turn + place
        landmarks = np.stack([points.real, points.imag], 1).astype(np.float32)
        found.append(Face(np.array([0, 0, width, height], np.float32), landmarks, 1.0))
    return found


def frame_failures(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row, if anything."""
    found = []
    if row["mean_difference_grey"] > _MEAN:
        found.append(f"{row['mean_difference_grey']:.2f} grey levels from the CPU on average, above {_MEAN}")
    if row["p99_difference_grey"] > _MOST:
        found.append(f"{row['p99_difference_grey']:.1f} grey levels from the CPU in 1 % of the pixels, above {_MOST}")
    return found


def _difference(values: NDArray[np.floating]) -> dict[str, float]:
    size = np.abs(np.nan_to_num(values, nan=255.0))
    return {
        "mean_difference_grey": round(float(size.mean()), 4),
        "p99_difference_grey": round(float(np.percentile(size, 99)), 3),
    }
