"""Figures of verification: rates, thresholds, bootstrap intervals, ROC."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["accuracy", "best_threshold", "interval", "paired_interval", "rate_threshold", "rates", "roc"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]


def best_threshold(cosine: _Float, same: _Bool) -> float:
    """The cosine, of those that occur, from which accepting gives the best accuracy; the lowest of equals."""
    order = np.argsort(cosine, kind="stable")
    ordered, genuine = cosine[order], same[order]
    # Accepting from ordered[i] on: everything before i is rejected.
    right = np.concatenate([[0], np.cumsum(~genuine)[:-1]]) + np.cumsum(genuine[::-1])[::-1]
    first_of_ties = np.concatenate([[True], np.diff(ordered) > 0])
    right = np.where(first_of_ties, right, -1)
    return float(ordered[int(np.argmax(right))])


def rate_threshold(cosine: _Float, same: _Bool, rate: float) -> float:
    """The lowest threshold at which at most a fraction `rate` of the different pairs is accepted (FMR)."""
    impostors = np.sort(cosine[~same])[::-1]
    allowed = int(np.floor(rate * len(impostors) + 1e-9))
    return float(np.nextafter(impostors[min(allowed, len(impostors) - 1)], np.inf))


def rates(cosine: _Float, same: _Bool, threshold: float) -> tuple[float, float]:
    """Fractions of same pairs accepted and of different pairs rejected; `cosine` is (N,) or (draws, N)."""
    accepted = np.atleast_2d(cosine >= threshold)
    return float(accepted[:, same].mean()), float(1 - accepted[:, ~same].mean())


def accuracy(cosine: _Float, same: _Bool, threshold: float) -> float:
    """Fraction of right decisions, same and different pairs weighing the same."""
    return sum(rates(cosine, same, threshold)) / 2


def interval(
    figure: Callable[[NDArray[np.intp]], float], same: _Bool, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of a figure of chosen pairs.

    Pairs are drawn with replacement, same and different ones apart, so their numbers stay what they are.

    Parameters
    ----------
    figure : callable
        Indices of pairs (N,) to a number.
    same : ndarray of bool
        (N,).
    draws, seed : int
        Of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    genuine, impostor = np.flatnonzero(same), np.flatnonzero(~same)
    found = [
        figure(np.concatenate([rng.choice(genuine, len(genuine)), rng.choice(impostor, len(impostor))]))
        for _ in range(draws)
    ]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def paired_interval(
    before: _Float, after: _Float, same: _Bool, threshold: float, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the drop in accuracy from one set of cosines to another of the same pairs."""
    before, after = np.atleast_2d(before), np.atleast_2d(after)

    def drop(chosen: NDArray[np.intp]) -> float:
        kind = same[chosen]
        return accuracy(before[:, chosen], kind, threshold) - accuracy(after[:, chosen], kind, threshold)

    return interval(drop, same, draws=draws, seed=seed)


def roc(cosine: _Float, same: _Bool) -> tuple[_Float, _Float]:
    """False match rate and true accept rate at every threshold that occurs, rising; `cosine` is (N,) or (draws, N)."""
    cosine = np.atleast_2d(cosine)
    scores, genuine = cosine.ravel(), np.broadcast_to(same, cosine.shape).ravel()
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.concatenate([np.diff(-scores[order]) > 0, [True]])
    hits, false = np.cumsum(genuine[order])[last_of_ties], np.cumsum(~genuine[order])[last_of_ties]
    return (
        np.concatenate([[0.0], false / max(1, int((~genuine).sum()))]),
        np.concatenate([[0.0], hits / max(1, int(genuine.sum()))]),
    )
