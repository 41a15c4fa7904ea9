"""Faces back from a recogniser, by a search in the latent space of a generator of faces.

The attacker has a template, such as a stolen gallery's. In the white box he has the recogniser, mask and key included,
and follows its gradient. In the black box he is told a cosine to the template and nothing else, and evolves what he
shows. Either way he starts from several latents and keeps the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from immunecam.models.face_generator import NOISE, FaceGenerator

__all__ = ["black_box_search", "latents_of", "white_box_search"]


def latents_of(embeddings: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, latent) to start from: drawn noise beside embeddings, drawn from (M, E) of the attacker's own faces."""
    chosen = torch.randint(len(embeddings), (count,), generator=generator)
    return torch.cat([torch.randn(count, NOISE, generator=generator), embeddings[chosen]], 1)


def white_box_search(
    generator: FaceGenerator,
    recognize: Callable[[Tensor], Tensor],
    target: Tensor,
    starts: Tensor,
    *,
    steps: int = 100,
    lr: float = 0.05,
    plain: float = 1e-3,
) -> Tensor:
    """The best latent for each template, by Adam on the recogniser's gradient.

    Parameters
    ----------
    generator : FaceGenerator
        In evaluation mode.
    recognize : callable
        Faces (N, 112, 112) in [-1, 1] to embeddings (N, E) of unit length, differentiable.
    target : Tensor
        (T, E), the templates.
    starts : Tensor
        (R, latent), tried for each.
    steps : int
        Of each search.
    lr : float
        Of Adam.
    plain : float
        Weight of the noise's square: far from where noise is drawn from, faces are none.

    Returns
    -------
    Tensor
        (T, latent).
    """
    count, tries = len(target), len(starts)
    latent = starts.repeat(count, 1).clone().requires_grad_(True)
    wanted = target.repeat_interleave(tries, 0)
    optimizer = torch.optim.Adam([latent], lr)
    cosine = torch.zeros(len(wanted))
    for _ in range(steps):
        cosine = (recognize(generator(_on_sphere(latent))[:, 0]) * wanted).sum(1)
        loss = (1 - cosine + plain * latent[:, :NOISE].square().sum(1)).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = _on_sphere(latent)
        cosine = (recognize(generator(found)[:, 0]) * wanted).sum(1)
    return _best(found, cosine, count)


@torch.no_grad()
def black_box_search(
    generator: FaceGenerator,
    score: Callable[[Tensor], Tensor],
    starts: Tensor,
    *,
    queries: int = 2000,
    population: int = 20,
    draws: torch.Generator | None = None,
) -> tuple[Tensor, int]:
    """The best latent for one template, from scores alone: an evolution strategy with a step size that adapts.

    Parameters
    ----------
    generator : FaceGenerator
        In evaluation mode.
    score : callable
        Faces (N, 112, 112) in [-1, 1] to (N,), higher being more alike.
    starts : Tensor
        (R, latent), of which the best quarter is where it begins.
    queries : int
        Faces that are shown at most, starts included.
    population : int
        Faces of a round.
    draws : torch.Generator, optional

    Returns
    -------
    Tensor
        (latent,).
    int
        Faces that were shown.
    """
    found = _on_sphere(starts)
    scores = score(generator(found)[:, 0])
    shown = len(starts)
    parents = max(1, min(population, len(starts)) // 4)
    best, best_score = found[int(scores.argmax())], float(scores.max())
    centre = found[scores.topk(parents).indices].mean(0, keepdim=True)
    step = 0.5
    while shown + population <= queries:
        noise = torch.randn(population, found.shape[1], generator=draws)
        # The embedding's numbers are of the size of one over the square root of their count.
        noise[:, NOISE:] /= math.sqrt(found.shape[1] - NOISE)
        tried = _on_sphere(centre + step * noise)
        scores = score(generator(tried)[:, 0])
        shown += population
        order = scores.topk(max(1, population // 4))
        centre = tried[order.indices].mean(0, keepdim=True)
        better = float(order.values[0]) > best_score
        if better:
            best, best_score = tried[int(order.indices[0])], float(order.values[0])
        step = max(0.02, min(1.0, step * (1.1 if better else 0.95)))
    return best, shown


def _on_sphere(latent: Tensor) -> Tensor:
    """Noise as it is, the embedding of unit length as in the training."""
    return torch.cat([latent[:, :NOISE], F.normalize(latent[:, NOISE:], dim=1)], 1)


def _best(found: Tensor, cosine: Tensor, count: int) -> Tensor:
    tries = len(found) // count
    place = cosine.reshape(count, tries).argmax(1) + torch.arange(count) * tries
    return found[place]
