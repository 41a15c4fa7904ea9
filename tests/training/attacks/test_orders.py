"""An order of a face's own hides little of it from who knows what channels look like."""

from __future__ import annotations

import pytest
import torch

from immunecam.training.attacks.orders import OrderFinder


@pytest.mark.parametrize("side", [4, 28])
def test_channels_go_back_to_their_places(side):
    generator = torch.Generator().manual_seed(0)
    means = torch.nn.functional.interpolate(torch.randn(1, 9, 4, 4, generator=generator), side)[0]
    faces = means + torch.randn(40, 9, side, side, generator=generator) * 0.5
    orders = torch.rand(8, 9, generator=generator).argsort(1)
    shuffled = torch.stack([face[order] for face, order in zip(faces[:8], orders, strict=True)])
    assert not torch.equal(shuffled, faces[:8])
    assert torch.equal(OrderFinder(faces[8:])(shuffled), faces[:8])


def test_channels_that_differ_in_their_size_alone_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    faces = torch.randn(60, 3, 4, 4, generator=generator) * torch.tensor([0.1, 1.0, 10.0]).reshape(3, 1, 1)
    assert torch.equal(OrderFinder(faces[4:])(faces[:4].flip(1)), faces[:4])


def test_what_must_raise():
    with pytest.raises(ValueError, match="told from two faces or more, got 1"):
        OrderFinder(torch.zeros(1, 3, 4, 4))
