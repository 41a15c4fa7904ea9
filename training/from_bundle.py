"""The networks of a bundle as weights that training can go on from.

A bundle's graphs keep the names of the weights, but batch normalisation is gone: at inference it is a scale and an
offset a channel, which the export puts into the convolution before it. Training needs it back, with statistics that
fit, or the first batch would undo what was learnt. So the statistics are measured on training faces, and scale and
offset are set to what makes the normalisation the identity on them (beta = mean + bias, gamma = deviation): the network
computes what the bundle computes, and is trained on like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from immunecam.errors import InputError
from immunecam.models import AIS, PIN, Eigenspace, build_model
from immunecam.models.memory import AntigenMemory
from immunecam.training.onnx_module import OnnxModule

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["eigenspace_from_bundle", "weights_from_bundle"]

# Largest difference to the bundle's own graph, of probabilities and of pixels in [-1, 1]: sums in another order.
_TOLERANCE = 1e-3

_Norm = nn.modules.batchnorm._BatchNorm


def eigenspace_from_bundle(bundle: Bundle) -> Eigenspace:
    """Mean face and eigenfaces as they are deployed; their variances are not known, and zero."""
    stored = bundle.subspace
    rows = torch.from_numpy(stored.dequantized())
    return Eigenspace(torch.from_numpy(stored.mean.copy()), rows, torch.zeros(len(rows)))


def weights_from_bundle(bundle: Bundle, faces: Tensor) -> dict[str, Tensor]:
    """The state of the bundle's network, as `models.build_model` names it.

    Parameters
    ----------
    bundle : Bundle
        With its weights in float32 or float16.
    faces : Tensor
        (N, 112, 112) in [-1, 1]: training faces, a few hundred, whose statistics the normalisation gets.

    Raises
    ------
    InputError
        If the graphs do not hold all weights of the network (quantised ones), or the network so made does not compute
        what the bundle does.
    """
    manifest = bundle.manifest
    network = build_model(manifest.kind, bundle.k, manifest.options)
    parts: list[tuple[str, nn.Module]] = [("analyzer", _Analyzer(network))]
    if network.restorer is not None:
        parts.append(("restorer", network.restorer))
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False).fill_(torch.nan)
    for role, part in parts:
        graph = bundle.graph(role)
        if graph is None:
            raise _unfit(bundle, f"it has no {role}")
        inputs = (faces,) if role == "analyzer" else (faces, faces)
        _fill(bundle, role, part, graph, inputs)
    left = [name for name, parameter in network.named_parameters() if parameter.isnan().any()]
    if left:
        raise _unfit(bundle, f"its graphs do not hold {left[0]}")
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


class _Analyzer(nn.Module):
    """The network as the analyzer's graph has it: its weights are named from here."""

    def __init__(self, network: AIS | PIN) -> None:
        super().__init__()
        self.network = network

    def forward(self, faces: Tensor) -> Tensor:
        return self.network(faces)


def _fill(bundle: Bundle, role: str, part: nn.Module, graph: bytes, inputs: tuple[Tensor, ...]) -> None:
    import onnx

    model = onnx.load_from_string(graph)
    stored = {_plain(item.name): onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    slopes = iter([stored.get(_plain(node.input[1])) for node in model.graph.node if node.op_type == "PRelu"])
    with torch.no_grad():
        for name, layer, normalised in _in_order(part, inputs):
            if isinstance(layer, nn.PReLU):
                _copy(bundle, role, layer.weight, next(slopes, None), f"the slopes of {name}")
                continue
            own = dict(layer.named_parameters(recurse=False))
            if normalised is not None:
                _identity(normalised)
                # One offset is left of the layer's own, if it has one, and the normalisation's.
                if "bias" in own:
                    own.pop("bias").zero_()
                offset = stored.get(f"{name}.weight_bias", stored.get(f"{name}.bias"))
                _copy(bundle, role, normalised.bias, offset, f"the offset after {name}")
            for key, tensor in own.items():
                _copy(bundle, role, tensor, stored.get(f"{name}.{key}"), f"{name}.{key}")
        for name, memory in part.named_modules():
            if isinstance(memory, AntigenMemory):
                _copy(bundle, role, memory.slots, stored.get(f"{name}.slots"), f"{name}.slots")
        _measure(part, inputs)
        try:
            wanted = OnnxModule(model, len(inputs))(*inputs)
        except ValueError as error:
            raise _unfit(bundle, str(error)) from None
        apart = float((part(*inputs) - wanted).abs().max())
    if not apart <= _TOLERANCE:
        raise _unfit(bundle, f"its {role}, taken apart and put together, differs by {apart:.2g}")


def _in_order(part: nn.Module, inputs: tuple[Tensor, ...]) -> Iterator[tuple[str, nn.Module, _Norm | None]]:
    """Layers with weights as the graph has them, each with the normalisation that follows it, if one does."""
    met: list[tuple[str, nn.Module]] = []
    with ExitStack() as hooks:
        for name, module in part.named_modules():
            if any(True for _ in module.parameters(recurse=False)):

                def note(module: nn.Module, *_: Any, name: str = name) -> None:
                    met.append((name, module))

                hooks.enter_context(module.register_forward_hook(note))
        part(*(x[:1] for x in inputs))
    following = [*met[1:], ("", part)]
    for (name, layer), (_, after) in zip(met, following, strict=True):
        if not isinstance(layer, _Norm):
            yield name, layer, after if isinstance(after, _Norm) else None


def _identity(norm: _Norm) -> None:
    """Scale 1 and statistics that change nothing, until they are measured."""
    norm.weight.fill_(1)
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)


def _measure(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Statistics of these faces for every normalisation, which stays the offset that it is now."""
    seen: dict[_Norm, tuple[Tensor, Tensor]] = {}
    with ExitStack() as hooks:
        for norm in (module for module in part.modules() if isinstance(module, _Norm)):

            def note(module: _Norm, given: tuple[Tensor]) -> None:
                channels = given[0].transpose(0, 1).flatten(1)
                seen[module] = channels.mean(1), channels.var(1)

            hooks.enter_context(norm.register_forward_pre_hook(note))
        part(*inputs)
    for norm, (mean, variance) in seen.items():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.add_(mean)


def _copy(bundle: Bundle, role: str, tensor: Tensor, value: np.ndarray | None, what: str) -> None:
    if value is None or value.size != tensor.numel():
        raise _unfit(bundle, f"its {role} does not hold {what}")
    tensor.copy_(torch.from_numpy(value.astype(np.float32)).reshape(tensor.shape))


def _plain(name: str) -> str:
    """A weight's name, however it is stored."""
    return name.removesuffix(".half")


def _unfit(bundle: Bundle, why: str) -> InputError:
    return InputError(
        f"The bundle {bundle.path} cannot be trained on: {why}. Start from its run, or from a bundle "
        "whose weights are stored as float32 or float16."
    )
