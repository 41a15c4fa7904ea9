"""Batches of training faces, mirrored, moved and lit anew, with their labels and what the teacher sees in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.masking.people import People
from immunecam.training.masking.teacher import TeacherEmbeddings

__all__ = ["Batch", "draw_batch"]

_SHIFT = 2  # pixels by which a face is moved at most


@dataclass(frozen=True, eq=False)
class Batch:
    """Some faces.

    Attributes
    ----------
    faces : Tensor
        (N, 112, 112) or (N, 3, 112, 112) in [-1, 1].
    labels : Tensor
        (N,) int64.
    targets : Tensor or None
        (N, E), the teacher's.
    """

    faces: Tensor
    labels: Tensor
    targets: Tensor | None


def draw_batch(
    faces: FaceSet,
    people: People,
    teacher: TeacherEmbeddings | None,
    size: int,
    augment: bool,
    device: torch.device,
) -> Batch:
    """`size` faces at random, from PyTorch's generator."""
    chosen = torch.randint(len(faces), (size,))
    pictures = from_uint8(faces.pixels[chosen])
    flipped = torch.zeros(size, dtype=torch.bool)
    if augment:
        flipped = torch.rand(size) < 0.5
        pictures[flipped] = pictures[flipped].flip(-1)
        for number, (x, y) in enumerate(torch.randint(-_SHIFT, _SHIFT + 1, (size, 2)).tolist()):
            # A roll by a few pixels; what comes in at the other side is as good a border as any.
            pictures[number] = pictures[number].roll((y, x), (-2, -1))
        shape = (size, *[1] * (pictures.ndim - 1))
        gain, offset = torch.empty(shape).uniform_(0.8, 1.2), torch.empty(shape).uniform_(-0.1, 0.1)
        pictures = (pictures * gain + offset).clamp(-1, 1)
    targets = None if teacher is None else teacher.at(chosen, flipped).to(device)
    return Batch(pictures.to(device), people.labels[chosen].to(device), targets)
