"""From scores to rows of a report: success by direction, gain of SFA, errors by species."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation import metrics
from immunecam.benchmarks.liveness.attacked import PURIFIED_ATTACK, AttackedFaces, LivenessJob
from immunecam.benchmarks.liveness.protocol import GOAL_POINTS, PLAIN_BELOW
from immunecam.benchmarks.liveness.victim import LivenessVictim
from immunecam.models.liveness_loss import LIVE
from immunecam.runtime.gate.calibration import clopper_pearson
from immunecam.training.liveness.errors import species_of

__all__ = [
    "DIRECTIONS",
    "Outcome",
    "Scored",
    "acer",
    "best_sweep",
    "error_rows",
    "gain_rows",
    "outcomes_of",
    "rate",
    "strongest",
    "success_rows",
    "sweep_rows",
    "transfer_rows",
]

DIRECTIONS = ("spoof to live", "live to spoof")
"""The first one opens doors."""

_SWEPT = "PGD-10"
# Of spoofs and of live faces; the standard's words are for faces that nobody has attacked.
_FIGURES = (("APCER", "BPCER"), ("spoofs that pass", "live faces stopped"))
_TINY = 1e-7  # float32 knows no probability nearer to 1

Scored = Mapping[tuple[str, str, str, float, bool], NDArray[np.float32]]
"""Scores of attacked faces by run, head, attack, budget, and whether with SFA."""

_Row = dict[str, Any]


def rate(hits: int, count: int) -> _Row:
    """A share in percent with its interval of Clopper and Pearson (Biometrika 1934), 95 %; None where nobody is."""
    if not count:
        return {"faces": 0, "percent": None, "low_percent": None, "high_percent": None}
    low, high = clopper_pearson(hits, count)
    percents = {"percent": hits / count, "low_percent": low, "high_percent": high}
    return {"faces": count, **{name: round(100 * value, 2) for name, value in percents.items()}}


def _directions(live: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    return dict(zip(DIRECTIONS, (~live, live), strict=True))


class Outcome:
    """Which faces a network judged rightly before an attack, and which of those wrongly after it."""

    def __init__(self, victim: LivenessVictim, live: NDArray[np.bool_], clean: NDArray[np.float32]) -> None:
        self.victim, self.live = victim, live
        self.right = victim.passes(clean) == live

    def margin(self, scores: NDArray[np.float32]) -> float:
        """How far beyond the threshold the attack gets, in log odds, mean over the faces that were right.

        Below 0 it stops short of it. It tells two attacks apart that succeed equally often.
        """
        odds, needed = (np.log(x / (1 - x)) for x in (np.clip(scores.astype(float), _TINY, 1 - _TINY), self._least))
        beyond = np.where(self.live, needed - odds, odds - needed)
        return float(beyond[self.right].mean())

    @property
    def _least(self) -> float:
        return min(max(self.victim.threshold, _TINY), 1 - _TINY)

    def fooled(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        return self.right & (self.victim.passes(scores) != self.live)


def outcomes_of(attacked: AttackedFaces, victims: Iterable[LivenessVictim]) -> dict[str, Outcome]:
    live = (attacked.faces.labels.live == LIVE).numpy()
    return {victim.name: Outcome(victim, live, attacked.clean_scores(victim)) for victim in victims}


def success_rows(attacked: AttackedFaces, victims: Sequence[LivenessVictim], scored: Scored) -> list[_Row]:
    """Success on correctly classified faces, a row for each direction of each attack."""
    outcomes, rows = outcomes_of(attacked, victims), []
    for (run, head, attack, level, sfa), scores in scored.items():
        outcome = outcomes[run]
        fooled = outcome.fooled(scores)
        for direction, which in _directions(outcome.live).items():
            counted = outcome.right & which
            rows.append(
                {
                    "run": run,
                    "backbone": outcome.victim.backbone,
                    "tasks": list(outcome.victim.network.tasks),
                    "adversarial": outcome.victim.adversarial is not None,
                    "head": head,
                    "attack": attack,
                    "sfa": sfa,
                    "level": level,
                    "budget": f"{level:g}/255",
                    "direction": direction,
                    **rate(int(fooled[counted].sum()), int(counted.sum())),
                }
            )
    return rows


def gain_rows(attacked: AttackedFaces, victims: Sequence[LivenessVictim], scored: Scored) -> tuple[list[_Row], _Row]:
    """What SFA adds to every attack at every budget; and whether the goal is met.

    A gain is judged where `PLAIN_BELOW` says: for each network, head and attack at the smallest budget at which the
    attack alone succeeds less often. The goal is about the head live; others stand beside it. Gains are differences on
    the same faces, both directions together.
    """
    outcomes, rows = outcomes_of(attacked, victims), []
    for (run, head, attack, level, sfa), scores in scored.items():
        if sfa:
            continue
        outcome = outcomes[run]
        if not outcome.right.any():
            continue
        plain, with_sfa = (
            outcome.fooled(found)[outcome.right].astype(float)
            for found in (scores, scored[run, head, attack, level, True])
        )
        low, high = metrics.interval(with_sfa - plain)
        rows.append(
            {
                "run": run,
                "head": head,
                "attack": attack,
                "level": level,
                "budget": f"{level:g}/255",
                "faces": len(plain),
                "plain_percent": round(100 * float(plain.mean()), 2),
                "sfa_percent": round(100 * float(with_sfa.mean()), 2),
                "gain_points": round(100 * float((with_sfa - plain).mean()), 2),
                "low_points": round(100 * low, 2),
                "high_points": round(100 * high, 2),
                "plain_margin": round(outcome.margin(scores), 3),
                "sfa_margin": round(outcome.margin(scored[run, head, attack, level, True]), 3),
                "judged": False,
            }
        )
    groups: dict[tuple[str, str, str], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row["run"], row["head"], row["attack"]), []).append(row)
    below = {key: [row for row in own if row["plain_percent"] < PLAIN_BELOW] for key, own in groups.items()}
    largest: dict[str, list[float]] = {}
    for (_, head, _), own in below.items():
        if own:
            min(own, key=lambda row: row["level"])["judged"] = True
            # The same where there is most to gain.
            largest.setdefault(head, []).append(max(own, key=lambda row: row["level"])["gain_points"])
    by_head = []
    for head in dict.fromkeys(row["head"] for row in rows):
        own = [row for row in rows if row["head"] == head]
        judged = [row["gain_points"] for row in own if row["judged"]]
        by_head.append(
            {
                "head": head,
                "pairs": sum(key[1] == head for key in groups),
                "judged": len(judged),
                "mean_gain_points": _mean(judged),
                "mean_gain_at_largest_budget_points": _mean(largest.get(head, [])),
                "mean_gain_at_all_budgets_points": _mean([row["gain_points"] for row in own]),
            }
        )
    live = next((one for one in by_head if one["head"] == "live"), {"pairs": 0, "judged": 0, "mean_gain_points": None})
    mean = live["mean_gain_points"]
    goal = {
        "wanted_points": GOAL_POINTS,
        "plain_below_percent": PLAIN_BELOW,
        "met": None if mean is None else mean >= GOAL_POINTS,
        **{key: value for key, value in live.items() if key != "head"},
        "by_head": by_head,
    }
    return rows, goal


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 2) if values else None


def sweep_rows(attacked: AttackedFaces, victims: Sequence[LivenessVictim], gains: Sequence[_Row]) -> list[_Row]:
    """What other settings of SFA gain, over an attack on the head live at the budget where its gain was judged.

    The attack is `_SWEPT`, or where that one alone succeeds too often at every budget the first that does not.
    """
    protocol, rows = attacked.protocol, []
    live = (attacked.faces.labels.live == LIVE).numpy()
    chosen = np.concatenate([np.flatnonzero(which)[: protocol.sweep_faces] for which in (live, ~live)])
    for victim in victims:
        judged = [row for row in gains if row["judged"] and (row["run"], row["head"]) == (victim.name, "live")]
        if not judged or not protocol.sweep_faces:
            continue
        swept = next((row for row in judged if row["attack"] == _SWEPT), judged[0])
        name, level = swept["attack"], swept["level"]
        outcome = Outcome(victim, live[chosen], attacked.clean_scores(victim)[chosen])
        base = LivenessJob(victim, "live", name, protocol.attack(name, sfa=False), False, level)
        plain = outcome.fooled(attacked.scores(base, protocol.sweep_faces))[outcome.right].astype(float)
        for attack in protocol.sweep(name):
            job = LivenessJob(victim, "live", name, attack, True, level)
            found = outcome.fooled(attacked.scores(job, protocol.sweep_faces))[outcome.right].astype(float)
            low, high = metrics.interval(found - plain)
            rows.append(
                {
                    "run": victim.name,
                    "attack": name,
                    "level": level,
                    "budget": f"{level:g}/255",
                    "layer": attack.layer,
                    "operator": attack.operator,
                    "draws": attack.draws,
                    "law": attack.law,
                    "strength": attack.strength,
                    "faces": len(plain),
                    "plain_percent": round(100 * float(plain.mean()), 2),
                    "sfa_percent": round(100 * float(found.mean()), 2),
                    "gain_points": round(100 * float((found - plain).mean()), 2),
                    "low_points": round(100 * low, 2),
                    "high_points": round(100 * high, 2),
                }
            )
    return rows


def transfer_rows(attacked: AttackedFaces, victims: Sequence[LivenessVictim]) -> list[_Row]:
    """What was made on one network and is judged by another: `PURIFIED_ATTACK`, without SFA and with it."""
    outcomes, rows = outcomes_of(attacked, victims), []
    for source in victims if len(victims) > 1 else ():
        for level in attacked.protocol.purified_levels:
            for sfa in (False, True):
                attack = attacked.protocol.attack(PURIFIED_ATTACK, sfa=sfa)
                pixels = attacked.pixels(LivenessJob(source, "live", PURIFIED_ATTACK, attack, sfa, level))
                for victim in victims:
                    if victim is source:
                        continue
                    outcome = outcomes[victim.name]
                    fooled = outcome.fooled(attacked.judged(victim, pixels))
                    for direction, which in _directions(outcome.live).items():
                        counted = outcome.right & which
                        row = {"source": source.name, "run": victim.name, "attack": PURIFIED_ATTACK, "sfa": sfa}
                        row |= {"level": level, "budget": f"{level:g}/255", "direction": direction}
                        rows.append(row | rate(int(fooled[counted].sum()), int(counted.sum())))
    return rows


def best_sweep(rows: Sequence[_Row]) -> _Row | None:
    """The settings that gain most, on average over the networks; None of no rows."""
    keys = ("layer", "operator", "draws", "law", "strength")
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row["gain_points"])
    if not found:
        return None
    best = max(found, key=lambda settings: float(np.mean(found[settings])))
    return dict(zip(keys, best, strict=True)) | {"mean_gain_points": round(float(np.mean(found[best])), 2)}


def strongest(
    attacked: AttackedFaces, victim: LivenessVictim, scored: Scored, level: float, head: str | None = None
) -> NDArray[np.float32]:
    """Scores by the attack, of all at a budget, that does most to each face: as a spoof passes, or a live face not.

    With a head, of the attacks on it alone.
    """
    live = (attacked.faces.labels.live == LIVE).numpy()
    found = np.stack(
        [
            scores
            for key, scores in scored.items()
            if (key[0], key[3]) == (victim.name, level) and head in (None, key[1])
        ]
    )
    return np.where(live, found.min(0), found.max(0))


def error_rows(
    attacked: AttackedFaces,
    victims: Sequence[LivenessVictim],
    judged: Callable[[LivenessVictim], tuple[NDArray[np.float32], NDArray[np.str_]]],
    scored: Scored,
) -> list[_Row]:
    """Shares of wrong decisions, of all faces of a species: on clean faces, and under the strongest attack.

    Parameters
    ----------
    attacked : AttackedFaces
    victims : sequence of LivenessVictim
    judged : callable
        Scores and species of all faces that are judged without an attack.
    scored : Scored
    """
    species, rows = species_of(attacked.faces), []
    for victim in victims:
        rows += _species_rows(victim, *judged(victim), level=0.0)
        for level in attacked.protocol.levels:
            rows += _species_rows(victim, strongest(attacked, victim, scored, level), species, level=level)
    return rows


def _species_rows(
    victim: LivenessVictim, scores: NDArray[np.float32], species: NDArray[np.str_], *, level: float
) -> list[_Row]:
    rows = []
    for name in dict.fromkeys(["live", *sorted({str(one) for one in species})]):
        which = species == name
        wrong = victim.passes(scores[which]) != (name == "live")
        about = {"run": victim.name, "level": level, "budget": f"{level:g}/255" if level else "0", "species": name}
        rows.append(about | {"figure": _FIGURES[level > 0][name == "live"]} | rate(int(wrong.sum()), len(wrong)))
    return rows


def acer(rows: Sequence[_Row], run: str) -> _Row:
    """BPCER, the worst species' APCER, and the mean of both, in percent, of the rows of `error_rows`."""
    own = [row for row in rows if (row["run"], row["level"]) == (run, 0.0) and row["percent"] is not None]
    bpcer = next(row["percent"] for row in own if row["species"] == "live")
    worst = max((row for row in own if row["species"] != "live"), key=lambda row: float(row["percent"]))
    return {
        "bpcer_percent": bpcer,
        "worst_apcer_percent": worst["percent"],
        "worst_species": worst["species"],
        "acer_percent": round((bpcer + worst["percent"]) / 2, 2),
    }
