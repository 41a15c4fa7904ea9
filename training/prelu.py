"""PReLU with a gradient that does not hold a CPU up.

PyTorch's kernel of the backward pass works on single numbers on a CPU, and was half the time of an attack on
MobileFaceNet. A recogniser's slopes are fixed, so the gradient of the input is all that is wanted, and two vectorised
passes give it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, library

__all__ = ["prelu", "with_fast_prelu"]

_PATTERN = """graph(%x, %slope):
  %y = {}(%x, %slope)
  return (%y)"""


@library.custom_op("immunecam::prelu", mutates_args=())
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """PReLU of (N, C, ...) with slopes (C,) or (1,) that no gradient is wanted of."""
    return F.prelu(x, slope)


@prelu.register_fake
def _(x: Tensor, slope: Tensor) -> Tensor:
    return torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    x, slope = ctx.saved_tensors
    positive = torch.ops.aten.threshold_backward(gradient, x, 0)
    # Where x is positive both ends are the gradient; elsewhere it goes from zero to the gradient by the slope.
    return positive.lerp_(gradient, slope.view(-1, *[1] * (x.dim() - 2))), None


prelu.register_autograd(_backward, setup_context=_setup_context)


def with_fast_prelu(network: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """A frozen TorchScript network whose PReLUs are this one; nothing but its time changes."""
    torch._C._jit_pass_custom_pattern_based_rewrite_graph(  # what PyTorch's own quantisation rewrites graphs with
        _PATTERN.format("aten::prelu"), _PATTERN.format("immunecam::prelu"), network.graph
    )
    return network
