"""One attack after another, as in AutoAttack (Croce & Hein, ICML 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from immunecam.training.attacks.base import FaceAttack
from immunecam.training.attacks.goals import Goal

__all__ = ["continued"]


def continued(
    attack: FaceAttack, goal: Goal, faces: Tensor, epsilon: float, tried: Tensor, *, margin: float = 0.0
) -> Tensor:
    """Attacked faces, given what an earlier attack has made of them.

    Parameters
    ----------
    attack, goal, faces, epsilon
        As for a call of the attack.
    tried : Tensor
        (N, H, W) faces of the earlier attack, within the same budget.
    margin : float
        Cosine beyond the threshold from which such a face is kept; the others are attacked from the start, and the
        better result counts.

    Returns
    -------
    Tensor
        (N, H, W) in [-1, 1], 8-bit values within the budget.
    """
    left = torch.nonzero(~goal.by(margin).reached(tried)).flatten()
    if not len(left):
        return tried
    rest, out = goal.of(left), tried.clone()
    found = attack(rest, faces[left], epsilon)
    with torch.no_grad():
        better = rest(found) > rest(tried[left])
    out[left[better]] = found[better]
    return out
