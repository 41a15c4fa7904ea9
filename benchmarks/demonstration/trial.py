"""Dodging and impersonation by people who know the recogniser, and what purification leaves of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from immunecam.benchmarks.demonstration.people import People
from immunecam.benchmarks.evaluation import metrics
from immunecam.errors import InputError
from immunecam.runtime.purifier import Purifier
from immunecam.training.attacks import ATTACKS, dodging, impersonation
from immunecam.training.faces import from_uint8, to_uint8
from immunecam.training.recognizer import Recognizer

__all__ = ["SHOWN_ATTACKS", "Judge", "Trial", "counted", "margin_threshold", "run_trials"]

SHOWN_ATTACKS = ("PGD-10", "MI-FGSM-10")
"""Of the table of attacks; ten steps are enough for a bare recogniser, and a demonstration must not take long."""

_Faces = NDArray[np.uint8]
_Cosines = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Judge:
    """A recogniser with its threshold, with and without purification before it.

    Attributes
    ----------
    recognizer : Recognizer
    purifier : Purifier
        With a seed, so that equal faces give equal figures.
    threshold : float
        A face is accepted from this cosine on; that of the recogniser without purification, and never moved.
    device : str
        Where the recogniser computes.
    """

    recognizer: Recognizer
    purifier: Purifier
    threshold: float
    device: str = "cpu"

    def embeddings(self, faces: _Faces) -> torch.Tensor:
        """Unit embeddings (N, E) of faces (N, 112, 112)."""
        with torch.no_grad():
            parts = [self.recognizer(from_uint8(part).to(self.device)) for part in torch.from_numpy(faces).split(32)]
        return torch.cat(parts)

    def cosines(self, faces: _Faces, enrolled: _Faces) -> _Cosines:
        """(N,) cosines of faces with the enrolled ones that they are compared with."""
        product: _Cosines = (self.embeddings(faces) * self.embeddings(enrolled)).sum(1).cpu().numpy()
        return product

    def purified(self, faces: _Faces) -> _Faces:
        """The faces after purification; the same antibodies every time."""
        return self.purifier.purify_batch(faces, first_image=0).purified


@dataclass(frozen=True, eq=False)
class Trial:
    """One attack by all people at once.

    Attributes
    ----------
    goal : str
        "dodging" or "impersonation".
    attack : str
        Name in the table of attacks.
    names, aims : tuple of str
        Who attacks, and as whom the gate would accept them: themselves, or their victim.
    faces : dict of str to ndarray of uint8
        "enrolled" of whom they are compared with, "clean", "attacked", "purified": (N, 112, 112).
    cosines : dict of str to ndarray of float32
        "clean", "attacked" without purification; "clean purified", "purified" with both sides purified: (N,).
    threshold : float
    """

    goal: str
    attack: str
    names: tuple[str, ...]
    aims: tuple[str, ...]
    faces: dict[str, _Faces]
    cosines: dict[str, _Cosines]
    threshold: float

    def accepted(self, stage: str) -> NDArray[np.bool_]:
        """(N,) whether they are accepted as whom they are compared with."""
        return np.asarray(self.cosines[stage] >= self.threshold, np.bool_)

    def right(self, stage: str) -> NDArray[np.bool_]:
        """(N,) whether that is as it should be: accepted as oneself, and not as another."""
        return self.accepted(stage) == (self.goal == "dodging")

    def rows(self) -> list[dict[str, Any]]:
        """A line of a report for each person."""
        change = np.abs(self.faces["attacked"].astype(int) - self.faces["clean"]).max((1, 2))
        return [
            {
                "goal": self.goal,
                "attack": self.attack,
                "person": name,
                "compared_with": aim,
                "largest_change_grey_levels": int(change[n]),
                **{f"{_key(stage)}_cosine": round(float(values[n]), 4) for stage, values in self.cosines.items()},
                **{f"{_key(stage)}_accepted": bool(self.accepted(stage)[n]) for stage in self.cosines},
            }
            for n, (name, aim) in enumerate(zip(self.names, self.aims, strict=True))
        ]


def margin_threshold(judge: Judge, people: People) -> float:
    """A threshold from a few faces alone: of best accuracy, in the middle of the gap that it lies in.

    Good enough to show something. That of a door wants some thousand pairs.
    """
    table = (judge.embeddings(people.probes) @ judge.embeddings(people.enrolled).T).cpu().numpy().astype(np.float64)
    same = np.eye(len(people), dtype=bool)
    best = metrics.best_threshold(table.ravel(), same.ravel())
    below = table[table < best]
    return round((best + float(below.max())) / 2, 4) if len(below) else round(best, 4)


def run_trials(
    people: People,
    judge: Judge,
    level: float,
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Trial]:
    """Every attack with every goal, by the people whom the recogniser knows while nobody attacks.

    Parameters
    ----------
    people : People
    judge : Judge
    level : float
        Budget in grey levels of 255.
    tell : callable
        Hears of progress.

    Raises
    ------
    InputError
        If fewer than two of them are accepted as themselves and not as somebody else.
    """
    table = (judge.embeddings(people.probes) @ judge.embeddings(people.enrolled).T).cpu().numpy()
    accepted = table >= judge.threshold
    known = np.flatnonzero(np.diag(accepted))
    victims = {n: [int(v) for v in np.roll(known, -int(np.searchsorted(known, n)) - 1)] for n in map(int, known)}
    aimed = {n: next((v for v in others if v != n and not accepted[n, v]), None) for n, others in victims.items()}
    chosen = {n: victim for n, victim in aimed.items() if victim is not None}
    if len(chosen) < 2:
        raise InputError(
            f"the recogniser {judge.recognizer.name!r} knows {len(known)} of these {len(people)} people and tells "
            f"{len(chosen)} of them from another at the threshold {judge.threshold:g}, so an attack shows nothing: "
            "give other --faces, several pictures of each, or the recogniser's own --threshold"
        )
    attackers = people.of(list(chosen))
    enrolled = {
        "dodging": (attackers.names, attackers.enrolled),
        "impersonation": (
            tuple(people.names[victim] for victim in chosen.values()),
            people.enrolled[list(chosen.values())],
        ),
    }
    trials: list[Trial] = []
    for goal, (aims, references) in enrolled.items():
        wanted = {"dodging": dodging, "impersonation": impersonation}[goal](
            judge.recognizer, judge.embeddings(references), judge.threshold
        )
        for name in SHOWN_ATTACKS:
            tell(f"{goal}, {name}", len(trials), len(enrolled) * len(SHOWN_ATTACKS))
            clean = from_uint8(torch.from_numpy(attackers.probes)).to(judge.device)
            attacked = to_uint8(ATTACKS[name].attack(wanted, clean, level / 127.5)).cpu().numpy()
            trials.append(_judged(goal, name, attackers, aims, references, attacked, judge))
    return trials


def _judged(
    goal: str, attack: str, people: People, aims: tuple[str, ...], enrolled: _Faces, attacked: _Faces, judge: Judge
) -> Trial:
    purified, enrolled_purified = judge.purified(attacked), judge.purified(enrolled)
    return Trial(
        goal,
        attack,
        people.names,
        aims,
        {"enrolled": enrolled, "clean": people.probes, "attacked": attacked, "purified": purified},
        {
            "clean": judge.cosines(people.probes, enrolled),
            "attacked": judge.cosines(attacked, enrolled),
            "clean purified": judge.cosines(judge.purified(people.probes), enrolled_purified),
            "purified": judge.cosines(purified, enrolled_purified),
        },
        judge.threshold,
    )


def _key(stage: str) -> str:
    return stage.replace(" ", "_")


def counted(trials: Sequence[Trial]) -> list[str]:
    """A sentence for each trial: who got through before, and after."""
    return [
        f"{trial.goal}, {trial.attack}: {int((~trial.right('attacked')).sum())} of {len(trial.names)} got through "
        f"before purification, {int((~trial.right('purified')).sum())} after"
        for trial in trials
    ]
