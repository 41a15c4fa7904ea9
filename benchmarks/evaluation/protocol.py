"""What is measured: numbers of pairs, budgets, attacks, draws."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from immunecam.training.attacks import (
    APGD,
    DIFGSM,
    EOTPGD,
    FGSM,
    L2PGD,
    MIFGSM,
    PGD,
    TIFGSM,
    FaceAttack,
    Patch,
    Square,
)

__all__ = ["CHUNK", "EXPECTED", "FULL", "QUICK", "STRAIGHT_THROUGH", "UNBOUNDED", "Planned", "Protocol"]

EXPECTED, STRAIGHT_THROUGH = "expected", "straight-through"

UNBOUNDED = 128.0
"""Grey levels at which nothing of a face need be left: a defence that still holds hides its gradient."""

CHUNK = 60
"""Pairs that are attacked together, and kept together."""

# Cosine beyond the threshold at which an attacker by the expected antibody leaves a face alone, with more to spare than
# one who has seen it pass with every drawn antibody.
_ENOUGH = 0.3


@dataclass(frozen=True)
class Planned:
    """One attack at one budget.

    Attributes
    ----------
    name : str
        As in the table.
    attack : FaceAttack
        With its settings.
    level : float
        Budget: grey levels of 255 (L-infinity), length in the range [0, 255] divided by 255 (L2), or fraction of the
        area (patch).
    after : Planned, optional
        An attack that has its try first: faces that it gets through, by this one's margin, are not attacked again, and
        of the others the better result is kept (as in AutoAttack, Croce & Hein, ICML 2020).
    gradient : str, optional
        How it differentiates a defence that it goes through: "expected" or "straight-through", which None is.
    """

    name: str
    attack: FaceAttack
    level: float
    after: Planned | None = None
    gradient: str | None = None

    @property
    def epsilon(self) -> float:
        """The budget in the attack's own unit."""
        return (
            self.level / 127.5
            if self.attack.norm == "linf"
            else 2 * self.level
            if self.attack.norm == "l2"
            else self.level
        )

    @property
    def budget(self) -> str:
        """The budget as it is written."""
        written = f"{self.level:g}"
        return {"linf": f"{written}/255", "l2": f"L2 {written}", "patch": f"{100 * self.level:g} %"}[self.attack.norm]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        settings = dataclasses.asdict(self.attack)  # type: ignore[call-overload]
        first = {"after": self.after.name} if self.after is not None else {}
        gradient = {"gradient": self.gradient} if self.gradient is not None else {}
        return {"attack": self.name, "budget": self.budget, "settings": settings, **gradient, **first}


