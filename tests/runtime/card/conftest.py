"""Purifiers on `cuda.core` and a card that are a CPU's (see `cuda_on_cpu`): no GPU is tested here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from cuda_on_cpu import Core, Device, card
from host_engine import HostEngine
from numpy.typing import NDArray

from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.runtime.card import opening
from immunecam.runtime.purifier import Purifier


@pytest.fixture
def emulated(core: Core, monkeypatch: pytest.MonkeyPatch) -> Core:
    """A machine with a card, as far as the package can see."""
    core.device = Device(card(cooperative=False))
    monkeypatch.setattr(opening, "OnnxRuntimeCardEngine", HostEngine)
    monkeypatch.setattr(opening, "require_cuda", lambda ort: None)
    return core


@pytest.fixture
def on_card(emulated: Core) -> Callable[..., Purifier]:
    """`Purifier.load(..., provider="cuda")` there."""
    del emulated

    def load(bundle: Bundle, **more: Any) -> Purifier:
        return Purifier.load(bundle, provider="cuda", threads=1, **more)

    return load


@pytest.fixture(scope="session")
def edge() -> Bundle:
    """The shipped bundle: int8 basis, and a restorer."""
    return Bundle.load(default_bundle())


@pytest.fixture
def pictures() -> Callable[..., NDArray[np.uint8]]:
    """Smooth pictures as faces, (N, 112, 112)."""

    def make(n: int, seed: int = 0) -> NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        return np.stack(
            [
                cv2.resize(rng.integers(0, 256, (14, 14), dtype=np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)
                for _ in range(n)
            ]
        )

    return make
