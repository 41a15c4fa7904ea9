"""Clonal selection: the losses of all clones of all faces, computed among coefficients.

With a = V^T (x - mu) of the attacked face, c of the clean one and an antibody m in {0,1}^K, orthonormality of V gives::

    |V (m * a) + mu - clean|^2 = outside + sum_k c_k^2 + sum_k m_k (a_k^2 - 2 a_k c_k)

where `outside` is the clean face's energy beyond the subspace, the same for every clone. So the pixel loss of S
clones is one product of bits with (K,) numbers; no picture is formed and the basis is never multiplied by a mask.
The published code forms ``V * m`` instead, 75 MB a clone at K = 1500.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from immunecam.models import Eigenspace

__all__ = [
    "clone",
    "clone_identity_loss",
    "clone_pixel_loss",
    "expected_pixel_loss",
    "log_likelihood",
    "reinforce",
]


def clone(probability: Tensor, clones: int) -> Tensor:
    """Cloning and mutation: (B, S, K) antibodies, Bernoulli bits drawn from (B, K) probabilities, as floats."""
    expanded = probability.detach().unsqueeze(1).expand(-1, clones, -1)
    return torch.bernoulli(expanded)


def _gain(observed: Tensor, clean: Tensor) -> Tensor:
    return observed * (observed - 2 * clean)


def clone_pixel_loss(antibody: Tensor, observed: Tensor, clean: Tensor, outside: Tensor) -> Tensor:
    """Squared distance in pixels between each purified clone and its clean face.

    Parameters
    ----------
    antibody : Tensor
        (B, S, K) bits.
    observed, clean : Tensor
        (B, K) coefficients of the attacked and the clean face.
    outside : Tensor
        (B,) energy of the clean face outside the subspace.

    Returns
    -------
    Tensor
        (B, S), summed over pixels (divide by D for the mean), range [-1, 1] squared.
    """
    constant = outside + clean.square().sum(1)
    return constant[:, None] + torch.einsum("bsk,bk->bs", antibody, _gain(observed, clean))


def expected_pixel_loss(probability: Tensor, observed: Tensor, clean: Tensor, outside: Tensor) -> Tensor:
    """(B,) expectation of `clone_pixel_loss` over the antibody, exactly: the loss is linear in the bits."""
    return outside + clean.square().sum(1) + (probability * _gain(observed, clean)).sum(1)


@torch.no_grad()
def clone_identity_loss(
    antibody: Tensor,
    observed: Tensor,
    eigenspace: Eigenspace,
    embed: Callable[[Tensor], Tensor],
    own: Tensor,
    *,
    chunk: int = 32,
) -> Tensor:
    """(B, S) ``1 - cos`` between the embedding of each purified clone and of its clean face.

    Parameters
    ----------
    embed : callable
        Faces (N, 112, 112) to unit embeddings (N, E).
    own : Tensor
        (B, E) unit embeddings of the clean faces.
    chunk : int
        Clones that are faces at the same time; bounds the memory.
    """
    batch, clones, k = antibody.shape
    side = int(eigenspace.mean.numel() ** 0.5)
    flat = (antibody * observed.unsqueeze(1)).reshape(-1, k)
    reference = own.repeat_interleave(clones, 0)
    losses = []
    for start in range(0, len(flat), chunk):
        faces = eigenspace.reconstruct(flat[start : start + chunk]).reshape(-1, side, side).clamp(-1, 1)
        losses.append(1 - (embed(faces) * reference[start : start + chunk]).sum(1))
    return torch.cat(losses).reshape(batch, clones)


def log_likelihood(antibody: Tensor, logits: Tensor) -> Tensor:
    """(B, S) log-probability of (B, S, K) bits under (B, K) logits, without leaving the log domain."""
    # log p(m) = sum_k m_k l_k - softplus(l_k)
    return torch.einsum("bsk,bk->bs", antibody, logits) - torch.nn.functional.softplus(logits).sum(1, keepdim=True)


def reinforce(antibody: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
    """Score-function estimate whose gradient is that of the expected loss (REINFORCE, Williams 1992).

    The baseline of a face is the mean loss of its own clones, as in AIS; with one clone there is none. A clone counts
    in its own baseline, so with S clones the expectation is (S - 1) / S of that gradient: 0.96 at the paper's S = 25.
    """
    advantage = loss.detach()
    if loss.shape[1] > 1:
        advantage = advantage - advantage.mean(1, keepdim=True)
    return (advantage * log_likelihood(antibody, logits)).mean()
