"""The antigen memory of AIS: slots of typical features that a new face's feature is recalled from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AntigenMemory"]


class AntigenMemory(nn.Module):
    """Slots M (slots x dim), read by cosine attention and written by a moving average (AIS, IJCV 2024).

    Read: ``softmax(cos(f, M) / temperature) M`` replaces the feature. Write, in training only: every slot moves
    towards the mean of the features that chose it (largest cosine). The memory is no parameter; the optimiser
    never touches it.

    Parameters
    ----------
    slots, dim : int
        128 and 512 in the paper.
    decay : float
        Of the moving average, 0.999 in the paper.
    temperature : float
        Deviation: the paper's softmax has none (1.0), which makes it nearly uniform over 128 slots, because
        cosines lie in [-1, 1]; then the read carries little.
    revive_after : int
        Deviation: the published code lets slots that are never chosen decay to zero. Here only chosen slots
        move, and one unused for this many writes restarts at a feature of the batch; 0 switches that off.
    """

    slots: Tensor
    idle: Tensor

    def __init__(
        self,
        slots: int = 128,
        dim: int = 512,
        *,
        decay: float = 0.999,
        temperature: float = 0.1,
        revive_after: int = 500,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"the memory's temperature must be above 0, got {temperature}")
        self.decay, self.temperature, self.revive_after = decay, temperature, revive_after
        self.register_buffer("slots", torch.randn(slots, dim))
        self.register_buffer("idle", torch.zeros(slots, dtype=torch.int64))

    def read(self, feature: Tensor) -> Tensor:
        """(N, dim) recalled features of (N, dim) features."""
        return self._recall(feature, self.slots)

    def _recall(self, feature: Tensor, slots: Tensor) -> Tensor:
        cosine = F.normalize(feature, dim=1) @ F.normalize(slots, dim=1).T
        return torch.softmax(cosine / self.temperature, dim=1) @ slots

    @torch.no_grad()
    def write(self, feature: Tensor) -> None:
        """Move the chosen slots towards (N, dim) features, and restart the ones that nothing has chosen for long."""
        feature = feature.detach().to(self.slots.dtype)
        choice = (F.normalize(feature, dim=1) @ F.normalize(self.slots, dim=1).T).argmax(1)
        hits = F.one_hot(choice, len(self.slots)).to(feature.dtype)
        count = hits.sum(0)
        chosen = count > 0
        mean = (hits.T @ feature) / count.clamp_min(1)[:, None]
        self.slots[chosen] = self.decay * self.slots[chosen] + (1 - self.decay) * mean[chosen]
        self.idle += 1
        self.idle[chosen] = 0
        if self.revive_after:
            dead = torch.nonzero(self.idle > self.revive_after).flatten()[: len(feature)]
            if len(dead):
                self.slots[dead] = feature[torch.randperm(len(feature), device=feature.device)[: len(dead)]]
                self.idle[dead] = 0

    def forward(self, feature: Tensor) -> Tensor:
        # The write below changes the slots in place, so the read that is differentiated needs slots of its own.
        slots = self.slots.clone() if self.training else self.slots
        recalled = self._recall(feature, slots)
        if self.training:
            self.write(feature)
        return recalled
