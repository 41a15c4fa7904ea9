"""Semantic feature augmentation: gradients of a liveness network averaged over features moved towards the other class.

After "Exposing Fine-grained Adversarial Vulnerability of Face Anti-spoofing Models" (Yang et al., CVPRW 2023), whose
full text and code were not at hand: an own reading of its idea, no reproduction. Features z of a layer are augmented by
what tells the classes apart (opposite features, or class statistics) or by texture (channel statistics); the gradient
of the loss of what follows then asks for changes that matter to the decision, and not only next to this one face.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from immunecam.models.liveness_loss import LIVE
from immunecam.models.liveness_trunks import LAYERS
from immunecam.training.attacks.base import check_count
from immunecam.training.attacks.liveness_attacks import SignAttack
from immunecam.training.attacks.liveness_goal import FeatureBank, LivenessGoal

__all__ = ["LAWS", "OPERATORS", "SFA", "sfa_sweep"]

OPERATORS = ("mix", "class", "adain")
LAWS = ("fixed", "uniform", "beta")


@dataclass(frozen=True)
class SFA(SignAttack):
    """A sign attack whose gradient is averaged over K augmentations of a layer's features.

    Attributes
    ----------
    layer : str
        Of `models.liveness_trunks.LAYERS`.
    operator : str
        "mix": ``z + l (z_opposite - z)`` with a random face of the other class. "class": ``z + l (mean_opposite -
        mean_own + e)``, the means by channel and e normal with the other class's covariance of channels, the same at
        every place. "adain": channels get the mean and deviation ``(1 - l) own + l opposite`` (Huang and Belongie, ICCV
        2017).
    draws : int
        K.
    law : str
        Of l: "fixed" is always `strength`, "uniform" between 0 and it, "beta" it times Beta(1/2, 1/2).
    strength : float
        In (0, 1].
    """

    layer: str = "stage1"
    operator: str = "mix"
    draws: int = 4
    law: str = "uniform"
    strength: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "draws")
        for name, allowed in (("layer", LAYERS), ("operator", OPERATORS), ("law", LAWS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} of SFA must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength of SFA must be in (0, 1], got {self.strength!r}")

    @classmethod
    def over(cls, base: SignAttack, **settings: object) -> SFA:
        """The base attack with features augmented; `settings` are of this class."""
        own = {name: getattr(base, name) for name in ("steps", "step_size", "momentum", "random_start")}
        return cls(**(own | settings))  # type: ignore[arg-type]

    def _loss(self, goal: LivenessGoal) -> Callable[[Tensor], Tensor]:
        bank = goal.bank
        if bank is None:
            raise ValueError("SFA needs features of both classes: give the goal a FeatureBank")

        def loss(faces: Tensor) -> Tensor:
            features = goal.network.features(faces, self.layer)
            augmented = self.augmented(features.repeat(self.draws, 1, 1, 1), goal.reference.repeat(self.draws), bank)
            return goal.loss(goal.network.from_features(augmented, self.layer))

        return loss

    def augmented(self, features: Tensor, live: Tensor, bank: FeatureBank) -> Tensor:
        """One augmentation of each of the features.

        Parameters
        ----------
        features : Tensor
            (N, C, H, W) of this attack's layer.
        live : Tensor
            (N,) labels of the faces that they are of.
        bank : FeatureBank

        Returns
        -------
        Tensor
            (N, C, H, W), differentiable by `features`.
        """
        share = self._share(features)
        if self.operator == "class":
            return features + share * _class_step(features, live, bank.features(self.layer))
        opposite = bank.opposite(self.layer, live)
        if self.operator == "mix":
            return features + share * (opposite - features)
        (mean, deviation), (other_mean, other_deviation) = _statistics(features), _statistics(opposite)
        wanted_mean = mean + share * (other_mean - mean)
        wanted_deviation = deviation + share * (other_deviation - deviation)
        return (features - mean) / deviation * wanted_deviation + wanted_mean

    def _share(self, features: Tensor) -> Tensor:
        """(N, 1, 1, 1) drawn l."""
        shape = (len(features), 1, 1, 1)
        if self.law == "fixed":
            return features.new_full(shape, self.strength)
        place = torch.rand(shape, device=features.device)
        if self.law == "beta":
            place = (math.pi / 2 * place).sin().square()  # the arcsine law is Beta(1/2, 1/2)
        return self.strength * place


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C, 1, 1) mean and deviation of every channel over its places."""
    variance, mean = torch.var_mean(features, (2, 3), keepdim=True, correction=0)
    return mean, (variance + 1e-5).sqrt()


def _class_step(features: Tensor, live: Tensor, classes: tuple[Tensor, Tensor]) -> Tensor:
    """(N, C, 1, 1) from a face's class to a draw of the other one, by channel statistics."""
    means, roots = [], []
    for pool in classes:
        pooled = pool.mean((2, 3))
        means.append(pooled.mean(0))
        centred = pooled - means[-1]
        covariance = centred.T @ centred / max(1, len(pooled) - 1)
        values, vectors = torch.linalg.eigh(covariance)
        roots.append(vectors * values.clamp_min(0).sqrt())
    noise = torch.randn(len(features), features.shape[1], device=features.device, dtype=features.dtype)
    steps = [means[1] - means[0] + noise @ roots[1].T, means[0] - means[1] + noise @ roots[0].T]
    return torch.where((live == LIVE)[:, None], *steps)[..., None, None]


def sfa_sweep(
    base: SignAttack,
    *,
    layers: Iterable[str] = LAYERS,
    operators: Iterable[str] = OPERATORS,
    draws: Iterable[int] = (1, 4, 8),
    laws: Iterable[tuple[str, float]] = (("fixed", 0.3), ("uniform", 0.5), ("beta", 0.5)),
) -> Iterator[SFA]:
    """Every combination of SFA's settings over a base attack, for a table of what they are worth."""
    for layer, operator, count, (law, strength) in itertools.product(layers, operators, draws, laws):
        yield SFA.over(base, layer=layer, operator=operator, draws=count, law=law, strength=strength)
