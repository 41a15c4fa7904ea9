"""A bundle as an attacker who knows everything sees it: the deployed weights, differentiable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from immunecam.errors import InputError
from immunecam.models import Purification
from immunecam.training.from_bundle import eigenspace_from_bundle
from immunecam.training.onnx_module import OnnxModule

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["purification_from_bundle"]


def purification_from_bundle(bundle: Bundle, *, device: str | torch.device = "cpu") -> Purification:
    """The purification of a bundle from its verified bytes, with gradients to the faces.

    It is what the runtime computes (int8 eigenfaces and all), but for the roundings to 8 bits after projection and
    restoration, which have no derivative and are left out. Networks in int8 are computed node by node, straight-through
    where they round; a backend that fuses nodes rounds some numbers the other way, which later layers can spread to
    grey levels (as much as quantisation itself changes). So what an attack is worth, the runtime decides.

    Raises
    ------
    InputError
        If a graph has an operator without a differentiable form here.
    """
    space = eigenspace_from_bundle(bundle)
    restorer = None if bundle.graph("restorer") is None else _network(bundle, "restorer", 2)
    return Purification(space, _network(bundle, "analyzer", 1), restorer).to(device).requires_grad_(False)


def _network(bundle: Bundle, role: str, inputs: int) -> OnnxModule:
    import onnx

    try:
        return OnnxModule(onnx.load_from_string(bundle.graph(role)), inputs)
    except ValueError as error:
        raise InputError(f"The {role} of the bundle {bundle.path} cannot be attacked by gradients: {error}.") from None
