"""Small faces and a small recogniser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from immunecam.training.faces import FaceSet
from immunecam.training.recognizer import Recognizer


@pytest.fixture(scope="session")
def faces() -> FaceSet:
    """Forty smooth pictures at 112 x 112."""
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(40, 1, 12, 12, generator=generator)
    large = torch.nn.functional.interpolate(small, (112, 112), mode="bicubic", align_corners=False)[:, 0]
    pixels = (127 + 50 * large).clamp(0, 255).to(torch.uint8)
    return FaceSet(pixels, tuple(f"p{n % 8}/{n}.png" for n in range(40)))


@pytest.fixture
def network() -> torch.nn.Module:
    """A recogniser of (N, 3, 112, 112) in 0..255, with the operators of real ones."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1),
        torch.nn.BatchNorm2d(8),
        torch.nn.PReLU(8),
        torch.nn.Conv2d(8, 8, 3, 2, 1, groups=8),
        torch.nn.AvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(392, 16),
    ).eval()


@pytest.fixture
def recognizer(network: torch.nn.Module) -> Recognizer:
    return Recognizer(network, "small")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    np.random.default_rng(0)
