"""Training of liveness networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from immunecam.errors import InputError
from immunecam.models.liveness import LivenessNetwork
from immunecam.models.liveness_loss import LIVE, SPOOF, LivenessLabels, liveness_loss
from immunecam.training.curves import Panel
from immunecam.training.ema import ExponentialMovingAverage
from immunecam.training.faces import from_uint8
from immunecam.training.liveness.adversarial import attacked_batch
from immunecam.training.liveness.config import LivenessConfig
from immunecam.training.liveness.faces import LivenessSet
from immunecam.training.loop import TrainingLoop
from immunecam.training.seeds import seed_of

__all__ = ["LivenessTrainer"]

_UNITS = {
    "loss": "weighted sum of all terms",
    "live": "cross-entropy, nats",
    "attributes": "binary cross-entropy, nats",
    "spoof_type": "cross-entropy, nats",
    "illumination": "cross-entropy, nats",
    "depth": "mean squared error",
    "reflection": "mean squared error",
}
_SHIFT = 4  # pixels by which a face is moved at most


class LivenessTrainer(TrainingLoop[dict[str, float]]):
    """Trains one liveness network in a run folder.

    The folder holds `config.json`, `checkpoint.safetensors` (network, slow copy and optimiser; nothing is pickled),
    `curves.csv`, `curves.png` and `curves.svg`.

    Parameters
    ----------
    config : LivenessConfig
        What to do.
    faces : LivenessSet
        Of both classes, with labels for every task.
    folder : path
        Run folder, made if missing.
    resume : bool
        Go on from the folder's checkpoint; without it a folder that holds one is refused.
    device : str
        Where to train.

    Raises
    ------
    InputError
        If the faces do not fit the tasks, the folder holds another run, its checkpoint is damaged, or another trainer
        has it.
    """

    def __init__(
        self,
        config: LivenessConfig,
        faces: LivenessSet,
        folder: str | Path,
        *,
        resume: bool = False,
        device: str = "cpu",
    ) -> None:
        faces.check(config.tasks)
        self.config, self.faces = config, faces
        self.device = torch.device(device)
        super().__init__(folder, config.steps)
        try:
            self.claim(self._identity(), resume)
            torch.manual_seed(config.seed)
            network = LivenessNetwork(config.backbone, config.tasks, **self._classes())
            # Colours side by side in memory: the same network, and a step of convolutions takes a quarter less time.
            self.network = network.to(self.device, memory_format=torch.channels_last)
            self.slow = ExponentialMovingAverage(self.network, config.ema_decay)
            self.optimizer = torch.optim.AdamW(self.network.parameters(), config.lr, weight_decay=config.weight_decay)
            if resume:
                self.restore()
        except BaseException:
            self.close()
            raise
        self._numbers = [torch.nonzero(faces.labels.live == value).flatten() for value in (LIVE, SPOOF)]

    def _classes(self) -> dict[str, int]:
        return {
            "attributes": len(self.faces.attribute_names),
            "types": len(self.faces.type_names),
            "illuminations": len(self.faces.illumination_names),
            "side": self.faces.side,
        }

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Network and slow copy."""
        return {"network": self.network, "slow": self.slow.network}

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """The network's."""
        return {"optimizer": self.optimizer}

    @property
    def panels(self) -> Sequence[Panel]:
        """The loss, and its terms."""
        names = ("loss", "live", *self.config.tasks)
        return [(name, name.replace("_", " ").capitalize(), _UNITS[name]) for name in names]

    @property
    def columns(self) -> Sequence[str]:
        """Those of the panels, and the learning rate."""
        return [*super().columns, "lr"]

    @property
    def about_curves(self) -> str:
        """What a reader of the curves should know."""
        return "Every task is shown by itself, before its weight in the loss."

    def train_step(self) -> dict[str, float]:
        """One step of the network and of its slow copy."""
        # Everything random in a step follows from seed and step, so resuming needs no generator state.
        torch.manual_seed(seed_of(f"liveness/{self.config.seed}/{self.step}"))
        pictures, labels = self._batch()
        rate = self._lr()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        if self.config.adversarial is not None:
            pictures = attacked_batch(self.network, pictures, labels, self.config.adversarial)
            self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            outputs = self.network(pictures)
        loss, terms = liveness_loss({head: output.float() for head, output in outputs.items()}, labels)
        if not torch.isfinite(loss):
            raise InputError(f"the loss became {float(loss.detach())} at step {self.step}: lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        # While there are few steps to average, fewer are averaged: the start's weights must not stay in it.
        self.slow.decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        self.slow.update(self.network)
        values = {"loss": float(loss.detach()), "lr": rate}
        return values | {head: float(term.detach()) for head, term in terms.items()}

    def _batch(self) -> tuple[Tensor, LivenessLabels]:
        half = self.config.batch // 2
        shares = (half, self.config.batch - half)
        chosen = torch.cat([n[torch.randint(len(n), (k,))] for n, k in zip(self._numbers, shares, strict=True)])
        labels = self.faces.labels.at(chosen)
        pictures = from_uint8(self.faces.pixels[chosen])
        if self.config.augment:
            pictures, labels = _augmented(pictures, labels, self.faces.attribute_names)
        return pictures.to(self.device, memory_format=torch.channels_last), labels.to(self.device)

    def _lr(self) -> float:
        warm = max(1, self.config.steps // 20)
        if self.step < warm:
            return self.config.lr * (self.step + 1) / warm
        done = (self.step - warm) / max(1, self.config.steps - warm)
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * done))

    def _identity(self) -> dict[str, Any]:
        """What this folder is a run of."""
        return {
            "config": self.config.to_dict(),
            "classes": self._classes(),
            "attribute_names": self.faces.attribute_names,
            "type_names": self.faces.type_names,
            "illumination_names": self.faces.illumination_names,
            "faces": {
                "origin": self.faces.origin,
                "synthetic": self.faces.synthetic,
                "counts": self.faces.counts(),
                "sha256": self.faces.sha256,
            },
        }


def _augmented(pictures: Tensor, labels: LivenessLabels, names: tuple[str, ...]) -> tuple[Tensor, LivenessLabels]:
    """Mirrored, shifted and lit anew; a mirror turns maps and left or right of the labels, too.

    Maps are not shifted: at 112 px it is half of one of their cells at most.
    """
    count = len(pictures)
    flip = torch.rand(count) < 0.5
    pictures[flip] = pictures[flip].flip(3)
    for maps in (labels.depth, labels.reflection):
        if maps is not None:
            maps[flip] = maps[flip].flip(3)
    if labels.attributes is not None:
        mirrored = [
            names.index(other) if (other := _other_side(name)) in names else place for place, name in enumerate(names)
        ]
        labels.attributes[flip] = labels.attributes[flip][:, mirrored]
    for number, (x, y) in enumerate(torch.randint(-_SHIFT, _SHIFT + 1, (count, 2)).tolist()):
        # A roll by a few pixels; what comes in at the other side is as good a border as any.
        pictures[number] = pictures[number].roll((y, x), (1, 2))
    gain = torch.empty(count, 1, 1, 1).uniform_(0.8, 1.2)
    offset = torch.empty(count, 1, 1, 1).uniform_(-0.1, 0.1)
    return (pictures * gain + offset).clamp(-1, 1), labels


def _other_side(name: str) -> str:
    """The attribute that a mirror makes of it."""
    return name.replace("left", "right") if "left" in name else name.replace("right", "left")
