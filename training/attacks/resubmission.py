"""Resubmission: a face that a sampling defence stops today may pass it tomorrow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from immunecam.training.attacks.base import FaceAttack, best_of, check_count
from immunecam.training.attacks.goals import Goal

__all__ = ["Resubmission", "resubmitted"]


def resubmitted(goal: Goal, faces: Tensor, tries: int = 10) -> Tensor:
    """(N,) whether any of `tries` presentations of the same faces reaches the goal.

    The goal's `embed` is the system as it stands, which draws an antibody at every call; against a deterministic one
    ten tries are as good as one.
    """
    if tries < 1:
        raise ValueError(f"tries must be at least 1, got {tries}")
    reached = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
    for _ in range(tries):
        left = torch.nonzero(~reached).flatten()
        if not len(left):
            break
        reached[left] = goal.of(left).reached(faces[left])
    return reached


@dataclass(frozen=True)
class Resubmission(FaceAttack):
    """An attacker who crafts several faces, keeps for each victim the one that does best, and submits that one often.

    What it returns is that face; `resubmitted` plays the submissions.

    Attributes
    ----------
    attack : FaceAttack
        How a face is crafted.
    candidates : int
        How many are crafted for each.
    """

    attack: FaceAttack
    candidates: int = 2

    def __post_init__(self) -> None:
        check_count(self, "candidates")

    @property
    def norm(self) -> str:  # type: ignore[override]
        """Of the attack that crafts the faces."""
        return self.attack.norm

    def _run(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        return best_of(self.candidates, goal, lambda: self.attack(goal, faces, epsilon))
