"""Faces of a batch attacked on the network that is learning from them."""

from __future__ import annotations

import torch
from torch import Tensor

from immunecam.models.liveness import LivenessNetwork
from immunecam.models.liveness_loss import LivenessLabels
from immunecam.training.attacks.base import round_to_8bit
from immunecam.training.attacks.liveness_attacks import SignAttack
from immunecam.training.attacks.liveness_goal import FeatureBank, LivenessGoal
from immunecam.training.attacks.sfa import SFA
from immunecam.training.liveness.config import AdversarialTraining

__all__ = ["attacked_batch"]


def attacked_batch(
    network: LivenessNetwork, pictures: Tensor, labels: LivenessLabels, how: AdversarialTraining
) -> Tensor:
    """The pictures, a share of them attacked through the head live.

    The network is left in evaluation mode: statistics of a batch are not to be moved by crafting.

    Parameters
    ----------
    network : LivenessNetwork
    pictures : Tensor
        (N, 3, side, side) RGB in [-1, 1], of both classes.
    labels : LivenessLabels
    how : AdversarialTraining
    """
    network.eval()
    count = max(1, round(how.share * len(pictures)))
    chosen = torch.randperm(len(pictures), device=pictures.device)[:count]
    base = SignAttack(steps=how.steps)
    attack = SFA.over(base) if how.sfa else base
    bank = FeatureBank(network, pictures, labels.live) if how.sfa else None
    goal = LivenessGoal(network, labels.at(chosen), "live", bank)
    changed = pictures.clone()
    changed[chosen] = attack(goal, round_to_8bit(pictures[chosen]), how.level / 127.5)
    return changed
