"""What several draws of a goal say of the same faces."""

from __future__ import annotations

import torch
from torch import Tensor

from immunecam.training.attacks.goals import DrawnEmbedding, Goal

__all__ = ["always_reached", "in_two_steps", "mean_loss"]


def in_two_steps(goal: Goal) -> DrawnEmbedding:
    """The goal's embedding as one whose draws may share work; of another, they share the faces."""
    embed = goal.embed
    return embed if isinstance(embed, DrawnEmbedding) else DrawnEmbedding(lambda faces: (faces,), embed)


@torch.no_grad()
def mean_loss(goal: Goal, faces: Tensor, draws: int) -> Tensor:
    """(N,) mean of the goal's loss over draws, larger is better for the attacker."""
    embed = in_two_steps(goal)
    shared = embed.shared(faces)
    return torch.stack([goal.loss(embed.draw(*shared)) for _ in range(draws)]).mean(0)


@torch.no_grad()
def always_reached(goal: Goal, faces: Tensor, draws: int) -> Tensor:
    """(N,) whether faces reach the goal in every draw; those that fail once are not asked about again."""
    embed = in_two_steps(goal)
    shared = embed.shared(faces)
    always = torch.ones(len(faces), dtype=torch.bool, device=faces.device)
    for _ in range(draws):
        left = torch.nonzero(always).flatten()
        if not len(left):
            break
        always[left] = goal.of(left).reached_by(embed.draw(*(tensor[left] for tensor in shared)))
    return always
