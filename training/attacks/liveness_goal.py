"""What an attacker of a liveness network wants: the wrong answer of a head, or through it of the decision."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch
from torch import Tensor

from immunecam.models.liveness import LivenessNetwork
from immunecam.models.liveness_loss import LIVE, SPOOF, LivenessLabels, head_losses

__all__ = ["FeatureBank", "LivenessGoal"]


@dataclass(frozen=True, eq=False)
class FeatureBank:
    """Faces of both classes that an attacker has, and what a network makes of them.

    Attributes
    ----------
    network : LivenessNetwork
        The attacked one, in evaluation mode.
    pictures : Tensor
        (M, 3, side, side) RGB in [-1, 1].
    live : Tensor
        (M,) 0 live, 1 spoof; both must be there.
    """

    network: LivenessNetwork
    pictures: Tensor
    live: Tensor
    _kept: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if len(self.pictures) != len(self.live):
            raise ValueError(f"a bank of {len(self.pictures)} pictures has {len(self.live)} labels")
        for value, name in ((LIVE, "live faces"), (SPOOF, "spoofs")):
            if not bool((self.live == value).any()):
                raise ValueError(f"a bank of features needs both classes, but has no {name}")

    @torch.no_grad()
    def features(self, layer: str) -> tuple[Tensor, Tensor]:
        """Features (M', C, H, W) of live faces and of spoofs after a layer; computed once."""
        if layer not in self._kept:
            parts = [self.network.features(part, layer) for part in self.pictures.split(64)]
            whole = torch.cat(parts)
            self._kept[layer] = whole[self.live == LIVE], whole[self.live == SPOOF]
        return self._kept[layer]

    def opposite(self, layer: str, live: Tensor) -> Tensor:
        """(N, C, H, W) a random face's features for each label (N,), of the other class."""
        of_live, of_spoof = self.features(layer)
        drawn = [pool[torch.randint(len(pool), (len(live),), device=live.device)] for pool in (of_spoof, of_live)]
        return torch.where((live == LIVE)[:, None, None, None], *drawn)


@dataclass(frozen=True, eq=False)
class LivenessGoal:
    """To be judged wrongly; called with faces it is the attacker's loss.

    Attributes
    ----------
    network : LivenessNetwork
        In evaluation mode.
    labels : LivenessLabels
        Of the faces.
    head : str
        Whose loss is driven up: "live" or one of the network's tasks. Heads share a trunk, so that the attack on
        another head may change the decision, too.
    bank : FeatureBank, optional
        For attacks that augment features.
    """

    network: LivenessNetwork
    labels: LivenessLabels
    head: str = "live"
    bank: FeatureBank | None = None

    def __post_init__(self) -> None:
        if self.head not in self.network.heads:
            raise ValueError(f"the network has no head {self.head!r}: use one of {', '.join(self.network.heads)}")
        if self.labels.of(self.head) is None:
            raise ValueError(f"the faces have no labels for {self.head!r}: attack another head")
        object.__setattr__(self, "labels", self.labels.conventional())

    @property
    def reference(self) -> Tensor:
        """(N,) whether each face is a spoof; its length is the goal's."""
        return self.labels.live

    def __call__(self, faces: Tensor) -> Tensor:
        """(N,) loss of the head for faces (N, 3, side, side) in [-1, 1]; larger is better for the attacker."""
        return self.loss(self.network(faces))

    def loss(self, outputs: dict[str, Tensor]) -> Tensor:
        """(N,) the same of the network's outputs; these may be K of each face, face after face in each of K rounds."""
        output = outputs[self.head]
        rounds = len(output) // len(self.labels)
        labels = self.labels if rounds == 1 else self.labels.at(torch.arange(len(self.labels)).repeat(rounds))
        losses = head_losses({self.head: output}, labels)[self.head]
        return losses.reshape(rounds, -1).mean(0)

    @torch.no_grad()
    def reached(self, faces: Tensor) -> Tensor:
        """(N,) whether a spoof passes as live, or a live face is taken for a spoof, whatever head is attacked."""
        return self.network(faces)["live"].argmax(1) != self.labels.live

    def of(self, chosen: Tensor) -> LivenessGoal:
        """The goal of some of the faces, by index or mask."""
        return dataclasses.replace(self, labels=self.labels.at(chosen))
