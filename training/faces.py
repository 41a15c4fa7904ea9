"""Training faces: aligned 112x112 pictures from a folder or a zip, held in memory as 8-bit grey, or in colour."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from immunecam.errors import InputError

__all__ = ["FaceSet", "from_uint8", "to_uint8"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".pgm")
_SIDE = 112


def from_uint8(pixels: Tensor) -> Tensor:
    """8-bit grey levels to float32 in [-1, 1]: ``x = u / 127.5 - 1``."""
    return pixels.float() / 127.5 - 1


def to_uint8(faces: Tensor) -> Tensor:
    """Faces in [-1, 1], clipped and rounded to 8-bit grey levels."""
    return ((faces + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class FaceSet:
    """Aligned faces and their names.

    Attributes
    ----------
    pixels : Tensor
        (N, 112, 112) uint8 grey, or (N, 3, 112, 112) RGB where colour was asked for.
    names : tuple of str
        Paths inside the folder or archive; the first part is the identity where there are folders.
    """

    pixels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sha256(self) -> str:
        """Of the pixels, computed anew each time: what a run or a bank says that it was made of."""
        return hashlib.sha256(self.pixels.contiguous().numpy().tobytes()).hexdigest()

    def batches(self, size: int) -> Iterator[Tensor]:
        """Float faces in [-1, 1], `size` at a time, in order."""
        for start in range(0, len(self), size):
            yield from_uint8(self.pixels[start : start + size])

    @classmethod
    def load(
        cls, path: str | Path, *, colour: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> FaceSet:
        """Read every picture of a folder or a .zip, sorted by name.

        Parameters
        ----------
        path : path
            Folder (searched below) or zip archive of aligned 112x112 pictures; colour becomes grey.
        colour : bool
            Keep it; grey pictures then have three equal planes.
        progress : callable, optional
            Called with (done, total).

        Raises
        ------
        InputError
            If nothing is there, a picture cannot be decoded, or one is not 112x112.
        """
        path = Path(path)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
            return cls._decode(
                path,
                [p.relative_to(path).as_posix() for p in files],
                lambda name: (path / name).read_bytes(),
                colour,
                progress,
            )
        if not path.is_file():
            raise InputError(f"training faces {str(path)!r} do not exist: give a folder or a .zip of 112x112 faces")
        if not zipfile.is_zipfile(path):
            raise InputError(f"training faces {str(path)!r} are neither a folder nor a zip archive: give one of these")
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.lower().endswith(_SUFFIXES))
            return cls._decode(path, names, archive.read, colour, progress)

    @classmethod
    def _decode(
        cls,
        path: Path,
        names: list[str],
        read: Callable[[str], bytes],
        colour: bool,
        progress: Callable[[int, int], None] | None,
    ) -> FaceSet:
        if not names:
            raise InputError(f"no pictures in {str(path)!r}: wanted {', '.join(_SUFFIXES)} files of 112x112 faces")
        pixels = np.empty((len(names), *([3] if colour else []), _SIDE, _SIDE), np.uint8)
        for number, name in enumerate(names):
            try:
                data = np.frombuffer(read(name), np.uint8)
            except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # damaged, encrypted, forbidden
                raise InputError(
                    f"face {name!r} in {str(path)!r} cannot be read ({error}): replace or remove it"
                ) from None
            image = cv2.imdecode(data, cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE) if data.size else None
            if image is None:
                raise InputError(f"face {name!r} in {str(path)!r} is not a readable picture: replace or remove it")
            if image.shape[:2] != (_SIDE, _SIDE):
                raise InputError(
                    f"face {name!r} in {str(path)!r} is {image.shape[1]}x{image.shape[0]}: "
                    f"align it to the ArcFace template at {_SIDE}x{_SIDE} first"
                )
            pixels[number] = image[..., ::-1].transpose(2, 0, 1) if colour else image
            if progress is not None:
                progress(number + 1, len(names))
        return cls(torch.from_numpy(pixels), tuple(names))
