"""Auto-PGD (Croce & Hein, ICML 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from immunecam.training.attacks.base import LinfAttack, best_of, check_count, linf_box
from immunecam.training.attacks.goals import Goal

__all__ = ["APGD", "checkpoints"]


def checkpoints(steps: int) -> list[int]:
    """Steps at which the step size may be halved: ``w_j = ceil(p_j steps)``, ``p = 0, .22, +max(last - .03, .06)``."""
    points = [0.0, 0.22]
    while points[-1] < 1:
        points.append(points[-1] + max(points[-1] - points[-2] - 0.03, 0.06))
    return [math.ceil(round(p * steps, 6)) for p in points[1:] if p <= 1]


@dataclass(frozen=True)
class APGD(LinfAttack):
    """PGD with momentum whose step size halves, face by face, where the loss stops rising.

    It climbs the cosine itself. The paper's other losses mend the cross-entropy of many classes, which vanishes when a
    network is sure; a cosine has a slope everywhere.

    Attributes
    ----------
    steps, restarts : int
        Gradient steps; attempts of which the best is kept.
    rho : float
        A step size is halved unless the loss rose in this fraction of the steps since the last checkpoint.
    draws : int
        Calls of the goal whose mean is climbed, for one that draws an antibody each time.
    """

    steps: int = 40
    restarts: int = 1
    rho: float = 0.75
    draws: int = 1

    def __post_init__(self) -> None:
        check_count(self, "steps", "restarts", "draws")
        if not 0 < self.rho < 1:
            raise ValueError(f"rho must be in (0, 1), got {self.rho}")

    def _run(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        return best_of(self.restarts, goal, lambda: self._climb(goal, faces, epsilon))

    def _climb(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        low, high = linf_box(faces, epsilon)
        x = torch.clamp(faces + epsilon * (2 * torch.rand_like(faces) - 1), low, high)
        loss, gradient = self._slope(goal, x)
        best, best_loss, best_gradient = x, loss, gradient
        size = torch.full((len(faces), 1, 1), 2 * epsilon, device=faces.device)
        halved_before = torch.zeros_like(loss, dtype=torch.bool)
        best_at_last, rises, last = best_loss, torch.zeros_like(loss), 0
        previous = x
        wanted = set(checkpoints(self.steps))
        for step in range(1, self.steps + 1):
            ahead = torch.clamp(x + size * gradient.sign(), low, high)
            momentum = 0.75 if step > 1 else 1.0
            moved = torch.clamp(x + momentum * (ahead - x) + (1 - momentum) * (x - previous), low, high)
            previous, x = x, moved
            before = loss
            loss, gradient = self._slope(goal, x)
            rises += (loss > before).float()
            better = loss > best_loss
            best_loss = torch.where(better, loss, best_loss)
            best = torch.where(better[:, None, None], x, best)
            best_gradient = torch.where(better[:, None, None], gradient, best_gradient)
            if step in wanted:
                too_few = rises < self.rho * (step - last)
                stuck = ~halved_before & (best_loss <= best_at_last)
                halve = too_few | stuck
                size = torch.where(halve[:, None, None], size / 2, size)
                # A face whose steps were too long goes back to its best point.
                x = torch.where(halve[:, None, None], best, x)
                loss = torch.where(halve, best_loss, loss)
                gradient = torch.where(halve[:, None, None], best_gradient, gradient)
                halved_before, best_at_last, rises, last = halve, best_loss, torch.zeros_like(rises), step
        return best

    def _slope(self, goal: Goal, x: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = torch.zeros(len(x), device=x.device), torch.zeros_like(x)
        for _ in range(self.draws):
            point = x.detach().requires_grad_(True)
            found = goal(point)
            (slope,) = torch.autograd.grad(found.sum(), point)
            loss, gradient = loss + found.detach() / self.draws, gradient + slope / self.draws
        return loss, gradient
