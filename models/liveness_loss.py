"""What liveness networks are trained for: one term a head, weighted as in AENet, on CelebA-Spoof's labels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LIVE", "SPOOF", "WEIGHTS", "LivenessLabels", "head_losses", "liveness_loss"]

LIVE, SPOOF = 0, 1  # CelebA-Spoof's

WEIGHTS = MappingProxyType(
    {"live": 1.0, "attributes": 1.0, "spoof_type": 0.1, "illumination": 0.01, "depth": 0.1, "reflection": 0.1}
)


@dataclass(frozen=True, eq=False)
class LivenessLabels:
    """What is known of pictures; a task whose labels are None cannot be trained.

    Attributes
    ----------
    live : Tensor
        (N,) int64: 0 live, 1 spoof.
    attributes : Tensor, optional
        (N, A) float32, 0 or 1.
    spoof_type, illumination : Tensor, optional
        (N,) int64; 0 is the class "live".
    depth : Tensor, optional
        (N, 1, 14, 14) float32 in [0, 1]; 1 is nearest.
    reflection : Tensor, optional
        (N, 3, 14, 14) float32 in [0, 1].
    """

    live: Tensor
    attributes: Tensor | None = None
    spoof_type: Tensor | None = None
    illumination: Tensor | None = None
    depth: Tensor | None = None
    reflection: Tensor | None = None

    def __len__(self) -> int:
        return len(self.live)

    def of(self, head: str) -> Tensor | None:
        """The labels of a head."""
        labels: Tensor | None = getattr(self, head)
        return labels

    def at(self, chosen: Tensor) -> LivenessLabels:
        """The labels of some of the pictures, by index or mask."""
        found = {field.name: self.of(field.name) for field in dataclasses.fields(self)}
        return LivenessLabels(**{name: value[chosen] for name, value in found.items() if value is not None})

    def to(self, device: str | torch.device) -> LivenessLabels:
        """The same on a device."""
        found = {field.name: self.of(field.name) for field in dataclasses.fields(self)}
        return LivenessLabels(**{name: value.to(device) for name, value in found.items() if value is not None})

    def conventional(self) -> LivenessLabels:
        """Zero where CelebA-Spoof has nothing: attributes and depth of spoofs, the other tasks of live faces."""
        spoof = self.live == SPOOF
        empty = {
            "attributes": spoof,
            "depth": spoof,
            "spoof_type": ~spoof,
            "illumination": ~spoof,
            "reflection": ~spoof,
        }
        changes = {}
        for name, mask in empty.items():
            labels = self.of(name)
            if labels is not None:
                changes[name] = labels.masked_fill(mask.reshape(-1, *[1] * (labels.ndim - 1)), 0)
        return dataclasses.replace(self, **changes)


def head_losses(outputs: dict[str, Tensor], labels: LivenessLabels) -> dict[str, Tensor]:
    """(N,) loss of every picture by head: cross-entropy, mean binary cross-entropy, or mean squared error.

    Raises
    ------
    ValueError
        If an output has no labels.
    """
    losses = {}
    for head, output in outputs.items():
        wanted = labels.of(head)
        if wanted is None:
            raise ValueError(f"the task {head!r} has no labels: leave it out, or give a set that has them")
        if head in ("live", "spoof_type", "illumination"):
            losses[head] = F.cross_entropy(output, wanted, reduction="none")
        elif head == "attributes":
            losses[head] = F.binary_cross_entropy_with_logits(output, wanted, reduction="none").mean(1)
        else:
            losses[head] = (output - wanted).square().flatten(1).mean(1)
    return losses


def liveness_loss(outputs: dict[str, Tensor], labels: LivenessLabels) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the heads' mean losses, and those themselves.

    Parameters
    ----------
    outputs : dict
        Of `LivenessNetwork`.
    labels : LivenessLabels
        Of the same pictures; made `conventional` here.

    Returns
    -------
    total : Tensor
        ``CE(live) + 1.0 BCE(attributes) + 0.1 CE(type) + 0.01 CE(illumination) + 0.1 MSE(depth) + 0.1
        MSE(reflection)``, of the heads that there are.
    terms : dict
        Means by head, not weighted.

    Raises
    ------
    ValueError
        If an output has no labels.
    """
    terms = {head: loss.mean() for head, loss in head_losses(outputs, labels.conventional()).items()}
    total = torch.stack([WEIGHTS[head] * term for head, term in terms.items()]).sum()
    return total, terms
