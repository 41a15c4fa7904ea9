"""Which networks, backbones, auxiliary tasks and heads hold, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.liveness.attacked import AttackedFaces
from immunecam.benchmarks.liveness.figures import DIRECTIONS, Scored, outcomes_of, rate, strongest
from immunecam.benchmarks.liveness.victim import LivenessVictim

__all__ = ["DRAWS", "rankings"]

DRAWS = 1000
"""Of the faces, with replacement: how far another choice of them would move a figure."""

_Row = dict[str, Any]


@dataclass(frozen=True)
class _Opened:
    """How often the strongest attack makes each spoof pass that a network stopped before.

    Attributes
    ----------
    share : ndarray
        (N,) of the budgets, in [0, 1].
    stopped : ndarray
        (N,) bool; the others do not count.
    """

    share: NDArray[np.float64]
    stopped: NDArray[np.bool_]

    @property
    def percent(self) -> float | None:
        """Of the spoofs that were stopped; None where none was."""
        return round(100 * float(self.share[self.stopped].mean()), 2) if self.stopped.any() else None

    def drawn(self, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """(draws,) means of drawn faces (draws, N); not a number where a draw has none that was stopped."""
        counted = self.stopped[chosen]
        with np.errstate(invalid="ignore"):
            found: NDArray[np.float64] = (self.share[chosen] * counted).sum(1) / counted.sum(1)
        return found


def rankings(
    attacked: AttackedFaces, victims: Sequence[LivenessVictim], scored: Scored, success: Sequence[_Row]
) -> dict[str, Any]:
    """Runs, backbones, sets of auxiliary tasks and heads, the most robust first.

    A network's figure is the mean over all budgets of how often the strongest attack of all makes a spoof pass; beside
    it stands that of the attacks on the head live alone, for more heads are more ways for an attacker to try.
    Backbones and sets of tasks are means over their runs that were not trained against attacks. A head's figure is the
    mean success of the attacks through it, over those of these runs that have every head: were each head's own runs
    taken, weak networks and strong ones would be compared in place of heads. Where no run has all, all of them count.

    Intervals are of 95 % by the bootstrap over faces, the same draws for all, so that `leads` can say in how many of
    them the first is ahead of the second. What another training of the same network would change they do not know.
    """
    outcomes = outcomes_of(attacked, victims)
    spoofs = np.flatnonzero(~next(iter(outcomes.values())).live)
    chosen = np.random.default_rng(attacked.protocol.seed).integers(0, len(spoofs), (DRAWS, len(spoofs)))
    runs, draws = [], {}
    for victim in victims:
        outcome = outcomes[victim.name]
        opened = {}
        for head in (None, "live"):
            fooled = [
                outcome.fooled(strongest(attacked, victim, scored, level, head))[spoofs]
                for level in attacked.protocol.levels
            ]
            opened[head] = _Opened(np.mean(fooled, axis=0), outcome.right[spoofs])
        draws[victim.name] = opened[None].drawn(chosen)
        runs.append(
            {
                "run": victim.name,
                "backbone": victim.backbone,
                "tasks": ", ".join(victim.network.tasks) or "none",
                "adversarial": victim.adversarial is not None,
                "opened_percent": opened[None].percent,
                **_interval(draws[victim.name], opened[None].percent, int(opened[None].stopped.sum())),
                "opened_through_live_percent": opened["live"].percent,
            }
        )
    usual = [row for row in runs if not row["adversarial"]] or runs
    ranked: dict[str, Any] = {"runs": _ranked(runs)}
    leads = {}
    for key, name in (("backbones", "backbone"), ("tasks", "tasks")):
        rows, means = _means(usual, name, draws, len(spoofs))
        ranked[key] = _ranked(rows)
        if len(rows) > 1:
            first, second = (means[row[name]] for row in ranked[key][:2])
            leads[key] = round(100 * float(np.nanmean(first < second)), 1)
    return ranked | {"heads": _heads(victims, usual, success), "leads": leads, "draws": DRAWS}


def _heads(victims: Sequence[LivenessVictim], usual: Sequence[_Row], success: Sequence[_Row]) -> list[_Row]:
    names = {row["run"] for row in usual}
    own = {victim.name: set(victim.network.heads) for victim in victims if victim.name in names}
    every = set().union(*own.values())
    compared = {name for name in own if own[name] == every} or names
    heads: dict[str, list[float]] = {}
    for row in success:
        if row["run"] in compared and row["direction"] == DIRECTIONS[0] and row["percent"] is not None:
            heads.setdefault(row["head"], []).append(row["percent"])
    return _ranked([{"head": name, "opened_percent": round(float(np.mean(x)), 2)} for name, x in heads.items()])


def _means(
    rows: Sequence[_Row], key: str, draws: Mapping[str, NDArray[np.float64]], faces: int
) -> tuple[list[_Row], dict[str, NDArray[np.float64]]]:
    """Rows of what runs share, and their figures in every draw."""
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        if row["opened_percent"] is not None:
            groups.setdefault(row[key], []).append(row)
    means = {name: np.mean([draws[row["run"]] for row in own], axis=0) for name, own in groups.items()}
    made = []
    for name, own in groups.items():
        percent = round(float(np.mean([row["opened_percent"] for row in own])), 2)
        made.append({key: name, "runs": len(own), "opened_percent": percent, **_interval(means[name], percent, faces)})
    return made, means


def _interval(draws: NDArray[np.float64], percent: float | None, faces: int) -> _Row:
    """Bounds in percent of a figure; where every face says the same, those of Clopper and Pearson."""
    if percent is None:
        return {"low_percent": None, "high_percent": None}
    if percent in (0.0, 100.0):
        whole = rate(round(faces * percent / 100), faces)
        return {key: whole[key] for key in ("low_percent", "high_percent")}
    low, high = (round(100 * float(bound), 2) for bound in np.nanpercentile(draws, (2.5, 97.5)))
    return {"low_percent": min(low, percent), "high_percent": max(high, percent)}


def _ranked(rows: list[_Row]) -> list[_Row]:
    return sorted(rows, key=lambda row: (row["opened_percent"] is None, row["opened_percent"]))
