"""Figures of verification: rates, thresholds, bootstrap intervals, ROC."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["accuracy", "best_threshold", "decisions", "interval", "rate_threshold", "rates", "roc"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_FEW = 5


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
    accepted, rejected = decisions(cosine, same, threshold)
    return float(accepted.mean()), float(rejected.mean())


def accuracy(cosine: _Float, same: _Bool, threshold: float) -> float:
    """Fraction of right decisions, same and different pairs weighing the same."""
    return sum(rates(cosine, same, threshold)) / 2


def decisions(cosine: _Float, same: _Bool, threshold: float) -> tuple[_Float, _Float]:
    """How often each same pair is accepted and each different one rejected, over the draws of (draws, N) cosines."""
    accepted = np.atleast_2d(cosine >= threshold).mean(0)
    return accepted[same], 1 - accepted[~same]


def interval(
    *parts: _Float, confidence: float = 0.95, draws: int = 1000, seed: int = 0, rates: bool = False
) -> tuple[float, float]:
    """Bootstrap interval of the mean of the parts' means.

    Pairs are drawn with replacement inside each part, so the numbers of same and of different ones stay what they are.
    Where hardly any pair tells of one outcome, a bootstrap knows nothing of those that were not drawn: the bounds of a
    rate with fewer than five pairs on a side are then those of Clopper and Pearson (Biometrika 1934), and so are those
    of a difference that no pair shows.

    Parameters
    ----------
    *parts : ndarray
        One value a pair: of the same ones, of the different ones.
    confidence : float
        Probability that it is to hold the mean with.
    draws, seed : int
        Of the bootstrap.
    rates : bool
        Whether the values are rates in [0, 1]; else they are differences in [-1, 1].
    """
    rng = np.random.default_rng(seed)
    bounds = [_bounds(part, rng, draws, rates) for part in parts]
    low = np.percentile(np.mean([low for low, _ in bounds], axis=0), 50 * (1 - confidence))
    high = np.percentile(np.mean([high for _, high in bounds], axis=0), 50 * (1 + confidence))
    middle = float(np.mean([part.mean() for part in parts]))
    return min(middle, float(low)), max(middle, float(high))


def _bounds(part: _Float, rng: np.random.Generator, draws: int, rates: bool) -> tuple[_Float, _Float]:
    """Means of a part, drawn for the lower bound and for the upper one."""
    count = len(part)
    if rates and min(part.sum(), count - part.sum()) < _FEW:
        hits = float(part.sum())
        return _beta(hits, count - hits + 1, rng, draws), _beta(hits + 1, count - hits, rng, draws)
    if not rates and not part.any():
        unseen = _beta(1.0, float(count), rng, draws)
        return -unseen, unseen
    found: _Float = part[rng.integers(0, count, (draws, count))].mean(1)
    return found, found


def _beta(a: float, b: float, rng: np.random.Generator, draws: int) -> _Float:
    """The quantiles of Beta(a, b) in random order; of Beta(0, b) and Beta(a, 0), where all of it lies."""
    from scipy.stats import beta

    if a <= 0 or b <= 0:
        return np.full(draws, float(a > 0))
    found: _Float = rng.permutation(beta.ppf((np.arange(draws) + 0.5) / draws, a, b))
    return found


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
