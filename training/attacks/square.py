"""Square Attack (Andriushchenko et al., ECCV 2020): random squares, no gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from immunecam.training.attacks.base import LinfAttack, check_count, linf_box
from immunecam.training.attacks.goals import Goal

__all__ = ["Square", "area_schedule"]

# Queries, of a budget of 10,000, at which the squares' area is halved.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def area_schedule(first: float, query: int, queries: int) -> float:
    """Fraction of the picture that a square covers at a query, the paper's schedule scaled to the budget of queries."""
    return float(first / 2 ** sum(query / queries * 10_000 > point for point in _HALVINGS))


@dataclass(frozen=True)
class Square(LinfAttack):
    """Random search over squares of plus or minus the whole budget.

    It asks for nothing but cosines, so a defence that hides its gradient does not hide from it. A face that reached its
    goal is asked about no more.

    Attributes
    ----------
    queries : int
        Most calls of the goal.
    first_area : float
        Of the first squares, as a fraction of the picture.
    margin : float
        Distance beyond the threshold, in cosine, at which a face is left alone; 0 stops at the first success.
    """

    queries: int = 1000
    first_area: float = 0.3
    margin: float = 0.0

    def __post_init__(self) -> None:
        check_count(self, "queries")
        if not 0 < self.first_area <= 1:
            raise ValueError(f"first_area must be in (0, 1], got {self.first_area}")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin must be finite and at least 0, got {self.margin}")

    @torch.no_grad()
    def _run(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        low, high = linf_box(faces, epsilon)
        side = faces.shape[-1]
        enough = self.margin + (goal.threshold if goal.impersonate else -goal.threshold)
        # Stripes of full height, the paper's start.
        stripes = torch.randint(0, 2, (len(faces), 1, side), device=faces.device) * 2.0 - 1
        best = torch.clamp(faces + epsilon * stripes, low, high)
        loss = goal(best)
        for query in range(1, self.queries):
            left = torch.nonzero(loss <= enough).flatten()
            if not len(left):
                break
            area = area_schedule(self.first_area, query, self.queries)
            size = min(min(faces.shape[1:]) - 1, max(1, round((area * faces.shape[1] * side) ** 0.5)))
            tried = best[left].clone()
            for row, face in enumerate(left.tolist()):
                top = int(torch.randint(0, faces.shape[1] - size + 1, ()))
                start = int(torch.randint(0, side - size + 1, ()))
                sign = 1.0 if float(torch.rand(())) < 0.5 else -1.0
                place = (slice(top, top + size), slice(start, start + size))
                tried[row][place] = faces[face][place] + sign * epsilon
            tried = torch.clamp(tried, low[left], high[left])
            found = goal.of(left)(tried)
            better = found > loss[left]
            best[left[better]], loss[left[better]] = tried[better], found[better]
        return best
