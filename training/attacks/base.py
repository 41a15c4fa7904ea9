"""What all attacks share: the call, the checks at entry, the budget, and 8-bit pictures at the end."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from immunecam.training.attacks.goals import Goal

__all__ = ["FaceAttack", "LinfAttack", "best_of", "check_above_zero", "check_count", "linf_box", "round_to_8bit"]


def round_to_8bit(faces: Tensor) -> Tensor:
    """The nearest faces that an 8-bit picture can hold, in [-1, 1]."""
    return ((faces.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def linf_box(faces: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest 8-bit faces within `epsilon` of 8-bit faces; a budget between two levels is never exceeded."""
    levels, budget = (faces + 1) * 127.5, epsilon * 127.5
    low = (levels - budget - 1e-3).ceil().clamp_min(0)
    high = (levels + budget + 1e-3).floor().clamp_max(255)
    return low / 127.5 - 1, high / 127.5 - 1


class FaceAttack(ABC):
    """An attack on a batch of faces.

    An attack is a value: its settings are the fields of a frozen dataclass, and what it attacks comes with the call.
    Random numbers are torch's own; seed them with `torch.manual_seed`.

    Attributes
    ----------
    norm : str
        What the budget bounds: "linf" or "l2" of the change, in the range [-1, 1] (8/255 of the picture's range is
        16/255 here), or "patch", the fraction of the picture's area that may be overwritten.
    """

    norm: ClassVar[str]

    @property
    def version(self) -> int:
        """Raised when the same settings come to make other faces, so that kept ones are not taken for them."""
        return 1

    def __call__(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        """Attacked faces.

        Parameters
        ----------
        goal : Goal
            Of these faces.
        faces : Tensor
            (N, H, W) in [-1, 1], 8-bit values.
        epsilon : float
            Budget in the unit of `norm`.

        Returns
        -------
        Tensor
            (N, H, W) in [-1, 1], 8-bit values within the budget (L2: but for the rounding), without gradient.

        Raises
        ------
        ValueError
            If shapes, range or budget are wrong.
        """
        if faces.ndim != 3 or not faces.is_floating_point():
            raise ValueError(f"faces must be float (N, H, W), got {faces.dtype} {tuple(faces.shape)}")
        if len(faces) != len(goal.reference):
            raise ValueError(f"{len(faces)} faces for a goal of {len(goal.reference)}")
        if not torch.isfinite(faces).all() or (faces.numel() and float(faces.abs().amax()) > 1 + 1e-6):
            raise ValueError("faces must be finite and in [-1, 1]")
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon must be finite and above 0, got {epsilon}")
        if not len(faces):
            return faces.clone()
        with torch.enable_grad():  # even where the caller has none
            attacked = self._run(goal, faces.detach(), float(epsilon))
        return round_to_8bit(attacked.detach())

    @abstractmethod
    def _run(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        """Attack checked, non-empty faces."""


class LinfAttack(FaceAttack):
    """An attack whose budget is the largest change of a pixel; what it returns is in the box whatever it does."""

    norm = "linf"

    def __call__(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        attacked = super().__call__(goal, faces, epsilon)
        return torch.clamp(attacked, *linf_box(faces.detach(), epsilon))


def best_of(restarts: int, goal: Goal, attempt: Callable[[], Tensor]) -> Tensor:
    """The most successful of several attempts, face by face, by the goal's loss of their 8-bit pictures."""
    best = round_to_8bit(attempt())
    if restarts == 1:
        return best
    loss = _loss(goal, best)
    for _ in range(restarts - 1):
        other = round_to_8bit(attempt())
        found = _loss(goal, other)
        better = found > loss
        best, loss = torch.where(better[:, None, None], other, best), torch.where(better, found, loss)
    return best


@torch.no_grad()
def _loss(goal: Goal, faces: Tensor) -> Tensor:
    return goal(faces)


def check_count(attack: Any, *names: str) -> None:
    """Refuse settings that are not integers of at least 1."""
    for name in names:
        value = getattr(attack, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} of {type(attack).__name__} must be an integer of at least 1, got {value!r}")


def check_above_zero(attack: Any, *names: str) -> None:
    """Refuse settings that are not finite and above 0; None stands for a default.

    A step below 0 climbs away from the goal, and one that is no number ends in faces that are none: an attack that
    cannot succeed would pass for a defence that holds.
    """
    for name in names:
        value = getattr(attack, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} of {type(attack).__name__} must be finite and above 0, got {value!r}")
