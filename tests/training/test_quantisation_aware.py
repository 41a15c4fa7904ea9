"""Rounding in training is that of int8, and leaves no trace in what is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from immunecam.models import build_model
from immunecam.training.quantisation_aware import quantise_in_training, rounded_to_int8

_OPTIONS = {"width": 8, "dim": 16, "act": "relu", "restorer": {"widths": [8], "depths": [1], "act": "relu"}}


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, (3, 7), elements=st.floats(-100, 100, width=32)), st.booleans())
def test_values_come_onto_the_grid(values, each):
    found = rounded_to_int8(torch.from_numpy(values), each=each).numpy().astype(np.float64)
    exact = values.astype(np.float64)
    largest = np.abs(exact).max(1, keepdims=True) if each else np.abs(exact).max()
    step = np.maximum(largest / 127, np.finfo(np.float32).tiny)
    np.testing.assert_allclose(found / step, np.rint(found / step), atol=1e-3)
    assert (np.abs(found - exact) <= 0.5001 * step).all()


def test_the_gradient_goes_straight_through():
    values = torch.linspace(-1, 2, 9, requires_grad=True)
    (rounded_to_int8(values) * torch.arange(9.0)).sum().backward()
    assert values.grad.tolist() == list(range(9))


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3, padding=1), nn.Linear(6, 4)])
def test_a_layer_rounds_what_int8_rounds_while_it_is_trained(layer):
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    plain = layer.eval()(x)
    network = nn.Sequential(layer)
    quantise_in_training(network)
    assert torch.equal(network.eval()(x), plain)
    weight = rounded_to_int8(layer.weight, each=True)
    functional = nn.functional.conv2d if isinstance(layer, nn.Conv2d) else nn.functional.linear
    options = {"padding": 1} if isinstance(layer, nn.Conv2d) else {}
    wanted = rounded_to_int8(functional(rounded_to_int8(x), weight, layer.bias, **options))
    found = network.train()(x)
    assert torch.equal(found, wanted)
    assert not torch.equal(found, plain)
    found.square().sum().backward()
    assert layer.weight.grad.abs().min() > 0


def test_what_is_saved_is_a_plain_network():
    torch.manual_seed(0)
    trained, plain = build_model("edge", 12, _OPTIONS), build_model("edge", 12, _OPTIONS)
    quantise_in_training(trained)
    assert list(trained.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(trained.state_dict())
    faces = torch.rand(2, 112, 112) * 2 - 1
    with torch.no_grad():
        assert torch.equal(trained.eval().logits(faces), plain.eval().logits(faces))
        assert not torch.equal(trained.train().logits(faces), plain.train().logits(faces))
