"""What a run of liveness training does, as plain values."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from immunecam.models.liveness import AUXILIARY, check_tasks
from immunecam.models.liveness_trunks import TRUNKS

__all__ = ["LivenessConfig"]


@dataclass(frozen=True)
class LivenessConfig:
    """Everything a run depends on, apart from the faces.

    Attributes
    ----------
    backbone : str
        Of `models.liveness_trunks.TRUNKS`.
    tasks : tuple of str
        Of `models.liveness.AUXILIARY`.
    steps, batch : int
        Batches, and faces in each: half of them live, half spoofs.
    lr, weight_decay : float
        Of AdamW; the rate rises over the first twentieth and falls as a cosine to zero.
    clip : float, optional
        Largest L2 norm of a step's gradient.
    ema_decay : float
        Of the slow copy that is evaluated and exported.
    augment : bool
        Mirror, shift, and vary brightness and contrast. Nothing finer: blur or noise would hide what spoofs show.
    seed : int
        Of everything random. A step depends on (seed, step) alone, so a resumed run is the same run.
    """

    backbone: str = "resnet"
    tasks: tuple[str, ...] = AUXILIARY
    steps: int = 3000
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-2
    clip: float | None = 5.0
    ema_decay: float = 0.99
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.backbone not in TRUNKS:
            raise ValueError(f"unknown backbone {self.backbone!r}: use one of {', '.join(TRUNKS)}")
        object.__setattr__(self, "tasks", check_tasks(self.tasks))
        for name, least in (("steps", 1), ("batch", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be finite and above 0, got {value}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)
