"""What an attacker of a face recogniser wants, and whether it has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DrawnEmbedding", "Goal", "dodging", "impersonation"]


@dataclass(frozen=True)
class DrawnEmbedding:
    """An embedding that draws something at every call, in two steps: many draws can share the first.

    Attributes
    ----------
    shared : callable
        Faces (N, H, W) to a tuple of differentiable tensors (N, ...) that are the same in every draw; everything that
        the second step needs is among them, the faces too.
    draw : callable
        Those to unit embeddings (N, E), others at every call.
    expected : callable, optional
        Those to the unit embeddings (N, E) of what is drawn on average, always the same.
    """

    shared: Callable[[Tensor], tuple[Tensor, ...]]
    draw: Callable[..., Tensor]
    expected: Callable[..., Tensor] | None = None

    def __call__(self, faces: Tensor) -> Tensor:
        """Unit embeddings (N, E) of one draw."""
        return self.draw(*self.shared(faces))


@dataclass(frozen=True)
class Goal:
    """Dodging or impersonation of a batch of faces; called with faces it is the attacker's loss.

    Attributes
    ----------
    embed : callable
        Faces (N, H, W) in [-1, 1] to unit embeddings (N, E), differentiable. A purifier may stand in it, and may draw
        an antibody at every call; as a `DrawnEmbedding` it lets attacks by many draws share what they have in common.
    reference : Tensor
        (N, E) unit embeddings: the enrolled faces of the attacked people (dodging), or of their victims.
    impersonate : bool
        Whether a larger cosine is what is wanted.
    threshold : float
        Of the recogniser: a pair is accepted from this cosine on.
    """

    embed: Callable[[Tensor], Tensor]
    reference: Tensor
    impersonate: bool
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.reference.ndim != 2:
            raise ValueError(f"reference embeddings must be (N, E), got {tuple(self.reference.shape)}")
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"a threshold of cosines must be in [-1, 1], got {self.threshold}")

    def similarity(self, faces: Tensor) -> Tensor:
        """(N,) cosines to the reference."""
        return self._cosine(self.embed(faces))

    def __call__(self, faces: Tensor) -> Tensor:
        """(N,) loss of the attacker, larger is better for it: the cosine, or its negative."""
        return self.loss(self.embed(faces))

    def loss(self, embeddings: Tensor) -> Tensor:
        """(N,) the same of unit embeddings (N, E)."""
        similarity = self._cosine(embeddings)
        return similarity if self.impersonate else -similarity

    def reached(self, faces: Tensor) -> Tensor:
        """(N,) whether a face is accepted as its victim, or no longer as itself."""
        with torch.no_grad():
            return self.reached_by(self.embed(faces))

    def reached_by(self, embeddings: Tensor) -> Tensor:
        """(N,) the same of unit embeddings (N, E)."""
        accepted = self._cosine(embeddings) >= self.threshold
        return accepted if self.impersonate else ~accepted

    def _cosine(self, embeddings: Tensor) -> Tensor:
        if len(embeddings) != len(self.reference):
            raise ValueError(f"{len(embeddings)} faces for a goal of {len(self.reference)}")
        return (embeddings * self.reference).sum(1)

    def of(self, chosen: Tensor) -> Goal:
        """The goal of some of the faces, by index or mask."""
        return dataclasses.replace(self, reference=self.reference[chosen])

    def by(self, margin: float) -> Goal:
        """The goal that is reached only this far beyond the threshold, as far as cosines go."""
        threshold = self.threshold + (margin if self.impersonate else -margin)
        return dataclasses.replace(self, threshold=min(1.0, max(-1.0, threshold)))


def dodging(embed: Callable[[Tensor], Tensor], own: Tensor, threshold: float = 0.0) -> Goal:
    """Not to be recognised: away from one's own unit embeddings (N, E)."""
    return Goal(embed, own, False, threshold)


def impersonation(embed: Callable[[Tensor], Tensor], target: Tensor, threshold: float = 0.0) -> Goal:
    """To be recognised as somebody else: towards the target's unit embeddings (N, E)."""
    return Goal(embed, target, True, threshold)
