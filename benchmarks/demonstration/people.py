"""Who is shown: the pictures that they are enrolled with, and those that they come with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation.pairs import read_table
from immunecam.errors import InputError
from immunecam.runtime.bundle import default_bundle
from immunecam.runtime.faces import SIDE, FaceFinder, align, face_finder
from immunecam.runtime.frames import FrameSource
from immunecam.runtime.frames.picture import PICTURE_SUFFIXES, read_picture
from immunecam.training.faces import FaceSet, from_uint8, to_uint8
from immunecam.training.resampling import Resampling

__all__ = ["JUDGED_FOLD", "People"]

JUDGED_FOLD = 8
"""Of LFW's pairs: nothing is fitted on it."""

_Faces = NDArray[np.uint8]

# Frames of the sample clip that are far apart, so that heads are turned and sized differently.
_ENROLLED_FRAME, _PROBE_FRAME = 0, 24


@dataclass(frozen=True, eq=False)
class People:
    """Two aligned faces of each person.

    Attributes
    ----------
    names : tuple of str
        As they are shown.
    enrolled, probes : ndarray of uint8
        (N, 112, 112) grey.
    origin : str
        Where they are from, as a part of a sentence.
    """

    names: tuple[str, ...]
    enrolled: _Faces
    probes: _Faces
    origin: str

    def __len__(self) -> int:
        return len(self.names)

    def of(self, chosen: Sequence[int]) -> People:
        """Some of them."""
        rows = list(chosen)
        return People(tuple(self.names[n] for n in rows), self.enrolled[rows], self.probes[rows], self.origin)

    @classmethod
    def from_folder(cls, folder: Path, count: int) -> People:
        """The first people of a folder: a folder of pictures each, or a picture each.

        Of a folder the first two pictures count. A person with one picture comes with that one once more, as it comes
        out of a frame in which it was turned and resized (torch's random numbers): hardly another. Pictures of 112x112
        are taken for aligned faces.

        Raises
        ------
        InputError
            If it is no folder, shows fewer than two people, or a picture has no face.
        """
        if not folder.is_dir():
            raise InputError(f"the faces {str(folder)!r} are no folder: give one with a folder or a picture per person")
        found = [(path.stem if path.is_file() else path.name, _pictures(path)[:2]) for path in sorted(folder.iterdir())]
        listed = [(name, pictures) for name, pictures in found if pictures][:count]
        if len(listed) < 2:
            raise InputError(
                f"{str(folder)!r} shows {len(listed)} people, but two are needed to impersonate: give a folder or a "
                f"picture ({', '.join(PICTURE_SUFFIXES)}) for each"
            )
        finder, enrolled, probes = face_finder(), [], []
        for _, pictures in listed:
            faces = [_face(path, finder) for path in pictures]
            enrolled.append(faces[0])
            probes.append(faces[1] if len(faces) > 1 else _seen_again(faces[0]))
        single = sum(len(pictures) == 1 for _, pictures in listed)
        again = f", {single} of them with one picture, seen again turned and resized" if single else ""
        names = tuple(_shown(name) for name, _ in listed)
        return cls(names, np.stack(enrolled), np.stack(probes), f"{len(listed)} people of {folder.name}{again}")

    @classmethod
    def from_data(cls, data: Path, count: int) -> People:
        """The first people of LFW's same pairs of the fold that nothing is fitted on.

        Raises
        ------
        InputError
            If `data` lacks lfw/dev_112.zip or lfw/pairs.csv, or two people in them.
        """
        lfw = data / "lfw"
        faces = FaceSet.load(lfw / "dev_112.zip")
        number = {name: index for index, name in enumerate(faces.names)}
        chosen: dict[str, tuple[int, int]] = {}
        for left, right, same in read_table(lfw / "pairs.csv", range(JUDGED_FOLD, JUDGED_FOLD + 1)):
            person = left.rpartition("/")[0]
            if same and left in number and right in number and person not in chosen and len(chosen) < count:
                chosen[person] = number[right], number[left]
        if len(chosen) < 2:
            raise InputError(
                f"{str(data)!r} has {len(chosen)} people in pairs of fold {JUDGED_FOLD}: wanted two or more"
            )
        pixels, rows = faces.pixels.numpy(), np.array(list(chosen.values()))
        names = tuple(_shown(name) for name in chosen)
        return cls(names, pixels[rows[:, 0]], pixels[rows[:, 1]], f"{len(chosen)} people of LFW fold {JUDGED_FOLD}")

    @classmethod
    def from_clip(cls) -> People:
        """The three people of the installed clip, who do not exist, in two of its frames.

        Two of them carry traces of an attack already (see `sample_clip`), which compression has weakened.

        Raises
        ------
        InputError
            If they are not found.
        """
        finder, seen = face_finder(), []
        with FrameSource.open(default_bundle().with_name("sample.mp4")) as clip:
            for frame in clip:
                if frame.index in (_ENROLLED_FRAME, _PROBE_FRAME):
                    faces = sorted(finder.find(frame.image), key=lambda face: float(face.box[0]))
                    if len(faces) != 3:
                        raise InputError(f"{len(faces)} of three faces were found in the installed clip: give --faces")
                    seen.append(np.stack([_grey(crop) for crop in align(frame.image, faces).crops]))
                if frame.index >= _PROBE_FRAME:
                    break
        names = ("left", "middle", "right")
        return cls(names, seen[0], seen[1], "the three drawn people of the installed clip")


def _pictures(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file()]


def _face(path: Path, finder: FaceFinder) -> _Faces:
    """The largest face of a picture, aligned."""
    picture = read_picture(path)
    if picture.shape[:2] == (SIDE, SIDE):
        return _grey(picture)
    found = finder.find(picture)
    if not found:
        raise InputError(f"no face is found in {str(path)!r}: give a picture that shows one from the front")
    largest = max(found, key=lambda face: float(face.box[2] * face.box[3]))
    return _grey(align(picture, [largest]).crops[0])


def _grey(crop: NDArray[np.uint8]) -> _Faces:
    return np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), np.uint8)


def _seen_again(face: _Faces) -> _Faces:
    again = Resampling(1)(from_uint8(torch.from_numpy(face[None])))
    return np.asarray(to_uint8(again)[0].numpy(), np.uint8)


def _shown(name: str) -> str:
    """A name that fits below a picture."""
    words = " ".join(re.sub(r"[_\s]+", " ", name).split())
    return words if len(words) <= 22 else words[:21] + "…"
