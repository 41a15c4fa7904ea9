"""One step's loss: corrupt the faces, draw clones, select."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from immunecam.models import AIS, PIN, Eigenspace, Purification
from immunecam.training import selection
from immunecam.training.attack_bank import AttackedFaces
from immunecam.training.attacks import pgd, round_to_8bit
from immunecam.training.config import Attack, Phase, TrainConfig
from immunecam.training.recognizer import Recognizer
from immunecam.training.resampling import zoomed

__all__ = ["Objective", "StepValues"]


@dataclass(frozen=True)
class StepValues:
    """The loss to differentiate, and what is logged of a step.

    `pixel` is the mean squared error of the range [-1, 1], `identity` is ``1 - cos``, `sparsity` the mean number of
    eigenfaces with p above 1/2, `specificity` the mean Hamming distance between antibodies of different faces,
    `mutation` the mean of ``|p - 1/2|``, and `distillation` the divergence from a teacher's antibody, 0 without one.
    """

    loss: Tensor
    pixel: float
    identity: float
    sparsity: float = 0.0
    specificity: float = 0.0
    mutation: float = 0.0
    distillation: float = 0.0

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
    teacher : callable, optional
        Antibody probabilities (B, K) of faces (B, 112, 112), for the configurations that learn from one.
    """

    def __init__(
        self,
        config: TrainConfig,
        eigenspace: Eigenspace,
        recognizers: Sequence[Recognizer] = (),
        teacher: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if config.needs_recognizer and not recognizers:
            raise ValueError("this configuration has an identity term or an attacker: give at least one recognizer")
        if eigenspace.k != config.k:
            raise ValueError(f"the eigenspace has {eigenspace.k} eigenfaces, the configuration asks for {config.k}")
        if (teacher is None) != (not config.distillation_weight):
            raise ValueError("a teacher goes with a distillation_weight above 0: give both or neither")
        self.config, self.eigenspace, self.recognizers = config, eigenspace, recognizers
        self._teacher = teacher

    def autoencoder(self, network: PIN, faces: Tensor) -> StepValues:
        """PIN's denoiser: mean squared error of the denoised noisy face."""
        loss = (network.denoise(self.noisy(faces)) - faces).square().mean()
        return StepValues(loss, pixel=float(loss.detach()), identity=0.0)

    def selection(
        self,
        network: AIS | PIN,
        slow: AIS | PIN,
        faces: Tensor,
        phase: Phase,
        step: int,
        drawn: AttackedFaces | None = None,
    ) -> StepValues:
        """Loss of a batch (B, 112, 112) of clean faces in [-1, 1].

        `slow` is the copy that the attacker is aimed at; `step` chooses which recogniser's turn it is; `drawn` is what
        a bank has of the first faces. They are judged at the size at which they were attacked.
        """
        config, space = self.config, self.eigenspace
        victim, judge = self._turns(step)
        ready = 0 if drawn is None else len(drawn.attacked)
        sizes = None
        if drawn is not None and config.estimator != "reinforce":
            sizes = torch.cat([drawn.zoom, torch.ones(len(faces) - ready, device=faces.device)])
        with torch.no_grad():
            own = None if judge is None else judge(_sized(faces, sizes))
            theirs = own if victim is judge or victim is None else victim(_sized(faces, sizes))
        observed_faces, untouched, impersonates = self._corrupt(
            slow, faces[ready:], None if theirs is None else theirs[ready:], victim, phase
        )
        if drawn is not None:
            observed_faces = torch.cat([drawn.attacked, observed_faces])

        logits = self._mixed(network.logits)(observed_faces)
        probability = torch.sigmoid(logits)
        observed, clean = space.coefficients(observed_faces), space.coefficients(faces)
        outside = space.outside(faces, clean)
        scale = config.pixel_weight / (space.mean.numel() if config.pixel_reduction == "mean" else 1)

        antibody = selection.clone(probability, config.clones)
        if config.estimator == "reinforce":
            pixel = selection.clone_pixel_loss(antibody, observed, clean, outside)
            total = scale * pixel + config.sparsity_weight * antibody.sum(2)
            identity = torch.zeros(())
            if config.identity_weight and judge is not None and own is not None:
                identity = selection.clone_identity_loss(antibody, observed, space, judge, own)
                total = total + config.identity_weight * identity
            loss = selection.reinforce(antibody, logits, total)
        else:
            pixel = selection.expected_pixel_loss(probability, observed, clean, outside)
            loss = (scale * pixel + config.sparsity_weight * probability.sum(1)).mean()
            identity = torch.zeros(())
            if (config.identity_weight and judge is not None and own is not None) or network.restorer is not None:
                # Bits forwards, probabilities backwards (straight-through, Bengio et al. 2013).
                bits = antibody + (probability - probability.detach()).unsqueeze(1)
                projected = space.reconstruct((bits * observed.unsqueeze(1)).flatten(0, 1))
                purified = projected.reshape(-1, *faces.shape[1:]).clamp(-1, 1)
                if network.restorer is not None:
                    observations = observed_faces.repeat_interleave(config.clones, 0)
                    purified = self._mixed(network.restorer)(observations, purified).clamp(-1, 1)
                    restored = (purified - faces.repeat_interleave(config.clones, 0)).abs().mean()
                    loss = loss + config.restoration_weight * restored
                if config.identity_weight and judge is not None and own is not None:
                    repeated = None if sizes is None else sizes.repeat_interleave(config.clones, 0)
                    seen = judge(_sized(purified, repeated))
                    identity = 1 - (seen * own.repeat_interleave(config.clones, 0)).sum(1)
                    weight = torch.ones(len(faces), device=faces.device)
                    weight[ready : ready + untouched] = config.clean_weight
                    weighted = weight.repeat_interleave(config.clones) * identity
                    loss = loss + config.identity_weight * weighted.mean()
                    if config.target_weight:
                        rows, wanted = _impersonators(judge, drawn, own[ready:], impersonates)
                        if len(rows):
                            left = _left_over(seen.unflatten(0, (-1, config.clones))[rows], own[rows], wanted)
                            loss = loss + config.target_weight * left
        distillation = torch.zeros(())
        if self._teacher is not None:
            with torch.no_grad():
                taught = self._teacher(observed_faces)
            distillation = _divergence(logits, taught)
            loss = loss + config.distillation_weight * distillation
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
                distillation=float(distillation),
            )

    def noisy(self, faces: Tensor) -> Tensor:
        """Faces with Gaussian noise of the configured level."""
        noise = torch.randn_like(faces)
        if self.config.noise == "l2":
            noise *= self.config.noise_level * faces.norm() / noise.norm()
        else:
            noise *= self.config.noise_level
        return (faces + noise).clamp(-1, 1)

    def _turns(self, step: int) -> tuple[Recognizer | None, Recognizer | None]:
        """The recogniser that is attacked, and the one that judges the identity, in this step."""
        if not self.recognizers:
            return None, None
        count = len(self.recognizers)
        victim = step % count
        judge = int(torch.randint(count, ())) if _chance(self.config.cross_recognizer) else victim
        return self.recognizers[victim], self.recognizers[judge]

    def _mixed(self, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A network in the configured precision, with float32 results; projection and recognisers stay in float32."""
        if self.config.precision == "fp32":
            return network

        def call(*inputs: Tensor) -> Tensor:
            with torch.autocast(inputs[0].device.type, torch.bfloat16):
                return network(*inputs).float()

        return call

    def _corrupt(
        self, slow: AIS | PIN, faces: Tensor, own: Tensor | None, recognizer: Recognizer | None, phase: Phase
    ) -> tuple[Tensor, int, Tensor]:
        """The batch as the network meets it, how many come first and are untouched, and which faces (B,) want to be
        the one before them (`_before`). After the untouched ones come the attacked ones, then the noisy ones.

        The faces of a batch are drawn independently, so their order carries nothing.
        """
        count = len(faces)
        untouched = min(count, _share(phase.clean, count))
        attacked = 0
        if recognizer is not None and own is not None:
            attacked = min(count - untouched, _share(phase.adversarial, count - untouched))
        end = untouched + attacked
        parts = [faces[:untouched]]
        impersonates = torch.zeros(count, dtype=torch.bool, device=faces.device)
        if attacked and own is not None and recognizer is not None:
            here = slice(untouched, end)
            found, impersonates[here] = self._attacked(slow, faces[here], own[here], _before(own)[here], recognizer)
            parts.append(found)
        if end < count:
            parts.append(self.noisy(faces[end:]))
        # The camera hands on 8-bit pictures; what an attacker cannot store does not reach the network.
        return round_to_8bit(torch.cat(parts)), untouched, impersonates

    def _attacked(
        self, slow: AIS | PIN, faces: Tensor, own: Tensor, others: Tensor, recognizer: Recognizer
    ) -> tuple[Tensor, Tensor]:
        """The faces attacked, and which of them (B,) want to be one of the `others`."""
        attack: Attack = self.config.attack
        count = len(faces)
        through = _share(attack.through, count)
        gradient = attack.gradient if isinstance(attack.gradient, str) else _choice(attack.gradient)
        restore = None if slow.restorer is None else self._mixed(slow.restorer)
        purification = Purification(self.eigenspace, self._mixed(slow), restore)
        with torch.no_grad():
            hard = through > 0 and gradient == "projection"
            fixed = torch.bernoulli(self._mixed(slow)(faces[:through])) if hard else None

        def embed(x: Tensor) -> Tensor:
            if not through:
                return recognizer(x)
            if fixed is not None:
                seen = purification.apply_antibody(x[:through], fixed)
            else:
                seen = purification(x[:through], gradient)
            return recognizer(torch.cat([seen, x[through:]]))

        impersonates = torch.rand(count, 1, device=faces.device) < attack.impersonation
        # One loss for both goals: towards somebody else's embedding, or away from one's own.
        direction = torch.where(impersonates, others, -own)
        low, high = attack.epsilon
        epsilon = (low + (high - low) * torch.rand(count, device=faces.device)) / 127.5
        steps = int(torch.randint(attack.steps[0], attack.steps[1] + 1, ()))
        attacked = pgd(
            lambda x: (embed(x) * direction).sum(1),
            faces,
            epsilon,
            steps=steps,
            momentum=1.0 if _chance(attack.momentum) else 0.0,
            random_start=attack.random_start,
        )
        return attacked, impersonates[:, 0]


def _before(own: Tensor) -> Tensor:
    """Whom an impersonator of a batch wants to be: the face before, of the whole batch, for a single attacked face
    needs somebody to be, too."""
    return own.roll(1, 0)


def _divergence(logits: Tensor, taught: Tensor) -> Tensor:
    """Of bits drawn by a teacher's probabilities from those by these logits, mean a bit, in nats."""
    entropy = functional.binary_cross_entropy(taught, taught)
    return functional.binary_cross_entropy_with_logits(logits, taught) - entropy


def _impersonators(
    judge: Recognizer, drawn: AttackedFaces | None, own: Tensor, impersonates: Tensor
) -> tuple[Tensor, Tensor]:
    """Which faces of a step want to be somebody else, and that one's embeddings: of those from a bank, which come
    first, and of those attacked in the step, with embeddings `own`."""
    rows, wanted = impersonates.nonzero().flatten(), _before(own)[impersonates]
    if drawn is None:
        return rows, wanted
    known = drawn.impersonates.nonzero().flatten()
    with torch.no_grad():
        banked = judge(zoomed(drawn.target[known], drawn.zoom[known])) if len(known) else wanted[:0]
    return torch.cat([known, rows + len(drawn.attacked)]), torch.cat([banked, wanted])


def _left_over(seen: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    """How much nearer than the clean faces the purified ones (N, S, E) are to those whom the attackers want to be."""
    before = (own * wanted).sum(1, keepdim=True)
    return ((seen * wanted.unsqueeze(1)).sum(2) - before).clamp_min(0).mean()


def _sized(faces: Tensor, sizes: Tensor | None) -> Tensor:
    return faces if sizes is None else zoomed(faces, sizes)


def _share(fraction: float, count: int) -> int:
    """`fraction` of `count`, whole, right on average."""
    return int(fraction * count + float(torch.rand(())))


def _choice(names: Sequence[str]) -> str:
    return names[int(torch.randint(len(names), ()))]


def _chance(probability: float) -> bool:
    return bool(torch.rand(()) < probability)
