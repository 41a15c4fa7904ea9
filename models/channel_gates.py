"""Which frequencies are kept: a learnt gate for each, the best of every colour open.

After PPFR-FD (Wang et al., AAAI 2022), whose text was not at hand. Known: a network chooses the channels by what
recognition needs and by their energy, which is what eyes see. Reconstructed: gates that are the same for all faces, a
straight-through gradient, and the penalty's form.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ChannelGates"]


class ChannelGates(nn.Module):
    """One gate for every channel that may be kept.

    Parameters
    ----------
    energy : Tensor
        (P, 64) mean squared deviation of each frequency, by colour plane. Frequency 0, the mean of a block, is never
        kept, and one without energy is only if there are not enough others.
    keep : int
        Frequencies of every colour, of 1 to 63.

    Raises
    ------
    ValueError
        If `keep` is out of its range.
    """

    share: Tensor
    barred: Tensor

    def __init__(self, energy: Tensor, keep: int = 36) -> None:
        super().__init__()
        if not 1 <= keep < energy.shape[1]:
            raise ValueError(f"{keep} frequencies of every colour were to be kept, of 1 to {energy.shape[1] - 1}")
        self.keep = keep
        energy = energy.detach().float()
        # Drawn, not equal: which of equal gates are the best ones would be the sorting's choice.
        self.logits = nn.Parameter(0.01 * torch.randn(energy.shape))
        without_mean = energy.clone()
        without_mean[:, 0] = 0
        total = without_mean.sum(1, keepdim=True)
        self.register_buffer("share", without_mean / total.clamp_min(1e-30))
        # Added to gates in (0, 1). A plane without any energy, as chroma of grey faces, has to keep some all the same.
        barred = torch.where(without_mean > 1e-9 * total, 0.0, -2.0)
        barred[:, 0] = -4
        self.register_buffer("barred", barred)

    def _strength(self) -> Tensor:
        return self.logits.sigmoid() + self.barred

    def chosen(self) -> tuple[tuple[int, ...], ...]:
        """The frequencies that are kept, ascending, by colour plane."""
        best = self._strength().topk(self.keep, dim=1).indices.sort(1).values
        return tuple(tuple(plane) for plane in best.tolist())

    def forward(self, channels: Tensor) -> Tensor:
        """(N, P * 64, H, W) with the channels of closed gates zero; the gradient is that of the soft gates."""
        soft = self.logits.sigmoid()
        hard = torch.zeros_like(soft).scatter(1, self._strength().topk(self.keep, dim=1).indices, 1.0)
        gate = hard + soft - soft.detach()
        return channels * gate.reshape(1, -1, 1, 1)

    def penalty(self) -> Tensor:
        """``sum_c e_c sigmoid(g_c)`` with e_c the channel's share of its colour's energy; mean over the colours."""
        return (self.share * self.logits.sigmoid()).sum(1).mean()
