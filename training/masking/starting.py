"""A recogniser of masked faces that does not start from nothing: another's weights behind a fitted unmasking layer.

This project's; the papers train from the start, on more faces than are to be had here. The plain network to compare
with starts from the same weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from immunecam.errors import InputError
from immunecam.models.frequency import luminance
from immunecam.models.mobile_face import MobileFace
from immunecam.training.attacks.inversion import LinearRecovery
from immunecam.training.faces import FaceSet
from immunecam.training.recognizer import Recognizer

__all__ = ["StartingWeights", "train_mode"]

_SCALE = 127.5 / 128  # such networks see (u - 127.5) / 128, ours u / 127.5 - 1
_BATCH = 64
_ALIKE = 0.999  # cosine of both networks' embeddings of drawn faces, below which the weights are another network's


@dataclass(frozen=True, eq=False)
class StartingWeights:
    """The weights of a MobileFaceNet, in the order in which it uses them.

    Attributes
    ----------
    path : Path
        Of its ONNX file.
    tensors : tuple of Tensor
        Weight and bias of every convolution and of the last product, and slopes of rectifiers.
    sha256 : str
        Of the file.
    """

    path: Path
    tensors: tuple[Tensor, ...]
    sha256: str

    @classmethod
    def load(cls, path: str | Path) -> StartingWeights:
        """Read an ONNX recogniser that takes (N, 3, 112, 112) in 0..255.

        Raises
        ------
        InputError
            If it cannot be read or is no such network.
        """
        import onnx

        path = Path(path)
        try:
            data = path.read_bytes()
            model = onnx.load_from_string(data)
            tensors = tuple(_in_order(model.graph, onnx.numpy_helper.to_array))
        except Exception as error:  # onnx has no common base of its errors
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"a recogniser cannot start from {str(path)!r} ({reason}): give a MobileFaceNet as ONNX"
            ) from None
        return cls(path, tensors, hashlib.sha256(data).hexdigest())

    @torch.no_grad()
    def put_into(self, network: MobileFace) -> None:
        """Give a network these weights, and see that it then is the recogniser they are of.

        Normalisation is part of the weights: statistics become 0 and 1, so training has to leave them alone
        (`train_mode`).

        Raises
        ------
        InputError
            If the network has another shape than the weights' one, or sees something else in faces.
        """
        left = list(self.tensors)
        try:
            for layer in (*network.trunk.modules(), *network.leave.modules()):
                if isinstance(layer, nn.Conv2d):
                    weight = left.pop(0)
                    if layer is network.trunk[0]:
                        # Grey faces: three equal planes are one plane with the sum of their weights.
                        weight = weight.sum(1, keepdim=True).expand_as(layer.weight) * (_SCALE / layer.in_channels)
                    layer.weight.copy_(weight.reshape(layer.weight.shape))
                elif isinstance(layer, nn.BatchNorm2d):
                    layer.weight.fill_(1)
                    layer.bias.copy_(left.pop(0).flatten())
                    layer.running_mean.zero_()  # type: ignore[union-attr]
                    layer.running_var.fill_(1 - layer.eps)  # type: ignore[union-attr]
                elif hasattr(layer, "slope"):
                    layer.slope.copy_(left.pop(0).flatten())
        except (IndexError, RuntimeError):
            left = [torch.empty(0)]
        if left:
            raise InputError(
                f"{str(self.path)!r} has not the layers of this network: give a MobileFaceNet, and leave width at 1"
            )
        faces = torch.rand(4, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
        faces = nn.functional.avg_pool2d(faces, 9, 1, 4)
        before = network.training
        network.eval()
        first = network.trunk[0]
        assert isinstance(first, nn.Conv2d)
        planes = faces.unsqueeze(1).expand(-1, first.in_channels, -1, -1)
        ours = network.leave(network.trunk(planes)).flatten(1)
        network.train(before)
        alike = nn.functional.cosine_similarity(ours, Recognizer.load(self.path)(faces), dim=1)
        if not float(alike.min()) > _ALIKE:
            raise InputError(
                f"with the weights of {str(self.path)!r} the network does not see what that recogniser sees (cosine "
                f"{float(alike.min()):.3f}): it is no MobileFaceNet of faces scaled by (u - 127.5) / 128"
            )

    def start(self, network: MobileFace, mask: Callable[[Tensor], Tensor] | None, faces: FaceSet) -> None:
        """Likewise, and fit the unmasking layer to luminance, if there is such a layer."""
        self.put_into(network)
        if network.enter is None or mask is None:
            return
        solved = LinearRecovery.fitted(mask, faces.batches(_BATCH))
        weight, bias = (_grey(part, solved.larger**2) for part in (solved.weight, solved.bias))
        network.enter.take(weight.reshape(network.enter.weight.shape), bias.flatten())


def _grey(part: Tensor, cells: int) -> Tensor:
    """(1, 1, cells, ...) of a solution whose first axis is that many rows for the one plane, or for R, G and B."""
    planes = part.reshape(1, -1, cells, part[0].numel())
    return luminance(planes) if planes.shape[1] == 3 else planes


def train_mode(network: nn.Module, *, frozen: bool) -> None:
    """Training mode, in which frozen normalisation keeps its statistics: they are part of the weights, and mixes of
    faces have others than faces."""
    network.train()
    if frozen:
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()


def _in_order(graph: Any, array: Callable[[Any], Any]) -> Iterator[Tensor]:
    """Weight and bias of each linear layer, which may come as a node of its own, and slopes."""
    constants = {item.name: torch.from_numpy(array(item).copy()) for item in graph.initializer}
    nodes = list(graph.node)
    for place, node in enumerate(nodes):
        given = [constants[name] for name in node.input if name in constants]
        if node.op_type in ("Conv", "Gemm", "MatMul") and given:
            weight = given[0]
            transposed = node.op_type == "MatMul" or (node.op_type == "Gemm" and not _transposed(node))
            yield weight.T if transposed else weight
            bias = given[1] if len(given) > 1 else None
            after = nodes[place + 1] if place + 1 < len(nodes) else None
            if bias is None and after is not None and after.op_type == "Add":
                bias = next((constants[name] for name in after.input if name in constants), None)
            yield torch.zeros(weight.shape[1 if transposed else 0]) if bias is None else bias
        elif node.op_type == "PRelu":
            if not given:
                raise ValueError("a rectifier without slopes")
            yield given[0]


def _transposed(node: Any) -> bool:
    return any(item.name == "transB" and item.i for item in node.attribute)
