"""The estimate of the noise level, against noise of a known level."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from immunecam.models import NoiseLevel, build_model


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.2])
def test_it_reads_gaussian_noise(sigma):
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(-0.5, 0.5, 112), torch.linspace(-0.3, 0.6, 112), indexing="ij")
    picture = (rows * columns + rows**2 - columns).expand(8, 1, -1, -1)
    found = NoiseLevel().estimate(picture + sigma * torch.randn_like(picture))
    assert found.shape == (8, 1, 1, 1)
    assert torch.allclose(found, torch.full_like(found, sigma), rtol=0.05)


@settings(deadline=None, max_examples=30)
@given(*[st.floats(-1, 1) for _ in range(6)])
def test_it_does_not_see_slopes_and_straight_edges(a, b, c, d, e, f):
    y, x = torch.meshgrid(torch.linspace(-1, 1, 20).double(), torch.linspace(-1, 1, 30).double(), indexing="ij")
    picture = a + b * x + c * y + d * x * y + e * (x > 0.2) + f * y**2
    level = NoiseLevel().double()
    assert float(level.estimate(picture[None, None])) < 1e-12
    assert float(level.estimate(-picture[None, None] + 3)) < 1e-12


def test_a_channel_of_its_own():
    faces = torch.rand(2, 1, 112, 112)
    level = NoiseLevel(scale=3.0)
    channel = level(faces, (7, 9))
    assert channel.shape == (2, 1, 7, 9)
    assert torch.equal(channel, (3 * level.estimate(faces)).expand(2, 1, 7, 9))


def test_the_analyzer_can_see_it():
    torch.manual_seed(0)
    network = build_model("edge", 6, {"width": 8, "dim": 16, "sees_noise": True}).eval()
    with torch.no_grad():
        network.analyzer.stem[0].weight[:, 0] = 0  # the face itself
        flat = torch.zeros(1, 112, 112)
        assert torch.allclose(network(flat), network(flat + 0.3))
        assert not torch.allclose(network(flat), network(flat + 0.3 * torch.randn(1, 112, 112)))
