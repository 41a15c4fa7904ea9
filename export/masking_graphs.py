"""A mask and its recogniser as ONNX graphs, and how far they are from PyTorch. The key is in none of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from immunecam.errors import InputError
from immunecam.export.card_graph import simplified_graph
from immunecam.export.plan_parity import run_graph
from immunecam.export.quick_slopes import with_quick_slopes
from immunecam.export.torch_graph import graph_from_module
from immunecam.models.block_dct import block_inverse, block_margin, block_stride
from immunecam.models.frequency import FrequencyMask
from immunecam.models.masked_recognizer import MaskedRecognizer

__all__ = ["LIMIT_COSINE", "MaskingGraphs", "masking_graphs"]

LIMIT_COSINE = 1e-4
"""Largest ``1 - cos`` between an embedding by ONNX Runtime and the same by PyTorch."""


@dataclass(frozen=True)
class MaskingGraphs:
    """What was exported.

    Attributes
    ----------
    graphs : dict of bytes
        By role, as `immunecam.runtime.masking_record.MaskingRecord` says.
    parity : dict
        Faces that were compared, and the largest differences.
    """

    graphs: dict[str, bytes]
    parity: dict[str, Any]


class _Mask(nn.Module):
    """Faces to channels in their own order."""

    def __init__(self, mask: FrequencyMask) -> None:
        super().__init__()
        spec, undo = mask.spec, mask.matrix().T.to(mask.weight)
        self.margin, self.stride = block_margin(spec.upsampling), block_stride(spec.upsampling)
        self.weight = nn.Parameter(torch.einsum("oc,ckij->okij", undo, mask.weight), requires_grad=False)
        self.bias = nn.Parameter(undo @ mask.bias, requires_grad=False)

    def forward(self, faces: Tensor) -> Tensor:
        planes = faces.unsqueeze(1)
        if self.margin:
            planes = F.pad(planes, (self.margin,) * 4, mode="replicate")
        return F.conv2d(planes, self.weight, self.bias, stride=self.stride)


class _Picture(nn.Module):
    """Channels in their own order to what they show: the least-squares face, dropped channels being at their mean."""

    def __init__(self, mask: FrequencyMask) -> None:
        super().__init__()
        spec = mask.spec
        mean, std = mask.statistics()
        inverse = block_inverse(spec.upsampling)[list(spec.frequencies[0])]
        self.stride = block_stride(spec.upsampling)
        self.weight = nn.Parameter((inverse * std.reshape(-1, 1, 1, 1)).float(), requires_grad=False)
        self.mean = nn.Parameter((mean / std).reshape(-1, 1, 1).float(), requires_grad=False)

    def forward(self, channels: Tensor) -> Tensor:
        return F.conv_transpose2d(channels + self.mean, self.weight, stride=self.stride)[:, 0]


def masking_graphs(
    recognizer: MaskedRecognizer, faces: NDArray[np.float32], *, tell: Callable[[str], None] = lambda what: None
) -> MaskingGraphs:
    """Export a recogniser with its mask, and compare what came out with it.

    Parameters
    ----------
    recognizer : MaskedRecognizer
        In evaluation mode, on the CPU, of grey faces.
    faces : ndarray
        (N, 112, 112) float32 in [-1, 1], for the comparison.
    tell : callable, optional
        Called with what is being done.

    Raises
    ------
    InputError
        If it has no mask or one of colours, or ONNX Runtime and PyTorch differ by more than `LIMIT_COSINE`.
    """
    mask = recognizer.mask
    if mask is None:
        raise InputError("the recogniser sees plain faces: export one that was trained on masked ones")
    if mask.spec.colours != "grey":
        raise InputError(
            "the mask is of colour faces, but purified faces are grey: export one that was trained with --colours grey"
        )
    side, count = mask.spec.positions, mask.spec.channels
    shape = (count, side, side)
    modules: dict[str, tuple[nn.Module, str, str, tuple[int, ...]]] = {
        "mask": (_Mask(mask), "faces", "channels", (112, 112)),
        "picture": (_Picture(mask), "channels", "faces", shape),
        "recognizer": (recognizer.network, "channels", "embedding", shape),
    }
    graphs = {}
    for role, (module, takes, gives, form) in modules.items():
        tell(f"exporting the {role}")
        contiguous = module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        graphs[role] = with_quick_slopes(
            simplified_graph(graph_from_module(contiguous, [takes], gives, shape=form), f"the exported {role}")
        )
    tell("comparing")
    open_channels = run_graph(graphs["mask"], "channels")({"faces": faces})
    flat = open_channels.reshape(len(faces), count, -1)
    channels = (mask.matrix().numpy().astype(np.float32) @ flat).reshape(open_channels.shape)
    found = run_graph(graphs["recognizer"], "embedding")({"channels": channels})
    with torch.no_grad():
        seen = recognizer.channels(torch.from_numpy(faces))
        wanted = recognizer.embed(seen).numpy()
    worst = float((1 - (found * wanted).sum(1) / np.linalg.norm(found, axis=1)).max())
    if not worst < LIMIT_COSINE:
        raise InputError(
            f"ONNX and PyTorch differ by {worst:.2g} in the cosine of a masked face, allowed is {LIMIT_COSINE:g}"
        )
    parity = {
        "faces": len(faces),
        "max_abs_channel": float(np.abs(channels - seen.numpy()).max()),
        "max_one_minus_cosine": max(0.0, worst),
    }
    return MaskingGraphs(graphs, parity)
