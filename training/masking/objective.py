"""What a recogniser of masked faces is trained for: to name people, and to see what a teacher sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from immunecam.models.arcface import ArcFace
from immunecam.models.masking import merged
from immunecam.training.masking.config import MaskingConfig

__all__ = ["RecognitionLoss"]


class RecognitionLoss(nn.Module):
    """``arcface sum_j l_j ArcFace(f(X), y_j) + distilled (1 - sum_j l_j cos(f(X), t_j))``.

    The second term is this project's: t_j is what the teacher sees in the plain face j.

    Parameters
    ----------
    config : MaskingConfig
    people : int
        Labels that there are.
    size : int
        Of an embedding, and where there is a teacher of its embeddings.
    """

    def __init__(self, config: MaskingConfig, people: int, size: int) -> None:
        super().__init__()
        self.weights = {"arcface": config.arcface, "distilled": config.distilled}
        self.head = ArcFace(people, size, config.scale, config.margin) if config.arcface else None

    @torch.no_grad()
    def start(self, targets: Tensor, labels: Tensor) -> None:
        """Let ArcFace start from the mean of what a teacher sees in each person's faces, (N, E) and (N,).

        A network that starts from a teacher's weights would else first unlearn them for directions that were drawn.
        """
        if self.head is None:
            return
        named = labels >= 0
        centres = torch.zeros_like(self.head.weight).index_add(0, labels[named], targets[named].to(self.head.weight))
        self.head.weight.copy_(nn.functional.normalize(centres, dim=1))

    def forward(
        self, embeddings: Tensor, labels: Tensor, shares: Tensor, targets: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of every mix, and means of its terms.

        Parameters
        ----------
        embeddings : Tensor
            (N, E) of unit length.
        labels : Tensor
            (N, K) int64; negative where the person has no number.
        shares : Tensor
            (N, K), rows of which sum to 1.
        targets : Tensor or None
            (N, E), the teacher's embeddings mixed by the same shares.

        Returns
        -------
        loss : Tensor
            (N,).
        terms : dict
            "arcface" (of what has a label) and "distilled", zero where there is none.
        """
        loss = embeddings.new_zeros(len(embeddings))
        terms = {"arcface": loss.sum(), "distilled": loss.sum()}
        if self.head is not None:
            named = merged(labels, shares)
            each = self.head(embeddings, labels, named)
            terms["arcface"] = each.detach().sum() / named.sum().clamp_min(1e-6)
            loss = loss + self.weights["arcface"] * each
        if targets is not None and self.weights["distilled"]:
            each = 1 - (embeddings * targets).sum(1)
            terms["distilled"] = each.detach().mean()
            loss = loss + self.weights["distilled"] * each
        return loss, terms
