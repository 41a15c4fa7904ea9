"""The face pictures that spoofs are made of: compressed as they came, each with five points."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError

__all__ = ["TEMPLATE", "FacePictures"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".pgm")
_ALIGNED = 112

# ArcFace (Deng et al., CVPR 2019), for aligned 112 x 112 faces: eyes, nose, mouth corners.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


@dataclass(frozen=True)
class FacePictures:
    """Square pictures of one face each.

    Attributes
    ----------
    data : tuple of bytes
        JPEG, PNG, BMP or PGM files; decoded when wanted, for thousands of pictures would not fit otherwise.
    names : tuple of str
        Paths inside the folder or archive; the first part is the person where there are folders.
    points : ndarray
        (N, 5, 2) pixels: image-left eye, image-right eye, nose, mouth corners.
    """

    data: tuple[bytes, ...]
    names: tuple[str, ...]
    points: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.names)

    def decode(self, number: int) -> tuple[NDArray[np.uint8], bool]:
        """(H, H, 3) RGB pixels of a picture, and whether it is grey.

        Raises
        ------
        InputError
            If it cannot be decoded, is not square, or is smaller than 64 px.
        """
        found = cv2.imdecode(np.frombuffer(self.data[number], np.uint8), cv2.IMREAD_COLOR)
        if found is None:
            raise InputError(f"face {self.names[number]!r} is not a readable picture: replace or remove it")
        if found.shape[0] != found.shape[1] or found.shape[0] < 64:
            raise InputError(
                f"face {self.names[number]!r} is {found.shape[1]}x{found.shape[0]}: "
                "crop it to a square of 64 px or more first"
            )
        pixels: NDArray[np.uint8] = found[..., ::-1]
        return pixels, bool((found[..., 0] == found[..., 1]).all() and (found[..., 1] == found[..., 2]).all())

    def joined(self, other: FacePictures) -> FacePictures:
        """These and others."""
        return FacePictures(
            self.data + other.data, self.names + other.names, np.concatenate([self.points, other.points])
        )

    @classmethod
    def load(cls, path: str | Path, points: str | Path | None = None) -> FacePictures:
        """Read a folder or .zip of face pictures, sorted by name.

        Parameters
        ----------
        path : path
            Folder (searched below) or archive.
        points : path, optional
            .npz with `names` (M,) and `points` (M, 5, 2); pictures that it does not name are left out. Default: the
            pictures are aligned to ArcFace's template at 112x112.

        Raises
        ------
        InputError
            If there is nothing of that kind, or it cannot be read.
        """
        path = Path(path)
        try:
            if path.is_dir():
                files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
                found = {p.relative_to(path).as_posix(): p.read_bytes() for p in files}
            elif path.is_file() and zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    found = {n: archive.read(n) for n in sorted(archive.namelist()) if n.lower().endswith(_SUFFIXES)}
            else:
                raise InputError(
                    f"face pictures {str(path)!r} are neither a folder nor a zip archive: give one of these"
                )
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"face pictures {str(path)!r} cannot be read ({error}): replace the damaged one") from None
        places = dict.fromkeys(found, TEMPLATE) if points is None else _read_points(Path(points))
        names = tuple(name for name in found if name in places)
        if not names:
            raise InputError(f"no face pictures in {str(path)!r}: wanted {', '.join(_SUFFIXES)} files with five points")
        pictures = cls(tuple(found[n] for n in names), names, np.stack([places[n] for n in names]))
        if points is None:
            pixels, _ = pictures.decode(0)
            if len(pixels) != _ALIGNED:
                raise InputError(
                    f"face {names[0]!r} in {str(path)!r} is {len(pixels)} px wide and no points are given: "
                    "give an .npz of five points, or faces aligned at 112x112"
                )
        return pictures


def _read_points(path: Path) -> dict[str, NDArray[np.float64]]:
    if path.is_file() and not zipfile.is_zipfile(path):  # NumPy would advise to unpickle it
        raise InputError(f"points {str(path)!r} are no .npz file: give one of names and points (N, 5, 2)")
    try:
        with np.load(path, allow_pickle=False) as content:
            names, points = content["names"], np.asarray(content["points"], np.float64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"points {str(path)!r} cannot be read ({error}): give an .npz of names and points") from None
    if points.shape != (len(names), 5, 2) or not np.isfinite(points).all():
        raise InputError(
            f"points {str(path)!r} have shape {points.shape}, but {(len(names), 5, 2)} is wanted, all finite"
        )
    return {str(name): place for name, place in zip(names, points, strict=True)}
