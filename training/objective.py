"""One step's loss: corrupt the faces, draw clones, select."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from immunecam.models import AIS, PIN, Eigenspace
from immunecam.training import selection
from immunecam.training.attacks import dodging, impersonation, pgd, round_to_8bit
from immunecam.training.config import Attack, Phase, TrainConfig
from immunecam.training.recognizer import Recognizer

__all__ = ["Objective", "StepValues"]


@dataclass(frozen=True)
class StepValues:
    """The loss to differentiate, and what is logged of a step.

    `pixel` is the mean squared error of the range [-1, 1], `identity` is ``1 - cos``, `sparsity` the mean number of
    eigenfaces with p above 1/2, `specificity` the mean Hamming distance between antibodies of different faces, and
    `mutation` the mean of ``|p - 1/2|``.
    """

    loss: Tensor
    pixel: float
    identity: float
    sparsity: float = 0.0
    specificity: float = 0.0
    mutation: float = 0.0

    def log(self) -> dict[str, float]:
        """The values as plain numbers."""
        return {f.name: float(torch.as_tensor(getattr(self, f.name)).detach()) for f in fields(self)}


class Objective:
    """The papers' training objectives on one batch.

    Parameters
    ----------
    config : TrainConfig
        Weights, estimator, noise and attack.
    eigenspace : Eigenspace
        The subspace of `config.k` eigenfaces.
    recognizers : sequence of Recognizer
        For the identity term and the attacker; empty if the configuration needs none. Several take turns.
    """

    def __init__(self, config: TrainConfig, eigenspace: Eigenspace, recognizers: Sequence[Recognizer] = ()) -> None:
        if config.needs_recognizer and not recognizers:
            raise ValueError("this configuration has an identity term or an attacker: give at least one recognizer")
        if eigenspace.k != config.k:
            raise ValueError(f"the eigenspace has {eigenspace.k} eigenfaces, the configuration asks for {config.k}")
        self.config, self.eigenspace, self.recognizers = config, eigenspace, recognizers

    def autoencoder(self, network: PIN, faces: Tensor) -> StepValues:
        """PIN's denoiser: mean squared error of the denoised noisy face."""
        loss = (network.denoise(self.noisy(faces)) - faces).square().mean()
        return StepValues(loss, pixel=float(loss.detach()), identity=0.0)

    def selection(self, network: AIS | PIN, slow: AIS | PIN, faces: Tensor, phase: Phase, step: int) -> StepValues:
        """Loss of a batch (B, 112, 112) of clean faces in [-1, 1].

        `slow` is the copy that the attacker is aimed at; `step` chooses which recogniser's turn it is.
        """
        config, space = self.config, self.eigenspace
        recognizer = self.recognizers[step % len(self.recognizers)] if self.recognizers else None
        own = None
        if recognizer is not None:
            with torch.no_grad():
                own = recognizer(faces)
        observed_faces = self._corrupt(slow, faces, own, recognizer, phase)

        logits = network.logits(observed_faces)
        probability = torch.sigmoid(logits)
        observed, clean = space.coefficients(observed_faces), space.coefficients(faces)
        outside = space.outside(faces, clean)
        scale = config.pixel_weight / (space.mean.numel() if config.pixel_reduction == "mean" else 1)

        antibody = selection.clone(probability, config.clones)
        if config.estimator == "reinforce":
            pixel = selection.clone_pixel_loss(antibody, observed, clean, outside)
            total = scale * pixel + config.sparsity_weight * antibody.sum(2)
            identity = torch.zeros(())
            if config.identity_weight and recognizer is not None and own is not None:
                identity = selection.clone_identity_loss(antibody, observed, space, recognizer, own)
                total = total + config.identity_weight * identity
            loss = selection.reinforce(antibody, logits, total)
        else:
            pixel = selection.expected_pixel_loss(probability, observed, clean, outside)
            loss = (scale * pixel + config.sparsity_weight * probability.sum(1)).mean()
            identity = torch.zeros(())
            if config.identity_weight and recognizer is not None and own is not None:
                # Bits forwards, probabilities backwards (straight-through, Bengio et al. 2013).
                bits = antibody + (probability - probability.detach()).unsqueeze(1)
                purified = space.reconstruct((bits * observed.unsqueeze(1)).flatten(0, 1))
                purified = purified.reshape(-1, *faces.shape[1:]).clamp(-1, 1)
                identity = 1 - (recognizer(purified) * own.repeat_interleave(config.clones, 0)).sum(1)
                loss = loss + config.identity_weight * identity.mean()
        with torch.no_grad():
            first = antibody[:, 0]
            count = len(first)
            hamming = torch.cdist(first, first, p=1).sum() / max(1, count * (count - 1))
            return StepValues(
                loss,
                pixel=float(pixel.mean()) / space.mean.numel(),
                identity=float(identity.mean()),
                sparsity=float((probability > 0.5).sum(1).float().mean()),
                specificity=float(hamming),
                mutation=float((probability - 0.5).abs().mean()),
            )

    def noisy(self, faces: Tensor) -> Tensor:
        """Faces with Gaussian noise of the configured level."""
        noise = torch.randn_like(faces)
        if self.config.noise == "l2":
            noise *= self.config.noise_level * faces.norm() / noise.norm()
        else:
            noise *= self.config.noise_level
        return (faces + noise).clamp(-1, 1)

    def _corrupt(
        self, slow: AIS | PIN, faces: Tensor, own: Tensor | None, recognizer: Recognizer | None, phase: Phase
    ) -> Tensor:
        if recognizer is not None and own is not None and _chance(phase.adversarial):
            corrupted = self._attacked(slow, faces, own, recognizer, self.config.attack)
        else:
            corrupted = self.noisy(faces)
        untouched = round(phase.clean * len(faces))
        if untouched:
            corrupted = torch.cat([faces[:untouched], corrupted[untouched:]])
        # The camera hands on 8-bit pictures; what an attacker cannot store does not reach the network.
        return round_to_8bit(corrupted)

    def _attacked(self, slow: AIS | PIN, faces: Tensor, own: Tensor, recognizer: Recognizer, attack: Attack) -> Tensor:
        embed: Callable[[Tensor], Tensor] = recognizer
        if _chance(attack.through):
            with torch.no_grad():
                fixed = torch.bernoulli(slow(faces))

            def embed(x: Tensor) -> Tensor:
                antibody = fixed if attack.gradient == "projection" else slow(x)
                return recognizer(self.eigenspace.purify(x, antibody))

        goal = impersonation(embed, own.roll(1, 0)) if _chance(attack.impersonation) else dodging(embed, own)
        low, high = attack.epsilon
        epsilon = (low + (high - low) * torch.rand(len(faces), device=faces.device)) / 127.5
        steps = int(torch.randint(attack.steps[0], attack.steps[1] + 1, ()))
        return pgd(goal, faces, epsilon, steps=steps, random_start=attack.random_start)


def _chance(probability: float) -> bool:
    return bool(torch.rand(()) < probability)
