"""Faces into the networks' range and back to pixels, against the same on the CPU, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.kernels import dequantize_faces, quantize_faces
from immunecam.kernels.cuda import Fault, PixelKernels, Programs
from immunecam.kernels.cuda.staging import Staging

__all__ = ["check_pixels", "pixel_failures"]

_POISON = 0xA5
_BEYOND = 1.2  # of [-1, 1], that restored faces reach and given ones must not


def check_pixels(
    programs: Programs, stream: Any, *, side: int = 112, batches: tuple[int, ...] = (1, 33, 128)
) -> Iterator[dict[str, Any]]:
    """Random faces whose rows lie apart, with good and with bad values, through every kernel of pixels.cu.

    Yields
    ------
    dict
        "kernel", "batch", "differing" (values that are not the CPU's), "faults" and "faults_expected".
    """
    rng, d, pitch = np.random.default_rng(), side * side, side + 5
    kernels = PixelKernels(programs, d, side)
    for n in batches:
        pixels = rng.integers(0, 256, (n, side, pitch), dtype=np.uint8)
        faces = rng.uniform(-1, 1, (n, side, pitch)).astype(np.float32)
        faces[..., side:] = np.nan  # between rows; a kernel that reads it reports it
        wild = faces.copy()
        wild[-1, -1, side - 1], wild[0, 0, 0] = np.inf, 2.0
        restored = rng.uniform(-_BEYOND, _BEYOND, (n, side, side)).astype(np.float32)
        wrong = restored.copy()
        wrong[-1, -1, -1] = np.nan
        bad = Fault.FACE_NOT_FINITE | Fault.FACE_OUT_OF_RANGE
        for name, given, wanted, faults in (
            ("take, uint8", pixels, dequantize_faces(pixels[..., :side]), Fault(0)),
            ("take, float32", faces, faces[..., :side], Fault(0)),
            ("take, float32, bad", wild, wild[..., :side], bad),
            ("quantize", restored, quantize_faces(restored), Fault(0)),
            ("quantize, NaN", wrong, quantize_faces(np.nan_to_num(wrong, nan=-1.0)), Fault.RESTORED_NAN),
        ):
            found, told = _run(programs, kernels, stream, given, wanted, (side * pitch, pitch))
            yield {
                "kernel": name,
                "batch": n,
                "differing": int((found != wanted).sum()),
                "faults": told,
                "faults_expected": int(faults),
            }


def pixel_failures(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row, if anything."""
    found = []
    if row["differing"]:
        found.append(f"{row['differing']} values are not the CPU's")
    if row["faults"] != row["faults_expected"]:
        found.append(f"the faults that it reports are {row['faults']}, not {row['faults_expected']}")
    return found


def _run(
    programs: Programs,
    kernels: PixelKernels,
    stream: Any,
    given: NDArray[Any],
    wanted: NDArray[Any],
    steps: tuple[int, int],
) -> tuple[NDArray[Any], int]:
    """What a kernel makes of an array, in the shape and dtype of what is wanted, and the word of its faults."""
    n, sizes = len(given), (given.nbytes, wanted.nbytes, 4)
    buffers = [programs.device.memory_resource.allocate(size, stream=stream) for size in sizes]
    staging = [Staging(size) for size in sizes]
    source, target, faults = buffers
    staging[0].put(given, source, stream=stream)
    target.fill(_POISON, stream=stream)
    faults.fill(0, stream=stream)
    if wanted.dtype == np.uint8:
        kernels.quantize(n, int(source.handle), int(target.handle), faults=faults, stream=stream)
    else:
        into = int(target.handle)
        kernels.take(n, int(source.handle), given.dtype.name, into, steps=steps, faults=faults, stream=stream)
    found = staging[1].get(target, stream=stream).view(wanted.dtype).reshape(wanted.shape)
    told = int(staging[2].get(faults, stream=stream).view(np.uint32)[0])
    for held in (*buffers, *staging):
        held.close()
    return found, told
