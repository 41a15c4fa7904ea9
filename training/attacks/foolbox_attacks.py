"""The attacks that foolbox has: FGSM, PGD in two norms, Carlini and Wagner.

A pair of faces is posed to foolbox as two classes, "accepted" and "rejected", whose logits are the cosine's distance
from the threshold and its negative. Cross-entropy of two such logits rises and falls with the cosine, so its gradient
has the direction of the goal's; Carlini and Wagner's margin is the distance from the threshold itself.

foolbox's L-infinity MI-FGSM gathers signs of gradients where Dong et al. gather L1-normalised gradients, so that one is
ours (`MIFGSM`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from immunecam.errors import BackendMissingError
from immunecam.training.attacks.base import FaceAttack, LinfAttack, best_of, check_above_zero, check_count
from immunecam.training.attacks.goals import Goal

__all__ = ["CWL2", "FGSM", "L2PGD", "PGD"]

# Logits of +-_SCALE * (cos - threshold): steep enough that float32 sees the slope of the cross-entropy at once, flat
# enough that it does not vanish far beyond the threshold (exp(-2 * 4 * 2) is 1e-7).
_SCALE = 4.0


class _Decision(nn.Module):
    """(N, 2) logits of "accepted" and "rejected"."""

    def __init__(self, goal: Goal) -> None:
        super().__init__()
        self._goal = goal

    def forward(self, faces: Tensor) -> Tensor:
        margin = _SCALE * (self._goal.similarity(faces) - self._goal.threshold)
        return torch.stack([margin, -margin], 1)


def _foolbox() -> Any:
    try:
        import foolbox
    except ImportError:
        raise BackendMissingError(
            "This attack is foolbox's, which is not installed: pip install 'immunecam[train]'."
        ) from None
    return foolbox


def _run(attack: Any, goal: Goal, faces: Tensor, **more: Any) -> Tensor:
    foolbox = _foolbox()
    model = foolbox.PyTorchModel(_Decision(goal).eval(), bounds=(-1, 1), device=faces.device)
    # Untargeted, away from what the system says today: "rejected" of an impersonator, "accepted" of a dodger.
    labels = torch.full((len(faces),), int(goal.impersonate), device=faces.device)
    found: Tensor = attack.run(model, faces.clamp(-1, 1), foolbox.criteria.Misclassification(labels), **more)
    return found


@dataclass(frozen=True)
class FGSM(LinfAttack):
    """One step of the whole budget along the gradient's sign (Goodfellow et al., ICLR 2015)."""

    def _run(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        return _run(_foolbox().attacks.LinfFastGradientAttack(random_start=False), goal, faces, epsilon=epsilon)


@dataclass(frozen=True)
class PGD(LinfAttack):
    """Projected gradient ascent from a random point of the ball (Madry et al., ICLR 2018).

    Attributes
    ----------
    steps, restarts : int
        Gradient steps, and attempts of which the best is kept for every face.
    step_size : float, optional
        As a fraction of the budget; default ``2.5 / steps``.
    """

    steps: int = 40
    restarts: int = 1
    step_size: float | None = None

    def __post_init__(self) -> None:
        check_count(self, "steps", "restarts")
        check_above_zero(self, "step_size")

    def _run(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        step = self.step_size or 2.5 / self.steps
        attack = _foolbox().attacks.LinfPGD(rel_stepsize=step, steps=self.steps, random_start=True)
        return best_of(self.restarts, goal, lambda: _run(attack, goal, faces, epsilon=epsilon))


@dataclass(frozen=True)
class L2PGD(FaceAttack):
    """PGD in the L2 ball: steps along the gradient of unit length; settings as of `PGD`."""

    norm = "l2"
    steps: int = 40
    restarts: int = 1
    step_size: float | None = None

    def __post_init__(self) -> None:
        check_count(self, "steps", "restarts")
        check_above_zero(self, "step_size")

    def _run(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        step = self.step_size or 2.5 / self.steps
        attack = _foolbox().attacks.L2PGD(rel_stepsize=step, steps=self.steps, random_start=True)
        return best_of(self.restarts, goal, lambda: _run(attack, goal, faces, epsilon=epsilon))


@dataclass(frozen=True)
class CWL2(FaceAttack):
    """The smallest change that crosses the threshold by a margin (Carlini & Wagner, S&P 2017).

    The search knows no budget: what it finds beyond the budget is drawn back onto the ball, which usually fails, and a
    face for which it finds nothing is returned as it was.

    Attributes
    ----------
    steps, binary_search_steps : int
        Of Adam, for each weight of the margin, and number of weights tried.
    confidence : float
        Margin in cosine beyond the threshold; a defence undoes a change that only just suffices.
    step_size : float
        Of Adam, in the space of atanh.
    initial_const : float
        First weight of the margin.
    """

    norm = "l2"
    steps: int = 40
    binary_search_steps: int = 4
    confidence: float = 0.2
    step_size: float = 0.02
    initial_const: float = 1.0

    def __post_init__(self) -> None:
        check_count(self, "steps", "binary_search_steps")
        check_above_zero(self, "step_size", "initial_const")
        if not 0 <= self.confidence < math.inf:
            raise ValueError(f"confidence must be finite and at least 0, got {self.confidence}")

    def _run(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        attack = _foolbox().attacks.L2CarliniWagnerAttack(
            binary_search_steps=self.binary_search_steps,
            steps=self.steps,
            stepsize=self.step_size,
            confidence=2 * _SCALE * self.confidence,  # foolbox's is the distance of the two logits
            initial_const=self.initial_const,
        )
        found = _run(attack, goal, faces)
        change = found - faces
        # foolbox returns zeros where it found nothing.
        nothing = (found == 0).flatten(1).all(1)
        length = change.flatten(1).norm(dim=1).clamp_min(1e-12)
        change = change * (epsilon / length).clamp_max(1)[:, None, None]
        return torch.where(nothing[:, None, None], faces, faces + change)
