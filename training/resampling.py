"""Faces off the pixel grid that they were made on, as alignment gives them.

A perturbation that reaches a camera's frame is enlarged, turned and interpolated twice before a recogniser sees it, and
most of its effect survives (measured: PGD-40 at 8/255 still breaks every pair). A network that has only met
perturbations on their own grid does not know it any more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Resampling", "zoomed"]


class Resampling:
    """A random similarity for each of N faces: into a frame, and back to the template, bilinear both times.

    Parameters
    ----------
    count : int
        Faces.
    scale : tuple of float
        Smallest and largest size of a face in the frame, as a fraction of its own.
    degrees : float
        Largest turn.
    """

    def __init__(self, count: int, *, scale: tuple[float, float] = (0.7, 1.8), degrees: float = 20.0) -> None:
        # One size for all, so that a batch is one tensor; angles and shifts are every face's own.
        self._size = 112 * float(torch.empty(()).uniform_(*scale))
        angle = torch.empty(count).uniform_(-degrees, degrees) * torch.pi / 180
        cosine, sine = angle.cos(), angle.sin()
        rotation = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
        # The frame is large enough for the turned face, and its pixels lie between those of the face.
        self._frame = round(1.42 * self._size) + 2
        self._zoom = self._frame / self._size
        shift = torch.empty(count, 2).uniform_(-1, 1) / self._frame
        self._into = torch.cat([self._zoom * rotation, shift.unsqueeze(2)], 2)
        back = rotation.transpose(1, 2) / self._zoom
        self._back = torch.cat([back, -(back @ shift.unsqueeze(2))], 2)

    def __call__(self, faces: Tensor, rows: Tensor | None = None) -> Tensor:
        """Resampled faces (M, 112, 112) in [-1, 1]; `rows` (M,) says whose similarity each takes; default its own."""
        into, back = (m if rows is None else m[rows] for m in (self._into, self._back))
        frame = self._sampled(faces.unsqueeze(1), into, self._frame)
        frame = ((frame + 1) * 127.5).round() / 127.5 - 1  # a frame is 8-bit
        return self._sampled(frame, back, 112).squeeze(1)

    @staticmethod
    def _sampled(pictures: Tensor, matrix: Tensor, size: int) -> Tensor:
        grid = F.affine_grid(matrix.to(pictures.device), [len(pictures), 1, size, size], align_corners=False)
        return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def zoomed(faces: Tensor, factor: Tensor) -> Tensor:
    """Faces (N, H, W) enlarged by factors (N,) about their centre, or made smaller and continued by reflection."""
    about = torch.eye(2, 3, dtype=faces.dtype, device=faces.device) / factor.to(faces).reshape(-1, 1, 1)
    grid = F.affine_grid(about, [len(faces), 1, *faces.shape[1:]], align_corners=False)
    pictures = faces.unsqueeze(1)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False).squeeze(1)
