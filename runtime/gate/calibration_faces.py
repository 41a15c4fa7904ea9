"""The faces that a gate is calibrated on: a folder with a folder for each person, or a list of pairs."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.runtime.faces import SIDE
from immunecam.runtime.frames.picture import PICTURE_SUFFIXES, read_picture
from immunecam.runtime.gate.observer import FaceObserver
from immunecam.runtime.gate.quality import PROBE, QualityLimits, assess

__all__ = ["CalibrationFaces", "read_pairs"]


@dataclass(frozen=True, eq=False)
class CalibrationFaces:
    """Aligned faces and who they are.

    Attributes
    ----------
    names : list of str
        Paths below the folder, with "/".
    people : ndarray of int, shape (N,)
        Numbers of people: the first part of a name.
    crops : ndarray of uint8, shape (N, 112, 112, 3)
        BGR.
    skipped : dict of str to str
        Pictures that no probe would have been taken from, and why.
    """

    names: list[str]
    people: NDArray[np.intp]
    crops: NDArray[np.uint8] = field(repr=False)
    skipped: dict[str, str]

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        observer: FaceObserver,
        *,
        aligned: bool = False,
        limits: QualityLimits = PROBE,
        only: set[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CalibrationFaces:
        """Read every picture below a folder and take its largest face, as the gate would.

        Parameters
        ----------
        folder : path
        observer : FaceObserver
            Its finder is used.
        aligned : bool
            Pictures are 112x112 faces in the ArcFace template already; they are taken as they are.
        limits : QualityLimits
            Faces that the gate would not compare say nothing about its errors.
        only : set of str, optional
            Names to read, in place of all.
        progress : callable, optional
            Called with (done, total).

        Raises
        ------
        InputError
            If there is no picture, one cannot be read or is not 112x112 though aligned, or no face is left.
        """
        root = Path(folder)
        if not root.is_dir():
            raise InputError(f"{str(root)!r} is no folder: give one with a folder of pictures for each person")
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())
        named = [(file.relative_to(root).as_posix(), file) for file in files]
        if only is not None:
            missing = sorted(only - {name for name, _ in named})
            if missing:
                raise InputError(
                    f"{str(root)!r} lacks {missing[0]!r}, which the list of pairs names, and {len(missing) - 1} more"
                )
            named = [(name, file) for name, file in named if name in only]
        names: list[str] = []
        crops: list[NDArray[np.uint8]] = []
        skipped: dict[str, str] = {}
        for done, (name, file) in enumerate(named, 1):
            picture = read_picture(file)
            if progress is not None:
                progress(done, len(named))
            if aligned:
                if picture.shape[:2] != (SIDE, SIDE):
                    size = f"{picture.shape[1]}x{picture.shape[0]}"
                    raise InputError(
                        f"the picture {str(file)!r} has {size} pixels, but aligned faces have {SIDE}x{SIDE}"
                    )
                names.append(name)
                crops.append(picture)
                continue
            found = observer.sightings(picture)
            if not found:
                skipped[name] = "no face"
                continue
            largest = max(found, key=lambda seen: float(seen.face.box[2] * seen.face.box[3]))
            quality = assess(largest.crop, largest.face, limits)
            if not quality.good:
                skipped[name] = "; ".join(quality.reasons)
                continue
            names.append(name)
            crops.append(largest.crop)
        if not names:
            raise InputError(
                f"{str(root)!r} holds no face to calibrate on ({len(named)} pictures): give pictures of people"
            )
        _, people = np.unique([name.split("/")[0] for name in names], return_inverse=True)
        return cls(names, people.astype(np.intp), np.stack(crops), skipped)


def read_pairs(path: str | os.PathLike[str]) -> list[tuple[str, str, bool]]:
    """Pairs of a CSV file with the columns left, right and same (1 or 0); others are not looked at.

    Raises
    ------
    InputError
        If it cannot be read, or is no such table.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [(row["left"], row["right"], {"1": True, "0": False}[row["same"]]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(
            f"{os.fspath(path)!r} is no table of pairs ({type(error).__name__}: {error}): wanted a CSV file with the "
            "columns left, right, same (1 or 0)"
        ) from None
