"""SSIM and PSNR by an independent computation, and the recovery network's shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from immunecam.models.recovery import RecoveryNetwork
from immunecam.models.similarity import psnr, ssim


def by_scipy(one: np.ndarray, other: np.ndarray) -> float:
    """Wang's SSIM of two planes of grey levels: scipy's Gaussian cut at five pixels, its border left out."""
    one, other = (one + 1) * 127.5, (other + 1) * 127.5

    def blurred(x: np.ndarray) -> np.ndarray:
        return scipy.ndimage.gaussian_filter(x, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

    a, b = blurred(one), blurred(other)
    va, vb, ab = blurred(one * one) - a * a, blurred(other * other) - b * b, blurred(one * other) - a * b
    c1, c2 = 2.55**2, 7.65**2
    return float(((2 * a * b + c1) * (2 * ab + c2) / ((a * a + b * b + c1) * (va + vb + c2))).mean())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), noise=st.floats(0, 1))
def test_ssim(seed, noise):
    generator = torch.Generator().manual_seed(seed)
    one = torch.rand(1, 1, 24, 30, generator=generator, dtype=torch.float64) * 2 - 1
    other = one + noise * torch.randn(one.shape, generator=generator, dtype=torch.float64)
    assert float(ssim(one, other)) == pytest.approx(by_scipy(one[0, 0].numpy(), other[0, 0].numpy()), abs=1e-9)


def test_the_same_picture_and_its_negative():
    one = torch.rand(2, 3, 20, 20) * 2 - 1
    assert torch.allclose(ssim(one, one), torch.ones(2))
    assert bool((ssim(one, -one) < 0).all())
    assert torch.allclose(psnr(one, one), torch.full((2,), 100.0))
    assert float(psnr(one[:1] * 0, one[:1] * 0 + 0.2)) == pytest.approx(10 * math.log10(4 / 0.04), rel=1e-5)


@pytest.mark.parametrize(("positions", "widths"), [(14, (8, 8, 8)), (28, (8, 8, 8)), (56, (8, 8)), (112, (4, 4, 4))])
def test_a_recovery_has_the_size_of_a_face(positions, widths):
    found = RecoveryNetwork(5, positions, 3, widths)(torch.randn(2, 5, positions, positions))
    assert tuple(found.shape) == (2, 3, 112, 112)
    assert float(found.detach().abs().max()) <= 1


def test_what_must_raise():
    with pytest.raises(ValueError, match=r"positions that divide 112 and a width, got 15 and \[8\]"):
        RecoveryNetwork(5, 15, widths=[8])
