"""Liveness faces of noise, the spoofs striped, and networks that learn that in seconds."""

from __future__ import annotations

from pathlib import Path

import torch

from immunecam.models.liveness_loss import LivenessLabels
from immunecam.training.liveness import LivenessConfig, LivenessSet, LivenessTrainer
from immunecam.training.spoof.labels import ATTRIBUTES, ILLUMINATIONS, SPOOF_TYPES

__all__ = ["small_run", "striped_faces"]

_SPOOFS = ("photo", "PC", "face mask", "poster")


def striped_faces(count: int, seed: int = 0, side: int = 64) -> LivenessSet:
    """Live faces and spoofs in turn, with labels for the spoof's type and the light."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(90, 160, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    live = torch.arange(count) % 2
    pixels[live == 1, :, ::4] -= 40
    kinds = torch.tensor([SPOOF_TYPES.index(_SPOOFS[number // 2 % 4]) if number % 2 else 0 for number in range(count)])
    labels = LivenessLabels(live, spoof_type=kinds, illumination=live.clone())
    return LivenessSet(pixels, labels, ATTRIBUTES, SPOOF_TYPES, ILLUMINATIONS, "synthetic: stripes")


def small_run(folder: Path, faces: LivenessSet | None = None, **settings: object) -> Path:
    """A run folder of a network that knows stripes."""
    torch.set_num_threads(1)
    config = {"backbone": "vgg", "tasks": ("spoof_type",), "steps": 40, "batch": 16, "ema_decay": 0.8, **settings}
    LivenessTrainer(LivenessConfig(**config), striped_faces(40) if faces is None else faces, folder).run()  # type: ignore[arg-type]
    return folder
