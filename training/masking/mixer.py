"""Which faces of a batch are mixed, and of how many: none, a fixed number, a drawn one, or what a strategy chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from immunecam.models.masking import MIXED, mixing_shares
from immunecam.models.strategy import RewardScale, StrategyNetwork, strategy_loss
from immunecam.training.masking.config import MaskingConfig

__all__ = ["Mix", "Mixer", "collapse_of"]

_COLLAPSED = 0.95


@dataclass(frozen=True, eq=False)
class Mix:
    """A draw for a batch of N.

    Attributes
    ----------
    partners : Tensor
        (N, K) int64 rows of the batch; the first is the face itself, and none occurs twice.
    shares : Tensor
        (N, K).
    counts : Tensor
        (N,) int64: 1 where a face stays alone.
    log_probabilities : Tensor or None
        (N, 5) of the strategy, where there is one.
    """

    partners: Tensor
    shares: Tensor
    counts: Tensor
    log_probabilities: Tensor | None = None

    def entropy(self) -> float:
        """Of the strategy's choices in nats, mean over the batch; 0 where there is none."""
        if self.log_probabilities is None:
            return 0.0
        found = self.log_probabilities.detach()
        return float(-(found.exp() * found).sum(1).mean())

    def histogram(self) -> dict[str, float]:
        """Share of each k among the mixes, "k2" to "k6"; zeros where nothing is mixed."""
        several = self.counts[self.counts > 1]
        return {f"k{k}": float((several == k).float().mean()) if len(several) else 0.0 for k in MIXED}


class Mixer(nn.Module):
    """Draws mixes, and lets the strategy learn.

    Parameters
    ----------
    config : MaskingConfig
    channels : int
        Of what the strategy sees.
    """

    def __init__(self, config: MaskingConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        adaptive = config.mixing == "adaptive"
        self.strategy = StrategyNetwork(channels) if adaptive else None
        self.scale = RewardScale() if adaptive else None
        self.optimizer = torch.optim.Adam(self.strategy.parameters(), config.strategy_lr) if self.strategy else None

    def counts(self, channels: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """Of how many faces each one's mix is to be, (N,) int64, and what the strategy said, where there is one."""
        count, config = len(channels), self.config
        if config.mixing == "none":
            return torch.ones(count, dtype=torch.int64), None
        if config.mixing == "fixed":
            return torch.full((count,), config.k), None
        if config.mixing == "uniform" or self.strategy is None:
            return torch.randint(MIXED[0], MIXED[-1] + 1, (count,), generator=generator), None
        found = self.strategy(channels.detach())
        return torch.multinomial(found.detach().exp().cpu(), 1, generator=generator).squeeze(1) + MIXED[0], found

    def draw(self, channels: Tensor) -> Mix:
        """A mix for every face of a batch, from PyTorch's generator; `channels` (N, C, H, W) are the faces unmixed."""
        count, config = len(channels), self.config
        counts, found = self.counts(channels)
        if config.mixing != "none" and config.mixed < 1:
            alone = torch.randperm(count)[math.ceil(config.mixed * count) :]
            counts[alone] = 1
        # Others in a random order, oneself before them.
        places = torch.rand(count, count).fill_diagonal_(-1).argsort(1)[:, : config.most_mixed]
        shares = mixing_shares(torch.randn(places.shape), counts, config.largest_share)
        return Mix(places.to(channels.device), shares.to(channels.device), counts, found)

    def learn(self, mix: Mix, losses: Tensor) -> None:
        """One step of REINFORCE with the recogniser's loss of every mix as the reward; nothing without a strategy."""
        if self.optimizer is None or self.scale is None or mix.log_probabilities is None:
            return
        several = (mix.counts > 1).to(losses.device)
        found = mix.log_probabilities[several]
        choices = (mix.counts - MIXED[0]).to(losses.device)[several]
        loss = strategy_loss(found, choices, self.scale(losses.detach()[several]), self.config.entropy)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def collapse_of(histogram: Mapping[str, float]) -> str | None:
    """A sentence if nearly all choices are one; `histogram` as of `Mix`, or means of such."""
    name, share = max(histogram.items(), key=lambda item: item[1])
    if share < _COLLAPSED:
        return None
    return (
        f"the strategy has collapsed: {share:.0%} of the last mixes have {name[1:]} faces, so it is a fixed number by "
        "now; raise the entropy bonus or its step"
    )
