"""The sign attacks on colour faces, as a base for others: FGSM, PGD, MI-FGSM."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from immunecam.training.attacks.base import LinfAttack, check_above_zero, check_count
from immunecam.training.attacks.gradient_sign import pgd
from immunecam.training.attacks.liveness_goal import LivenessGoal

__all__ = ["LIVENESS_ATTACKS", "SignAttack"]

_COLOURS = 3


@dataclass(frozen=True)
class SignAttack(LinfAttack):
    """Steps along the sign of the gradient, within the L-infinity budget, on faces of three colours.

    Attributes
    ----------
    steps : int
    step_size : float, optional
        As a fraction of the budget; default 1 for one step, else ``2.5 / steps``.
    momentum : float
        Decay of the sum of L1-normalised gradients; 0 takes the last one alone.
    random_start : bool
        Start at a random point of the ball.
    """

    steps: int = 10
    step_size: float | None = None
    momentum: float = 0.0
    random_start: bool = True

    def __post_init__(self) -> None:
        check_count(self, "steps")
        check_above_zero(self, "step_size")
        if not 0 <= self.momentum < math.inf:
            raise ValueError(f"momentum must be finite and at least 0, got {self.momentum}")

    def __call__(self, goal: LivenessGoal, faces: Tensor, epsilon: float) -> Tensor:  # type: ignore[override]
        """As `FaceAttack.__call__`, of faces (N, 3, side, side)."""
        if faces.ndim != 4 or faces.shape[1] != _COLOURS:
            raise ValueError(f"faces must be float (N, 3, side, side), got {tuple(faces.shape)}")
        # Three colours below each other are one grey picture to the checks and the budget.
        attacked = super().__call__(goal, faces.flatten(1, 2), epsilon)  # type: ignore[arg-type]
        return attacked.reshape(faces.shape)

    def _run(self, goal: LivenessGoal, faces: Tensor, epsilon: float) -> Tensor:  # type: ignore[override]
        loss = self._loss(goal)
        return pgd(
            lambda stacked: loss(stacked.unflatten(1, (_COLOURS, -1))),
            faces,
            epsilon,
            steps=self.steps,
            step_size=None if self.step_size is None else self.step_size * epsilon,
            momentum=self.momentum,
            random_start=self.random_start,
        )

    def _loss(self, goal: LivenessGoal) -> Callable[[Tensor], Tensor]:
        """What the gradient is taken of: faces (N, 3, side, side) to (N,)."""
        return goal


LIVENESS_ATTACKS: Mapping[str, SignAttack] = MappingProxyType(
    {
        "FGSM": SignAttack(steps=1, random_start=False),
        "PGD-10": SignAttack(steps=10),
        "MI-FGSM-10": SignAttack(steps=10, step_size=0.1, momentum=1.0, random_start=False),
    }
)
