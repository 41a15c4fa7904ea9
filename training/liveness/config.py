"""What a run of liveness training does, as plain values."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from immunecam.models.liveness import AUXILIARY, check_tasks
from immunecam.models.liveness_trunks import TRUNKS

__all__ = ["PRECISIONS", "AdversarialTraining", "LivenessConfig"]

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class AdversarialTraining:
    """Which faces of a batch are attacked before they are learnt from (Madry et al., ICLR 2018).

    Attributes
    ----------
    level : float
        Budget in grey levels of 255, L-infinity.
    share : float
        Of the faces of each batch, in (0, 1].
    steps : int
        Of the attack, a `SignAttack` with a random start.
    sfa : bool
        Augment features; the batch's own faces are the bank.
    """

    level: float = 4.0
    share: float = 0.5
    steps: int = 3
    sfa: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.level <= 128:
            raise ValueError(
                f"the budget of adversarial training is {self.level:g} grey levels: give more than 0, and 128 at most"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of attacked faces is {self.share:g}, but it must be above 0, and 1 at most")
        if self.steps < 1:
            raise ValueError(f"the attack in training takes {self.steps} steps: give 1 or more")


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
    adversarial : AdversarialTraining, optional
        None learns from faces as they are.
    precision : str
        "fp32", or "bf16": convolutions and products in bfloat16, weights, norms and losses in float32. It pays on
        processors that compute in it (AVX512-BF16, AMX) and on cards; attacks in training stay in float32.
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
    adversarial: AdversarialTraining | None = None
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.backbone not in TRUNKS:
            raise ValueError(f"unknown backbone {self.backbone!r}: use one of {', '.join(TRUNKS)}")
        object.__setattr__(self, "tasks", check_tasks(self.tasks))
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}: use one of {', '.join(PRECISIONS)}")
        for name, least in (("steps", 1), ("batch", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be finite and above 0, got {value}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; without what older runs did not know, where it says what they did."""
        plain = dataclasses.asdict(self)
        if self.adversarial is None:
            del plain["adversarial"]
        if self.precision == "fp32":
            del plain["precision"]
        return plain
