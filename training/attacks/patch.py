"""A patch: some of the picture overwritten, as by a sticker."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from immunecam.training.attacks.base import FaceAttack, check_above_zero, check_count
from immunecam.training.attacks.goals import Goal

__all__ = ["Patch", "patch_place"]


# Middle between the eyes in the ArcFace template of 112 x 112, as fractions of width and height.
_EYES = (0.5, 0.46)


def patch_place(height: int, width: int, area: float) -> tuple[slice, slice]:
    """Rows and columns of a patch twice as wide as high, over the eyes of an aligned face, where glasses sit."""
    # Above half the picture its width is all taken, and the patch grows in height.
    high = min(height, max(1, int((area * height * width / 2) ** 0.5), int(area * height)))
    wide = min(width, max(1, int(area * height * width / high)))
    left = min(max(0, round(_EYES[0] * width - wide / 2)), width - wide)
    top = min(max(0, round(_EYES[1] * height - high / 2)), height - high)
    return slice(top, top + high), slice(left, left + wide)


@dataclass(frozen=True)
class Patch(FaceAttack):
    """Gradient ascent on the pixels of a patch, which may take any value (Brown et al., 2017).

    Attributes
    ----------
    steps : int
        Gradient steps.
    step_size : float
        Of a step along the sign, in the range [-1, 1]; it falls linearly to a tenth.
    universal : bool
        One patch for the whole batch (the mean loss is climbed), instead of one for each face.
    """

    norm = "patch"
    steps: int = 40
    step_size: float = 0.15
    universal: bool = False

    def __post_init__(self) -> None:
        check_count(self, "steps")
        check_above_zero(self, "step_size")

    def _run(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        if epsilon >= 1:
            raise ValueError(f"a patch must leave some of the picture: its area must be below 1, got {epsilon}")
        if epsilon * faces[0].numel() < 1:
            raise ValueError(
                f"a patch must have a pixel: its area must be {1 / faces[0].numel():.2g} or above, got {epsilon}"
            )
        rows, columns = patch_place(*faces.shape[1:], epsilon)
        count = 1 if self.universal else len(faces)
        patch = torch.zeros(count, rows.stop - rows.start, columns.stop - columns.start, device=faces.device)
        velocity = torch.zeros_like(patch)
        best, best_loss = self._worn(faces, patch, rows, columns), None
        for step in range(self.steps + 1):
            point = patch.detach().requires_grad_(True)
            worn = self._worn(faces, point, rows, columns)
            loss = goal(worn)
            (gradient,) = torch.autograd.grad(loss.sum(), point)
            score = loss.detach().mean().expand(len(faces)) if self.universal else loss.detach()
            better = torch.ones_like(score, dtype=torch.bool) if best_loss is None else score > best_loss
            best = torch.where(better[:, None, None], worn.detach(), best)
            best_loss = score if best_loss is None else torch.where(better, score, best_loss)
            velocity = 0.9 * velocity + gradient / gradient.abs().mean((1, 2), keepdim=True).clamp_min(1e-12)
            size = self.step_size * (1 - 0.9 * step / self.steps)
            patch = (patch + size * velocity.sign()).clamp(-1, 1)
        return best

    def _worn(self, faces: Tensor, patch: Tensor, rows: slice, columns: slice) -> Tensor:
        worn = faces.clone()
        worn[:, rows, columns] = patch.expand(len(faces), -1, -1)
        return worn
