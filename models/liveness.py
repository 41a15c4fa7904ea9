"""Liveness: is this a face, or a picture of one? A shared trunk with a head for every annotation.

The multitask form is that of CelebA-Spoof's AENet (Zhang et al., ECCV 2020): beside live or spoof, the trunk is asked
for what live faces have (attributes, depth) and what spoofs have (type, illumination, reflection).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from immunecam.models.liveness_trunks import LAYERS, TRUNKS

__all__ = ["AUXILIARY", "MAP_SIDE", "LivenessNetwork", "check_side", "check_tasks"]

AUXILIARY = ("attributes", "spoof_type", "illumination", "depth", "reflection")
MAP_SIDE = 14  # of depth and reflection maps, in AENet
_SMALLEST = 64


def check_side(side: int) -> int:
    """The side of the network's pictures, if there can be a network for it.

    Raises
    ------
    ValueError
        Below 64 px, or no multiple of 16.
    """
    if side < _SMALLEST or side % 16:
        raise ValueError(
            f"liveness pictures are {side} px wide, but they must be {_SMALLEST} or more and a multiple of 16: use 112"
        )
    return side


def check_tasks(tasks: Iterable[str]) -> tuple[str, ...]:
    """Auxiliary tasks in the order of `AUXILIARY`, each once.

    Raises
    ------
    ValueError
        For an unknown one.
    """
    wanted = set(tasks)
    unknown = sorted(wanted - set(AUXILIARY))
    if unknown:
        raise ValueError(f"unknown liveness task {unknown[0]!r}: use some of {', '.join(AUXILIARY)}, or none")
    return tuple(task for task in AUXILIARY if task in wanted)


class LivenessNetwork(nn.Module):
    """Live or spoof, and any of the auxiliary tasks.

    Parameters
    ----------
    backbone : str
        Of `TRUNKS`: "vgg", "resnet", "densenet", "swin".
    tasks : iterable of str
        Of `AUXILIARY`; those left out have no head.
    attributes, types, illuminations : int
        Classes of these heads. CelebA-Spoof has 40, 11 and 5, counting the class "live" of the last two.
    side : int
        Of the pictures, at least 64 and a multiple of 16.

    Raises
    ------
    ValueError
        If an argument is none of these.
    """

    def __init__(
        self,
        backbone: str = "resnet",
        tasks: Iterable[str] = AUXILIARY,
        *,
        attributes: int = 40,
        types: int = 11,
        illuminations: int = 5,
        side: int = 112,
    ) -> None:
        super().__init__()
        if backbone not in TRUNKS:
            raise ValueError(f"unknown backbone {backbone!r}: use one of {', '.join(TRUNKS)}")
        self.backbone, self.tasks, self.side = backbone, check_tasks(tasks), check_side(side)
        self.trunk = TRUNKS[backbone](side)
        channels = self.trunk.channels
        classes = {"live": 2, "attributes": attributes, "spoof_type": types, "illumination": illuminations}
        self.classifiers = nn.ModuleDict(
            {name: nn.Linear(channels, count) for name, count in classes.items() if name in ("live", *self.tasks)}
        )
        self.maps = nn.ModuleDict(
            {
                name: nn.Conv2d(channels, count, 3, padding=1, bias=False)
                for name, count in {"depth": 1, "reflection": 3}.items()
                if name in self.tasks
            }
        )

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the outputs: "live" and the tasks."""
        return ("live", *self.tasks)

    def features(self, pictures: Tensor, layer: str) -> Tensor:
        """(N, C, H, W) features of pictures (N, 3, side, side) RGB in [-1, 1] after a layer of `LAYERS`."""
        features: Tensor = self.trunk(pictures, until=layer)
        return features

    def from_features(self, features: Tensor, layer: str) -> dict[str, Tensor]:
        """The outputs that follow from the features of a layer."""
        return self._heads(self.trunk(features, after=layer) if layer != LAYERS[-1] else features)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Outputs by head.

        Parameters
        ----------
        pictures : Tensor
            (N, 3, side, side) RGB in [-1, 1].

        Returns
        -------
        dict
            "live" (N, 2) logits of live and spoof, "attributes" (N, A) logits, "spoof_type" (N, T) and "illumination"
            (N, I) logits, "depth" (N, 1, 14, 14) and "reflection" (N, 3, 14, 14) in [0, 1].
        """
        return self._heads(self.trunk(pictures))

    def _heads(self, x: Tensor) -> dict[str, Tensor]:
        pooled = x.mean((2, 3))
        outputs = {name: head(pooled) for name, head in self.classifiers.items()}
        for name, head in self.maps.items():
            outputs[name] = F.interpolate(head(x).sigmoid(), (MAP_SIDE, MAP_SIDE), mode="bilinear", align_corners=False)
        return outputs
