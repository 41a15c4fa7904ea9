"""Why semantic features help an attack on liveness or not: is there anything wrong with the plain gradient?

``python -m immunecam.benchmarks.liveness_gradients RUN... --data test.safetensors --json gradients.json``

Where the loss is flat (a network so sure of itself that its cross-entropy underflows) the gradient's sign is noise, and
features moved towards the other class bring it back. So this measures how sure networks are, how many values of the
gradient are exactly zero, and what SFA gains over the plain attack on the network as it is and on the same network with
its logits multiplied, which decides alike and is surer of itself. Beside both stands the margin of the logits as the
loss, which never saturates, and the most that any attack found, which is all that there is to gain.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from immunecam.benchmarks.liveness.attacked import drawn
from immunecam.benchmarks.liveness.protocol import MATRIX
from immunecam.benchmarks.liveness.victim import LivenessVictim, load_victims
from immunecam.models.liveness import LivenessNetwork
from immunecam.models.liveness_loss import LIVE
from immunecam.runtime.report import write_report
from immunecam.training.allocator import keep_freed_memory
from immunecam.training.attacks.liveness_attacks import LIVENESS_ATTACKS, SignAttack
from immunecam.training.attacks.liveness_goal import FeatureBank, LivenessGoal
from immunecam.training.attacks.sfa import SFA
from immunecam.training.faces import from_uint8
from immunecam.training.liveness import LivenessSet

__all__ = ["MarginGoal", "gradient_rows", "main", "surer"]

SCHEMA = "immunecam.liveness-gradients/1"

_STRONG = SignAttack(steps=100)


@dataclass(frozen=True, eq=False)
class MarginGoal(LivenessGoal):
    """The head live by the margin of its logits (Carlini and Wagner, 2017), whose gradient is as large everywhere."""

    def loss(self, outputs: dict[str, Tensor]) -> Tensor:
        """(N,) logit of the wrong class less that of the right one, mean over rounds as in `LivenessGoal`."""
        margins = (outputs["live"][:, 1] - outputs["live"][:, 0]).reshape(-1, len(self.labels))
        return torch.where(self.labels.live == LIVE, margins, -margins).mean(0)


def surer(network: LivenessNetwork, times: float) -> LivenessNetwork:
    """The same decisions with logits of the head live that are so many times larger."""
    changed = copy.deepcopy(network)
    for value in changed.classifiers["live"].parameters():
        value.data *= times
    return changed


def gradient_rows(
    victim: LivenessVictim,
    faces: LivenessSet,
    others: LivenessSet,
    *,
    levels: Sequence[float] = (1.0, 2.0),
    scales: Sequence[float] = (1.0, 10.0, 100.0),
    sfa: Sequence[SFA] = (MATRIX.sfa,),
    seed: int = 0,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """How sure a network is by the scale of its logits; and what attacks on its head live reach, by scale and budget.

    Parameters
    ----------
    victim : LivenessVictim
    faces : LivenessSet
        To attack; those that are classified wrongly are left out.
    others : LivenessSet
        The attacker's bank.
    levels, scales : sequence of float
        Budgets in grey levels, and factors of the logits.
    sfa : sequence of SFA
        Settings to put over the attacks.
    seed : int
    """
    live = faces.labels.live == LIVE
    pictures, bank_pictures = from_uint8(faces.pixels), from_uint8(others.pixels)
    needed = float(np.log(victim.threshold / (1 - victim.threshold)))
    right = torch.from_numpy(_over(victim.network, pictures, needed)) == live
    chosen = faces.at(right)
    pictures, live = pictures[right], live[right]
    sureness, rows = [], []
    for scale in scales:
        network = surer(victim.network, scale)
        bank = FeatureBank(network, bank_pictures, others.labels.live)
        goal = LivenessGoal(network, chosen.labels, "live", bank)
        margin = MarginGoal(network, chosen.labels, "live", bank)
        sureness.append({"run": victim.name, "scale": scale, **_sureness(goal, pictures, live, sfa[0])})
        for level in levels:
            forms: dict[str, tuple[SignAttack, LivenessGoal]] = {}
            for name in ("FGSM", "PGD-10"):
                base = LIVENESS_ATTACKS[name]
                forms[name] = base, goal
                for one in sfa:
                    settings = {key: getattr(one, key) for key in ("layer", "operator", "draws", "law", "strength")}
                    title = f"{name} + SFA {one.layer} {one.operator} {one.law} {one.strength:g}"
                    forms[title] = SFA.over(base, **settings), goal
                forms[f"{name}, margin"] = base, margin
            if scale == scales[0]:
                forms["PGD-100, margin"] = _STRONG, margin
            for title, (attack, wanted) in forms.items():
                torch.manual_seed(seed)
                attacked = attack(wanted, pictures, level / 127.5)
                fooled = torch.from_numpy(_over(network, attacked, needed * scale)) != live
                row: dict[str, Any] = {"run": victim.name, "scale": scale, "level": level, "attack": title}
                row |= {"faces": len(live), "percent": round(100 * float(fooled.float().mean()), 2)}
                row |= {"opens_percent": round(100 * float(fooled[~live].float().mean()), 2)}
                rows.append(row)
    return sureness, rows


@torch.no_grad()
def _over(network: LivenessNetwork, pictures: Tensor, needed: float) -> NDArray[np.bool_]:
    """(N,) whether log odds of "live" reach what is needed."""
    logits = torch.cat([network(part)["live"] for part in pictures.split(64)])
    passes: NDArray[np.bool_] = (logits[:, 0] - logits[:, 1] >= needed).numpy()
    return passes


def _sureness(goal: LivenessGoal, pictures: Tensor, live: Tensor, sfa: SFA) -> dict[str, Any]:
    """Margins in log odds, and gradients of the plain loss: zeros, size, and whether SFA's point elsewhere."""
    with torch.no_grad():
        logits = goal.network(pictures)["live"]
    margins = torch.where(live, logits[:, 0] - logits[:, 1], logits[:, 1] - logits[:, 0])
    plain = _gradient(goal, pictures)
    torch.manual_seed(0)
    augmented = _gradient(sfa._loss(goal), pictures)
    sizes = plain.abs().flatten(1).sum(1)
    same = (plain.sign() == augmented.sign()).flatten(1).float().mean(1)
    return {
        "faces": len(live),
        "margin_quartiles": [round(float(value), 3) for value in margins.quantile(torch.tensor([0.25, 0.5, 0.75]))],
        "faces_without_gradient_percent": round(100 * float((sizes == 0).float().mean()), 2),
        "zero_gradient_percent": round(100 * float((plain == 0).float().mean()), 3),
        "median_gradient_l1": float(sizes.median()),
        "sfa_same_sign_percent": round(100 * float(same.mean()), 2),
    }


def _gradient(loss: Any, pictures: Tensor) -> Tensor:
    pictures = pictures.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(loss(pictures).sum(), pictures)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--data", type=Path, required=True, help="set of `immunecam liveness make`")
    parser.add_argument("--faces", type=int, default=24, help="of each class")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    keep_freed_memory()
    whole = LivenessSet.load(given.data)
    others, judged = whole.halves()
    faces, bank = drawn(judged, given.faces), drawn(others, MATRIX.bank)
    settings = [MATRIX.sfa, SFA(layer="stage2", operator="class"), SFA(layer="stem", operator="adain")]
    sureness: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    victims = load_victims(given.runs, others, "cpu")
    for victim in victims:
        sure, found = gradient_rows(victim, faces, bank, sfa=settings)
        for row in (*sure, *found):
            print(row, flush=True)
        sureness += sure
        rows += found
    if given.json:
        about = {"set": whole.origin, "synthetic": whole.synthetic, "runs": [victim.to_dict() for victim in victims]}
        write_report(given.json, SCHEMA, rows, bundle_sha256=None, sureness=sureness, **about)


if __name__ == "__main__":
    main()
