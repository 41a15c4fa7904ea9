"""What a change of a bundle costs in recognition: verification of the same pairs, clean and attacked, before and after.

Both sides of a pair are purified, with the same random numbers before and after. The threshold is the recogniser's own,
of best accuracy on the clean pairs as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation.metrics import best_threshold, rates
from immunecam.benchmarks.evaluation.pairs import Pairs
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.purifier import Purifier
from immunecam.training.attacks import PGD, Goal
from immunecam.training.faces import from_uint8, to_uint8
from immunecam.training.recognizer import Recognizer

__all__ = ["ATTACK", "recognition_figures"]

ATTACK = "PGD-10 8/255"
_EPSILON = 16 / 255
_BATCH = 32


def recognition_figures(
    bundles: Sequence[Bundle],
    pairs: Pairs,
    recognizers: Sequence[Recognizer],
    *,
    seed: int = 0,
    tell: Callable[[str], None] = lambda what: None,
) -> list[dict[str, Any]]:
    """Rates of every recogniser, clean and under an attack that does not know of the defence.

    Parameters
    ----------
    bundles : sequence of Bundle
        Which are compared.
    pairs : Pairs
        Same and different ones.
    recognizers : sequence of Recognizer
        Each is attacked by gradients through itself alone.
    seed : int
        Of the antibodies.
    tell : callable, optional
        Called with what is being done.

    Returns
    -------
    list of dict
        "recognizer", "threat", "pairs" ("same" accepted, or "different" rejected), "count", and "percent", a list with
        a rate for each bundle.
    """
    rows = []
    enrolled: list[NDArray[np.uint8]] = []
    for recognizer in recognizers:
        right = _embeddings(recognizer, pairs.right)
        threshold = best_threshold((_embeddings(recognizer, pairs.left) * right).sum(1), pairs.same)
        tell(f"{recognizer.name}: attack")
        attacked = _attacked(recognizer, pairs, right, threshold)
        for threat, probes in (("clean", pairs.left), (ATTACK, attacked)):
            found = []
            for number, bundle in enumerate(bundles):
                tell(f"{recognizer.name}: {threat}, bundle {number + 1} of {len(bundles)}")
                with Purifier.load(bundle, provider="cpu", seed=seed) as purifier:
                    left = purifier.purify_batch(probes, first_image=0).purified
                    if len(enrolled) == number:
                        enrolled.append(purifier.purify_batch(pairs.right, first_image=len(pairs)).purified)
                cosine = (_embeddings(recognizer, left) * _embeddings(recognizer, enrolled[number])).sum(1)
                found.append(rates(cosine, pairs.same, threshold))
            for kind, which, count in (("same", 0, pairs.same.sum()), ("different", 1, (~pairs.same).sum())):
                percent = [100 * rate[which] for rate in found]
                row = {"recognizer": recognizer.name, "threat": threat, "pairs": kind, "count": int(count)}
                rows.append({**row, "percent": percent})
    return rows


@torch.no_grad()
def _embeddings(recognizer: Recognizer, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    faces = from_uint8(torch.from_numpy(pixels))
    return torch.cat([recognizer(part) for part in faces.split(_BATCH)]).double().numpy()


def _attacked(recognizer: Recognizer, pairs: Pairs, right: NDArray[np.float64], threshold: float) -> NDArray[np.uint8]:
    """The left faces: those of same pairs dodge, those of different ones impersonate."""
    torch.manual_seed(0)
    attack, faces = PGD(steps=10), from_uint8(torch.from_numpy(pairs.left))
    target = torch.from_numpy(right).float()
    attacked = faces.clone()
    for same in (True, False):
        for chosen in torch.from_numpy(np.flatnonzero(pairs.same == same)).split(_BATCH):
            goal = Goal(recognizer, target[chosen], impersonate=not same, threshold=threshold)
            attacked[chosen] = attack(goal, faces[chosen], _EPSILON)
    pixels: NDArray[np.uint8] = to_uint8(attacked).numpy()
    return pixels
