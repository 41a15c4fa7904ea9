"""A recogniser that sees masked faces, or for comparison the same network on plain ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from immunecam.models.frequency import FrequencyMask, planes_wanted
from immunecam.models.mobile_face import MobileFace

__all__ = ["MaskedRecognizer"]


class MaskedRecognizer(nn.Module):
    """Faces to embeddings, through a mask.

    Parameters
    ----------
    mask : FrequencyMask or None
        None: the network sees the faces.
    network : MobileFace
        With as many inputs and positions as the mask gives; of plain faces, one or three inputs and 112.

    Raises
    ------
    ValueError
        If the network was made for another set of channels.
    """

    def __init__(self, mask: FrequencyMask | None, network: MobileFace) -> None:
        super().__init__()
        given = (network.inputs, 112) if mask is None else (mask.spec.channels, mask.spec.positions)
        if given != (network.inputs, network.positions) or (mask is None and network.inputs not in (1, 3)):
            raise ValueError(
                f"the recogniser takes {network.inputs} channels at {network.positions} positions a side, and faces "
                f"come with {given[0]} at {given[1]}: use the mask that it was trained with"
            )
        self.mask, self.network = mask, network

    def channels(self, faces: Tensor, orders: Tensor | None = None) -> Tensor:
        """What the network sees of faces (N, 112, 112) or (N, 3, 112, 112) in [-1, 1]."""
        if self.mask is None:
            return planes_wanted(faces, "grey" if self.network.inputs == 1 else "ycbcr")
        channels: Tensor = self.mask(faces, orders)
        return channels

    def embed(self, channels: Tensor) -> Tensor:
        """(N, E) of unit length for what `channels` gave."""
        embeddings: Tensor = self.network(channels.contiguous(memory_format=torch.channels_last))
        return embeddings

    def forward(self, faces: Tensor, orders: Tensor | None = None) -> Tensor:
        """(N, E) embeddings of unit length; `orders` as of `FrequencyMask`."""
        return self.embed(self.channels(faces, orders))