@dataclass(frozen=True)
class Protocol:
    """Everything that the figures depend on, apart from faces, recognisers and defences.

    Attributes
    ----------
    name : str
        "full" or "quick".
    fold : int
        Of the pairs that are judged.
    pairs, adaptive_pairs, unbounded_pairs : int
        Numbers of pairs; 0 is all of them. Attacks through the defence may use 100 where there is no GPU.
    grey_box, transfer : tuple of Planned
        Attacks on the bare victim, and on another recogniser.
    resampled : tuple of Planned
        Grey-box attacks whose faces have been in a camera's frame before the defence sees them.
    adaptive_levels, eot_levels, square_levels : tuple of float
        Budgets of the attacks through the defence: by the expected antibody, by many drawn ones, without gradients.
    fewer_steps_level : float
        Budget at which a quarter of the steps is tried, too: more must not hurt the attacker.
    adaptive_others : tuple of Planned
        Other norms through the defence.
    adaptive_steps, adaptive_draws, square_queries : int
        Of those.
    adaptive_restarts : int
        Attempts by the expected antibody; the attack by drawn ones starts from where one of these would end.
    baseline_levels : tuple of float
        Budgets at which the classical filters are attacked through, too, by the expected antibody's attack.
    judge_draws : int
        Antibodies that a figure of a sampling defence is the mean of.
    resubmissions : int
        Presentations of one attacked face.
    resubmitted : (str, float)
        Name and level of the grey-box attack that is presented so often; those through a defence are at every budget.
    other_faces : int
        Clean pairs of each set from another camera.
    projections : tuple of int
        Eigenfaces of the plain projections.
    seed : int
        Of everything random.
    """

    name: str
    fold: int = 8
    pairs: int = 0
    adaptive_pairs: int = 100
    unbounded_pairs: int = 20
    grey_box: tuple[Planned, ...] = ()
    transfer: tuple[Planned, ...] = ()
    resampled: tuple[Planned, ...] = (
        Planned("PGD-40", PGD(steps=40), 8.0),
        Planned("MI-FGSM-10", MIFGSM(steps=10), 8.0),
    )
    adaptive_levels: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0)
    eot_levels: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0)
    square_levels: tuple[float, ...] = (8.0,)
    fewer_steps_level: float = 8.0
    adaptive_others: tuple[Planned, ...] = ()
    adaptive_steps: int = 40
    adaptive_draws: int = 20
    adaptive_restarts: int = 2
    square_queries: int = 1000
    baseline_levels: tuple[float, ...] = (8.0,)
    judge_draws: int = 4
    resubmissions: int = 10
    resubmitted: tuple[str, float] = ("PGD-40", 8.0)
    other_faces: int = 600
    projections: tuple[int, ...] = (100, 300, 700, 1500)
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, attacks with their settings."""
        plain = dataclasses.asdict(self)
        for column in ("grey_box", "resampled", "transfer", "adaptive_others"):
            plain[column] = [item.to_dict() for item in getattr(self, column)]
        for column, draws in (("adaptive", True), ("adaptive_without_draws", False)):
            through = [plan for level in self.adaptive_levels for plan in self.adaptive(level, draws=draws)]
            plain[column] = [plan.to_dict() for plan in through]
        plain |= {"unbounded_level": UNBOUNDED, "pairs_attacked_together": CHUNK}
        return plain

    def adaptive(self, level: float, *, draws: bool) -> list[Planned]:
        """The attacks through a defence at a budget; one that draws is attacked by many antibodies, too."""
        steps, restarts = self.adaptive_steps, self.adaptive_restarts
        # PGD is EOT-PGD on one draw, and what is expected takes no more.
        whole = EOTPGD(steps=steps, draws=1, restarts=restarts, margin=_ENOUGH)
        planned = [Planned(f"expected PGD-{steps}", whole, level, gradient=EXPECTED)]
        if level == self.fewer_steps_level:
            fewer = max(1, steps // 4)
            quick = dataclasses.replace(whole, steps=fewer)
            planned.append(Planned(f"expected PGD-{fewer}", quick, level, gradient=EXPECTED))
        if not draws:
            planned.append(Planned(f"APGD-{steps}", APGD(steps=steps), level))
        elif level in self.eot_levels:
            # It starts from where the expected antibody's attacker ends, so it needs no second attempt, and nothing is
            # left for it of faces that he gets through.
            attack = EOTPGD(steps=steps, draws=self.adaptive_draws)
            name = f"{STRAIGHT_THROUGH} EOT-PGD-{steps}x{self.adaptive_draws} after PGD-{steps}"
            planned.append(Planned(name, attack, level, planned[0], STRAIGHT_THROUGH))
        if level in self.square_levels:
            # It asks for the expected antibody, too: among drawn ones a random search keeps the luckiest. It is for
            # faces that gradients miss.
            square = Square(queries=self.square_queries, margin=0.2)
            name = f"expected Square-{self.square_queries} after PGD-{steps}"
            planned.append(Planned(name, square, level, planned[0], EXPECTED))
        return planned


def _grey_box(*, full: bool) -> tuple[Planned, ...]:
    planned = [Planned("PGD-40", PGD(steps=40), level) for level in ((2.0, 4.0, 8.0, 16.0) if full else (4.0, 8.0))]
    planned += [Planned("PGD-10", PGD(steps=10), 8.0), Planned("MI-FGSM-10", MIFGSM(steps=10), 8.0)]
    if not full:
        return tuple(planned)
    planned += [
        Planned("FGSM", FGSM(), 8.0),
        Planned("MI-FGSM-10", MIFGSM(steps=10), 4.0),
        Planned("DI-FGSM-10", DIFGSM(steps=10), 8.0),
        Planned("TI-FGSM-10", TIFGSM(steps=10), 8.0),
        Planned("APGD-40", APGD(steps=40), 8.0),
        Planned("L2-PGD-40", L2PGD(steps=40), 1.5),
        Planned("patch", Patch(steps=40), 0.1),
    ]
    return tuple(planned)


FULL = Protocol(
    "full",
    grey_box=_grey_box(full=True),
    transfer=(
        Planned("PGD-40", PGD(steps=40), 4.0),
        Planned("PGD-40", PGD(steps=40), 8.0),
        Planned("MI-FGSM-10", MIFGSM(steps=10), 4.0),
        Planned("MI-FGSM-10", MIFGSM(steps=10), 8.0),
        Planned("DI-FGSM-10", DIFGSM(steps=10), 8.0),
        Planned("TI-FGSM-10", TIFGSM(steps=10), 8.0),
    ),
    adaptive_others=(
        Planned("expected L2-PGD-40", L2PGD(steps=40, restarts=2), 1.5, gradient=EXPECTED),
        Planned("expected patch", Patch(steps=40), 0.1, gradient=EXPECTED),
    ),
)
QUICK = Protocol(
    "quick",
    pairs=60,
    adaptive_pairs=60,
    unbounded_pairs=10,
    grey_box=_grey_box(full=False),
    adaptive_levels=(8.0,),
    eot_levels=(8.0,),
    square_levels=(),
    adaptive_steps=20,
    adaptive_draws=4,
    adaptive_restarts=1,
    baseline_levels=(),
    judge_draws=2,
    other_faces=0,
)
