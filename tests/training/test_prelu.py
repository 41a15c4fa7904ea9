"""PReLU and its vectorised gradient, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import library

from immunecam.training.prelu import prelu, with_fast_prelu


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (4, 3), (2, 3, 7)])
@pytest.mark.parametrize("slopes", [3, 1])
def test_it_is_prelu(shape, slopes):
    torch.manual_seed(0)
    slope = torch.tensor([0.25, -0.5, 1.5], dtype=torch.float64)[:slopes]
    x, wanted_x = (torch.randn(shape, dtype=torch.float64).requires_grad_(True) for _ in range(2))
    with torch.no_grad():
        x.flatten()[0] = 0.0
        wanted_x.copy_(x)
    weight = torch.randn(shape, dtype=torch.float64)
    found, wanted = prelu(x, slope), F.prelu(wanted_x, slope)
    assert torch.equal(found, wanted)
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    torch.testing.assert_close(x.grad, wanted_x.grad, rtol=1e-14, atol=0)


def test_the_operator_is_well_made():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    library.opcheck(prelu, (x, torch.rand(3)))
    library.opcheck(prelu, (x.detach().to(memory_format=torch.channels_last), torch.rand(3)))


def test_a_scripted_network_keeps_its_function_and_gradient(network):
    scripted = torch.jit.trace(network, torch.zeros(1, 3, 112, 112))
    fast = with_fast_prelu(torch.jit.freeze(scripted))
    assert "immunecam::prelu" in str(fast.graph)
    assert "aten::prelu" not in str(fast.graph)
    torch.manual_seed(0)
    gradients = []
    x = 255 * torch.rand(3, 3, 112, 112)
    for one in (network, fast):
        face = x.clone().requires_grad_(True)
        found = one(face)
        found.square().sum().backward()
        gradients.append((found.detach(), face.grad))
    for wanted, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
