"""The training of a network that recovers faces from masked channels: L1 and SSIM, on people of the attacker's own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from immunecam.errors import InputError
from immunecam.models.recovery import RecoveryNetwork
from immunecam.models.similarity import ssim
from immunecam.training.curves import Panel
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.loop import TrainingLoop
from immunecam.training.seeds import seed_of

__all__ = ["RecoveryConfig", "RecoveryTrainer"]


@dataclass(frozen=True)
class RecoveryConfig:
    """What the attacker's training does.

    Attributes
    ----------
    widths : tuple of int
        Of `RecoveryNetwork`.
    structure : float
        Weight of ``1 - SSIM`` beside the mean absolute error.
    steps, batch : int
        Batches, and faces in each.
    lr : float
        Of Adam; falls as a cosine to zero.
    seed : int
        Of everything random.
    """

    widths: tuple[int, ...] = (32, 64, 96)
    structure: float = 0.5
    steps: int = 3000
    batch: int = 16
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2 or not self.widths:
            raise ValueError(
                "a recovery's training needs steps of 1, batches of 2 faces and widths of one level or more, got "
                f"{self.steps}, {self.batch}, {list(self.widths)}"
            )
        if not 0 < self.lr < math.inf or not 0 <= self.structure < math.inf:
            raise ValueError(
                f"lr must be finite and above 0, and structure 0 or more, got {self.lr} and {self.structure}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


class RecoveryTrainer(TrainingLoop[dict[str, float]]):
    """Trains one attacker in a run folder.

    Parameters
    ----------
    config : RecoveryConfig
    mask : callable
        Faces (N, 112, 112) or (N, 3, 112, 112) in [-1, 1] to masked channels; one that draws is drawn anew each step.
    target : str
        What is attacked, such as a mask's identity: a run is resumed against the same only.
    faces : FaceSet
        Of the attacker: other people than the attack is judged on.
    folder : path
        Run folder, made if missing.
    resume : bool
        Go on from the folder's checkpoint.
    device : str
        Where to train.

    Raises
    ------
    InputError
        If the folder holds another run, its checkpoint is damaged, or another trainer has it.
    """

    def __init__(
        self,
        config: RecoveryConfig,
        mask: Callable[[Tensor], Tensor],
        target: str,
        faces: FaceSet,
        folder: str | Path,
        *,
        resume: bool = False,
        device: str = "cpu",
    ) -> None:
        super().__init__(folder, config.steps)
        self.config, self.mask, self.faces, self.device = config, mask, faces, torch.device(device)
        try:
            digest = faces.sha256
            self.claim(
                {"config": config.to_dict(), "target": target, "faces": {"count": len(faces), "sha256": digest}}, resume
            )
            torch.manual_seed(seed_of(f"recovery start/{config.seed}"))
            with torch.no_grad():
                channels = mask(from_uint8(faces.pixels[:1]).to(self.device))
            planes = faces.pixels.shape[1] if faces.pixels.ndim == 4 else 1
            network = RecoveryNetwork(channels.shape[1], channels.shape[2], planes, config.widths)
            self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.optimizer = torch.optim.Adam(self.network.parameters(), config.lr)
            if resume:
                self.restore()
        except BaseException:
            self.close()
            raise

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The network."""
        return {"network": self.network}

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Its optimiser."""
        return {"optimizer": self.optimizer}

    @property
    def panels(self) -> Sequence[Panel]:
        """Both terms."""
        return (("l1", "Pixels", "mean absolute error, of 2"), ("ssim", "Structure", "SSIM"))

    def train_step(self) -> dict[str, float]:
        """One batch."""
        config = self.config
        torch.manual_seed(seed_of(f"recovery/{config.seed}/{self.step}"))
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * self.step / config.steps))
        self.network.train()
        faces = from_uint8(self.faces.pixels[torch.randint(len(self.faces), (config.batch,))])
        if bool(torch.rand(()) < 0.5):
            faces = faces.flip(-1)
        faces = faces.to(self.device)
        with torch.no_grad():
            channels = self.mask(faces).contiguous(memory_format=torch.channels_last)
        wanted = faces if faces.ndim == 4 else faces.unsqueeze(1)
        found = self.network(channels)
        error, alike = (found - wanted).abs().mean(), ssim(found, wanted).mean()
        loss = error + config.structure * (1 - alike)
        if not torch.isfinite(loss):
            raise InputError(f"the loss became {float(loss.detach())} at step {self.step}: lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {"l1": float(error.detach()), "ssim": float(alike.detach())}

    def recover(self, channels: Tensor) -> Tensor:
        """Faces (N, 1 or 3, 112, 112) in [-1, 1], as the network sees them now."""
        self.network.eval()
        found: Tensor = self.network(channels.contiguous(memory_format=torch.channels_last))
        return found
