"""The strategy network: of how many faces is the mix to be that the recogniser learns most from?

After arXiv 2403.10558 (Wang et al.; text and code were not at hand). Known: a network sees the masked face, chooses k
in {2..6} and is trained by REINFORCE to raise the loss that the recogniser lowers. Reconstructed: its layers, the
running normalisation of the reward, and the entropy bonus.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from immunecam.models.masking import MIXED

__all__ = ["RewardScale", "StrategyNetwork", "strategy_loss"]


class StrategyNetwork(nn.Module):
    """Masked channels to a distribution over `MIXED`.

    Parameters
    ----------
    channels : int
        Of a masked face.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(14),
            nn.Conv2d(channels, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, len(MIXED)),
        )
        # From the start all choices are alike: what it prefers later it has learnt.
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, channels: Tensor) -> Tensor:
        """(N, 5) logarithms of probabilities for (N, C, H, W)."""
        return F.log_softmax(self.body(channels), dim=1)


class RewardScale(nn.Module):
    """Running mean and deviation of rewards; buffers, so that a checkpoint has them.

    Parameters
    ----------
    decay : float
        Of the averages.
    """

    mean: Tensor
    square: Tensor
    seen: Tensor

    def __init__(self, decay: float = 0.95) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("square", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    @torch.no_grad()
    def forward(self, rewards: Tensor) -> Tensor:
        """(N,) rewards less the mean so far, over the deviation so far, both with this batch."""
        self.mean.lerp_(rewards.mean(), 1 - self.decay)
        self.square.lerp_(rewards.square().mean(), 1 - self.decay)
        self.seen.lerp_(torch.ones_like(self.seen), 1 - self.decay)  # undoes the start at zero, as Adam does
        mean, square = self.mean / self.seen, self.square / self.seen
        return (rewards - mean) / (square - mean.square()).clamp_min(1e-8).sqrt()


def strategy_loss(log_probabilities: Tensor, choices: Tensor, advantages: Tensor, entropy: float) -> Tensor:
    """``-mean(advantage log p(choice)) - entropy H(p)`` (REINFORCE, Williams 1992, with an entropy bonus).

    Parameters
    ----------
    log_probabilities : Tensor
        (N, 5) of `StrategyNetwork`.
    choices : Tensor
        (N,) int64 places in `MIXED`.
    advantages : Tensor
        (N,), no gradient wanted of them.
    entropy : float
        Weight of the bonus.
    """
    chosen = log_probabilities.gather(1, choices.unsqueeze(1)).squeeze(1)
    spread = -(log_probabilities.exp() * log_probabilities).sum(1)
    return -(advantages.detach() * chosen).mean() - entropy * spread.mean()
