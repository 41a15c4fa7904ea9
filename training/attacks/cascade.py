"""One attack after another, as in AutoAttack (Croce & Hein, ICML 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from immunecam.training.attacks.base import FaceAttack
from immunecam.training.attacks.drawn import always_reached, mean_loss
from immunecam.training.attacks.goals import Goal

__all__ = ["continued"]


def continued(
    attack: FaceAttack,
    goal: Goal,
    faces: Tensor,
    epsilon: float,
    tried: Tensor,
    *,
    margin: float = 0.0,
    draws: int = 1,
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
    draws : int
        Of a goal that draws: a face is kept if it is beyond in all of them, and better is better on their mean.

    Returns
    -------
    Tensor
        (N, H, W) in [-1, 1], 8-bit values within the budget.
    """
    left = torch.nonzero(~always_reached(goal.by(margin), tried, draws)).flatten()
    if not len(left):
        return tried
    rest, out = goal.of(left), tried.clone()
    found = attack(rest, faces[left], epsilon)
    better = mean_loss(rest, found, draws) > mean_loss(rest, tried[left], draws)
    out[left[better]] = found[better]
    return out
