"""What all attacks share: the call, the checks at entry, and 8-bit pictures at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from immunecam.training.attacks.goals import Goal

__all__ = ["FaceAttack", "round_to_8bit"]


def round_to_8bit(faces: Tensor) -> Tensor:
    """The nearest faces that an 8-bit picture can hold, in [-1, 1]."""
    return ((faces.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


class FaceAttack(ABC):
    """An attack on a batch of faces.

    An attack is a value: its settings are the fields of a frozen dataclass, and what it attacks comes with the call.
    Random numbers are torch's own; seed them with `torch.manual_seed`.

    Attributes
    ----------
    norm : str
        What the budget bounds: "linf" or "l2" of the change in grey levels / 255 times 2 (the range is [-1, 1]), or
        "patch" (the fraction of the picture's area that may be overwritten).
    """

    norm: ClassVar[str]

    def __call__(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        """Attacked faces.

        Parameters
        ----------
        goal : Goal
            Of these faces.
        faces : Tensor
            (N, H, W) in [-1, 1], 8-bit values.
        epsilon : float
            Budget in the unit of `norm`: 8/255 of the picture's range is 16/255 here.

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
        if not torch.isfinite(faces).all() or float(faces.abs().amax() if faces.numel() else 0) > 1 + 1e-6:
            raise ValueError("faces must be finite and in [-1, 1]")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be above 0, got {epsilon}")
        if not len(faces):
            return faces.clone()
        return self._run(goal, faces.detach(), float(epsilon)).detach()

    @abstractmethod
    def _run(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        """Attack checked, non-empty faces."""
