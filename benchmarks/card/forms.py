"""The same mutation and projection as others would write it, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["FORMS", "Form", "cublas", "paper"]

Form = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(faces (N, D), p (N, K), mean (D), rows (K, D)) to projected faces (N, D)."""


def paper(faces: Tensor, p: Tensor, mean: Tensor, rows: Tensor) -> Tensor:
    """The published form: every face has its own masked copy of the whole basis, in eager PyTorch."""
    found = torch.empty_like(faces)
    for n in range(len(faces)):
        masked = rows * torch.bernoulli(p[n])[:, None].to(rows.dtype)
        found[n] = mean + masked.T @ (masked @ (faces[n] - mean).to(rows.dtype))
    return found


def cublas(faces: Tensor, p: Tensor, mean: Tensor, rows: Tensor) -> Tensor:
    """Two matrix products over all rows, with the antibody applied to the coefficients between them."""
    coefficients = (faces - mean).to(rows.dtype) @ rows.T
    return mean + ((coefficients * torch.bernoulli(p).to(rows.dtype)) @ rows).to(faces.dtype)


FORMS = ("paper, eager", "torch.compile", "cuBLAS", "cuBLAS in a graph")
"""What the kernels are compared with."""
