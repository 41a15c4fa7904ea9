"""The training of an attacker's conditional GAN, on people of his own and by a recogniser of his own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from immunecam.errors import InputError
from immunecam.models.face_generator import NOISE, FaceCritic, FaceGenerator
from immunecam.models.similarity import ssim
from immunecam.training.curves import Panel
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.loop import TrainingLoop
from immunecam.training.seeds import seed_of

__all__ = ["GanConfig", "GanTrainer"]


@dataclass(frozen=True)
class GanConfig:
    """What the GAN's training does.

    Attributes
    ----------
    width : int
        Of both networks.
    likeness : float
        Weight of L1 and ``1 - SSIM`` to the face whose embedding was given, beside the critic's word.
    steps, batch : int
        Batches, and faces in each.
    lr : float
        Of both Adams.
    seed : int
        Of everything random.
    """

    width: int = 16
    likeness: float = 5.0
    steps: int = 3000
    batch: int = 16
    lr: float = 4e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2 or self.width < 1:
            raise ValueError(
                "a GAN's training needs steps and a width of 1 and batches of 2 faces or more, got "
                f"{self.steps}, {self.width}, {self.batch}"
            )
        if not 0 < self.lr < math.inf or not 0 <= self.likeness < math.inf:
            raise ValueError(
                f"lr must be finite and above 0, and likeness 0 or more, got {self.lr} and {self.likeness}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


class GanTrainer(TrainingLoop[dict[str, float]]):
    """Trains a generator and its critic in a run folder.

    Parameters
    ----------
    config : GanConfig
    faces : FaceSet
        Of the attacker, grey.
    embeddings : Tensor
        (N, E) of unit length: what the attacker's own recogniser sees in them.
    recognizer : str
        What that recogniser is, such as its hash; a run is resumed with the same only.
    folder : path
        Run folder, made if missing.
    resume : bool
        Go on from the folder's checkpoint.

    Raises
    ------
    InputError
        If the folder holds another run, its checkpoint is damaged, or another trainer has it.
    """

    def __init__(
        self,
        config: GanConfig,
        faces: FaceSet,
        embeddings: Tensor,
        recognizer: str,
        folder: str | Path,
        *,
        resume: bool = False,
    ) -> None:
        super().__init__(folder, config.steps)
        self.config, self.faces, self.embeddings = config, faces, embeddings
        try:
            digest = faces.sha256
            about = {"count": len(faces), "sha256": digest}
            self.claim({"config": config.to_dict(), "faces": about, "recognizer": recognizer}, resume)
            torch.manual_seed(seed_of(f"gan start/{config.seed}"))
            self.generator = FaceGenerator(embeddings.shape[1], config.width)
            self.critic = FaceCritic(embeddings.shape[1], config.width)
            betas = (0.5, 0.99)
            self.makes = torch.optim.Adam(self.generator.parameters(), config.lr, betas)
            self.judges = torch.optim.Adam(self.critic.parameters(), config.lr, betas)
            if resume:
                self.restore()
        except BaseException:
            self.close()
            raise

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Both networks."""
        return {"generator": self.generator, "critic": self.critic}

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Of both."""
        return {"makes": self.makes, "judges": self.judges}

    @property
    def panels(self) -> Sequence[Panel]:
        """What either lowers."""
        return (
            ("critic", "Critic", "hinge loss"),
            ("fooled", "Generator", "minus the critic's score"),
            ("ssim", "Likeness", "SSIM to the face that was asked for"),
        )

    def train_step(self) -> dict[str, float]:
        """A step of the critic and one of the generator, on one batch."""
        config = self.config
        torch.manual_seed(seed_of(f"gan/{config.seed}/{self.step}"))
        self.generator.train()
        chosen = torch.randint(len(self.faces), (config.batch,))
        real = from_uint8(self.faces.pixels[chosen]).unsqueeze(1)
        condition = self.embeddings[chosen]
        made = self.generator(torch.cat([torch.randn(config.batch, NOISE), condition], 1))
        judged = F.relu(1 - self.critic(real, condition)) + F.relu(1 + self.critic(made.detach(), condition))
        critic = judged.mean()
        self.judges.zero_grad(set_to_none=True)
        critic.backward()
        self.judges.step()
        fooled, alike = -self.critic(made, condition).mean(), ssim(made, real).mean()
        loss = fooled + config.likeness * ((made - real).abs().mean() + 1 - alike)
        if not torch.isfinite(loss):
            raise InputError(f"the loss became {float(loss.detach())} at step {self.step}: lower the learning rate")
        self.makes.zero_grad(set_to_none=True)
        loss.backward()
        self.makes.step()
        return {"critic": float(critic.detach()), "fooled": float(fooled.detach()), "ssim": float(alike.detach())}
