"""What an attacker of a face recogniser wants: a loss of every face, larger is better for the attacker."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["dodging", "impersonation"]


def dodging(embed: Callable[[Tensor], Tensor], own: Tensor) -> Callable[[Tensor], Tensor]:
    """Not to be recognised: ``1 - cos`` to one's own unit embeddings (N, E)."""
    return lambda faces: 1 - (embed(faces) * own).sum(1)


def impersonation(embed: Callable[[Tensor], Tensor], target: Tensor) -> Callable[[Tensor], Tensor]:
    """To be recognised as somebody else: ``cos`` to the target's unit embeddings (N, E)."""
    return lambda faces: (embed(faces) * target).sum(1)
