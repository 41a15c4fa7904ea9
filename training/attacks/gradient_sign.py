"""L-infinity attacks by the sign of the gradient: FGSM, PGD and their momentum form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from immunecam.training.attacks.base import round_to_8bit

__all__ = ["fgsm", "pgd"]


def pgd(
    loss: Callable[[Tensor], Tensor],
    faces: Tensor,
    epsilon: float | Tensor,
    *,
    steps: int,
    step_size: float | Tensor | None = None,
    momentum: float = 0.0,
    random_start: bool = True,
) -> Tensor:
    """Projected gradient ascent on a loss of every face (Madry et al., ICLR 2018).

    Parameters
    ----------
    loss : callable
        Faces (N, H, W) in [-1, 1] to (N,), larger is better for the attacker.
    faces : Tensor
        (N, H, W) in [-1, 1].
    epsilon : float or Tensor
        Largest change of a pixel in the same range (8/255 of the picture's range is 16/255 here); a tensor (N,)
        gives every face its own.
    steps : int
        At least 1.
    step_size : float or Tensor, optional
        Default: ``epsilon`` for one step, else ``2.5 * epsilon / steps``.
    momentum : float
        Of the L1-normalised gradient; 1.0 is MI-FGSM (Dong et al., CVPR 2018).
    random_start : bool
        Start at a uniform point of the ball.

    Returns
    -------
    Tensor
        (N, H, W), in [-1, 1], rounded to 8 bits, without gradient.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    budget = torch.as_tensor(epsilon, dtype=faces.dtype, device=faces.device).reshape(-1, 1, 1)
    if step_size is None:
        stride = budget if steps == 1 else 2.5 * budget / steps
    else:
        stride = torch.as_tensor(step_size, dtype=faces.dtype, device=faces.device).reshape(-1, 1, 1)
    clean = faces.detach()
    low, high = (clean - budget).clamp_min(-1), (clean + budget).clamp_max(1)
    attacked = clean
    if random_start:
        attacked = torch.clamp(clean + (2 * torch.rand_like(clean) - 1) * budget, low, high)
    velocity = torch.zeros_like(clean)
    for _ in range(steps):
        attacked = attacked.detach().requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(attacked).sum(), attacked)
        if momentum:
            velocity = momentum * velocity + gradient / gradient.abs().mean((1, 2), keepdim=True).clamp_min(1e-12)
            gradient = velocity
        attacked = torch.clamp(attacked.detach() + stride * gradient.sign(), low, high)
    return round_to_8bit(attacked)


def fgsm(loss: Callable[[Tensor], Tensor], faces: Tensor, epsilon: float | Tensor) -> Tensor:
    """One full step along the sign of the gradient (Goodfellow et al., ICLR 2015); arguments as in `pgd`."""
    return pgd(loss, faces, epsilon, steps=1, random_start=False)
