"""Who is on the training faces: a number for everybody who is there more than once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from immunecam.errors import InputError
from immunecam.training.faces import FaceSet

__all__ = ["NOBODY", "People", "person_of", "without"]

NOBODY = -1


def person_of(name: str) -> str:
    """The first part of a face's path, or nothing where it lies in no folder."""
    return name.partition("/")[0] if "/" in name else ""


def without(faces: FaceSet, people: Collection[str]) -> FaceSet:
    """The faces of everybody else.

    Raises
    ------
    InputError
        If nobody is left.
    """
    kept = [number for number, name in enumerate(faces.names) if person_of(name) not in people]
    if not kept:
        raise InputError(
            f"of {len(faces)} faces none is left without the {len(people)} people held out: give more faces"
        )
    return FaceSet(faces.pixels[kept], tuple(faces.names[number] for number in kept))


@dataclass(frozen=True, eq=False)
class People:
    """Labels of faces.

    Attributes
    ----------
    labels : Tensor
        (N,) int64; `NOBODY` for a person with one picture only, of whom nothing can be told but how a teacher sees it.
    count : int
        People with several pictures.
    """

    labels: Tensor
    count: int

    @classmethod
    def of(cls, faces: FaceSet) -> People:
        """By the folders that the faces lie in."""
        pictures: dict[str, int] = {}
        for name in faces.names:
            pictures[person_of(name)] = pictures.get(person_of(name), 0) + 1
        several = sorted(person for person, count in pictures.items() if person and count > 1)
        number = {person: place for place, person in enumerate(several)}
        return cls(torch.tensor([number.get(person_of(name), NOBODY) for name in faces.names]), len(several))

    def check(self) -> None:
        """Refuse a set that ArcFace cannot learn from.

        Raises
        ------
        InputError
            If fewer than two people have several pictures.
        """
        if self.count < 2:
            raise InputError(
                f"{len(self.labels)} faces show {self.count} people more than once, but ArcFace needs at least 2: give "
                "a folder for each person with several pictures, or train by distillation alone (arcface 0)"
            )
