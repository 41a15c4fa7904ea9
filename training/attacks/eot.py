"""The adaptive attack: PGD on the expectation over antibodies, through the purifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from immunecam.models import Purification
from immunecam.training.attacks.base import LinfAttack, check_above_zero, check_count, linf_box, round_to_8bit
from immunecam.training.attacks.drawn import always_reached, in_two_steps, mean_loss
from immunecam.training.attacks.goals import DrawnEmbedding, Goal

__all__ = ["EOTPGD", "through"]

_MORE = 0.1  # cosine


def through(
    purification: Purification, recognizer: Callable[[Tensor], Tensor], gradient: str = "straight-through"
) -> Callable[[Tensor], Tensor]:
    """The recogniser behind the purifier, for a goal of the attacker who knows everything but the seed.

    Parameters
    ----------
    gradient : str
        As for `Purification.antibody`: "straight-through" draws an antibody at every call, "expected" is deterministic.
    """
    if gradient not in ("straight-through", "projection"):
        return lambda faces: recognizer(purification(faces, gradient))

    def behind(gradient: str) -> Callable[..., Tensor]:
        return lambda faces, p: recognizer(purification.apply_antibody(faces, purification.antibody(p, gradient)))

    return DrawnEmbedding(lambda faces: (faces, purification.analyze(faces)), behind(gradient), behind("expected"))


@dataclass(frozen=True)
class EOTPGD(LinfAttack):
    """PGD on the mean loss of several draws (Athalye et al., ICML 2018); of one draw it is PGD.

    A face that is through with a margin in every one of `draws` fresh draws is left as it is: its attacker has nothing
    to gain by going on, and that spares most of the time against a weak defence. The margin is needed because the
    judge draws the antibody of the enrolled face anew too: without one, 12 to 19 points of the impersonations that
    had just passed were lost again (measured).

    Where the goal's embedding tells the expected draw, the first attempt starts from where the same attack on that one
    ends, which costs a fraction of it and is mostly through already; further ones start at random.

    Attributes
    ----------
    steps, draws, restarts : int
        Gradient steps, antibodies averaged at each, and attempts of which the best is kept.
    step_size : float, optional
        As a fraction of the budget; default ``2.5 / steps``.
    margin : float, optional
        Cosine beyond the threshold at which a face is left alone; None leaves none alone.
    """

    steps: int = 40
    draws: int = 20
    restarts: int = 1
    step_size: float | None = None
    margin: float | None = 0.2

    @property
    def version(self) -> int:
        """2 of several draws, which have not always started from where the attack on the expected one ends."""
        return 1 if self.draws == 1 else 2

    def __post_init__(self) -> None:
        check_count(self, "steps", "draws", "restarts")
        check_above_zero(self, "step_size")
        if self.margin is not None and not 0 <= self.margin <= 2:
            raise ValueError(f"margin must be a cosine's, in [0, 2], or None, got {self.margin!r}")

    def _run(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        best = faces.clone()
        best_loss = torch.full((len(faces),), -torch.inf, device=faces.device)
        open_ = torch.arange(len(faces), device=faces.device)
        for number in range(self.restarts):
            start = None if number else self._by_the_expected(goal, faces, epsilon)
            found, loss, done = self._climb(goal.of(open_), faces[open_], epsilon, start)
            better = (loss > best_loss[open_]) | done
            best[open_[better]], best_loss[open_[better]] = found[better], loss[better]
            open_ = open_[~done]
            if not len(open_):
                break
        return best

    def _by_the_expected(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor | None:
        """Faces that one draw's worth of this attack makes against the expected draw; None if nothing tells it."""
        embed = goal.embed
        if not isinstance(embed, DrawnEmbedding) or embed.expected is None:
            return None
        expected = embed.expected
        certain = dataclasses.replace(goal, embed=lambda x: expected(*embed.shared(x)))
        # What passes on average by little passes in some draws only.
        margin = None if self.margin is None else min(2.0, self.margin + _MORE)
        return dataclasses.replace(self, draws=1, restarts=1, margin=margin)._run(certain, faces, epsilon)

    def _climb(self, goal: Goal, faces: Tensor, epsilon: float, start: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """8-bit faces, their mean loss, and whether they are through for good."""
        low, high = linf_box(faces, epsilon)
        start = faces + epsilon * (2 * torch.rand_like(faces) - 1) if start is None else start
        x = torch.clamp(start, low, high)
        step_size = epsilon * (self.step_size or 2.5 / self.steps)
        done = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
        for _ in range(self.steps):
            left = torch.nonzero(~done).flatten()
            if self.margin is not None:
                done[left] = always_reached(goal.of(left).by(self.margin), round_to_8bit(x[left]), self.draws)
                left = torch.nonzero(~done).flatten()
            if not len(left):
                break
            gradient = self.gradient(goal.of(left), x[left])
            x[left] = torch.clamp(x[left] + step_size * gradient.sign(), low[left], high[left])
        x = round_to_8bit(x)
        return x, mean_loss(goal, x, self.draws), done

    def gradient(self, goal: Goal, faces: Tensor) -> Tensor:
        """(N, H, W) mean gradient of `draws` calls, one call's graph in memory at a time.

        What the draws share is computed once and differentiated once, with the mean of their derivatives.
        """
        embed, point = in_two_steps(goal), faces.detach().requires_grad_(True)
        shared = embed.shared(point)
        leaves = [tensor.detach().requires_grad_(True) for tensor in shared]
        total = [torch.zeros_like(leaf) for leaf in leaves]
        for _ in range(self.draws):
            for sum_, part in zip(
                total, torch.autograd.grad(goal.loss(embed.draw(*leaves)).sum(), leaves), strict=True
            ):
                sum_ += part
        return torch.autograd.grad(shared, point, total)[0] / self.draws
