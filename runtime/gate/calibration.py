"""From a false match rate to a threshold, with how sure it is, and whether the data can say it at all."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.runtime.gate.error_rates import ErrorRates, ScoreCounts

__all__ = ["Calibration", "calibrate_identities", "calibrate_pairs", "clopper_pearson"]

_DRAWS = 1000
_BLOCK = 1024
_TAIL_LIMIT = 4_000_000

_Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """A threshold and what is known of it. Intervals are of 95 %.

    Attributes
    ----------
    target : float
        False match rate that was asked for.
    threshold, threshold_low, threshold_high : float
        The lowest at which no more than the target of the different pairs is accepted, and its bootstrap interval.
    fmr, fmr_low, fmr_high : float
        False match rate there. The interval is the union of the bootstrap's and of Clopper and Pearson's, which also
        holds where no error was seen.
    fnmr, fnmr_low, fnmr_high : float
        False non-match rate there.
    comparisons, independent : int
        Comparisons of different people, and how many of them count as independent: two people once, however many
        pictures of them were compared.
    genuine : int
        Comparisons of one person.
    rates : ErrorRates
        Both rates at any other threshold.
    """

    target: float
    threshold: float
    threshold_low: float
    threshold_high: float
    fmr: float
    fmr_low: float
    fmr_high: float
    fnmr: float
    fnmr_low: float
    fnmr_high: float
    comparisons: int
    independent: int
    genuine: int
    rates: ErrorRates

    @property
    def smallest_target(self) -> float:
        """The smallest false match rate that the data can support, by the rule of three.

        Where no error is seen in n independent comparisons, the rate may still be 3/n (95 %; ISO/IEC 19795-1).
        """
        return 3 / self.independent

    @property
    def supported(self) -> bool:
        """Whether the data can support the target."""
        return self.target >= self.smallest_target

    def check_supported(self) -> None:
        """Raise an InputError if it cannot."""
        if not self.supported:
            # A rate of 0.5 or more is refused before, so it is no way out.
            other = f", or ask for {self.smallest_target:.2g} or more" if self.smallest_target < 0.45 else ""
            raise InputError(
                f"a false match rate of {self.target:g} needs {math.ceil(3 / self.target):,} independent comparisons "
                f"of different people (rule of three), but the data has {self.independent:,}: give more people{other}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the rates at other thresholds are left to the store."""
        return {
            "fmr_target": self.target,
            **{k: v for k, v in dataclasses.asdict(self).items() if k not in ("target", "rates")},
            "smallest_target": self.smallest_target,
            "supported": self.supported,
        }


def calibrate_identities(
    embeddings: NDArray[np.float32], people: NDArray[np.integer[Any]], target: float, *, seed: int = 0
) -> Calibration:
    """Calibrate on all pairs of pictures of people.

    Pairs that share a person are not independent, so the bootstrap draws people, with all their pictures (Bolle et
    al., 2004).

    Parameters
    ----------
    embeddings : ndarray of float32, shape (N, E)
        Of unit length.
    people : ndarray of int, shape (N,)
        Who is on each picture, as numbers.
    target : float
        False match rate, above 0 and below 0.5.
    seed : int
        Of the bootstrap.

    Raises
    ------
    UsageError
        If the target is out of its range.
    InputError
        If there are fewer than two people, or nobody with two pictures.
    """
    _check_target(target)
    names, who = np.unique(people, return_inverse=True)
    sizes = np.bincount(who, minlength=len(names)).astype(np.float64)
    if len(names) < 2 or not (sizes > 1).any():
        raise InputError(
            f"the data shows {len(names)} people, {int((sizes > 1).sum())} of them more than once: wanted two or more, "
            "and two pictures of somebody"
        )
    total = (sizes.sum() ** 2 - np.square(sizes).sum()) / 2
    tail = min(math.ceil(20 * target * total) + 1000, int(total), _TAIL_LIMIT)
    scores, one, other, genuine, owner, counted = _all_pairs(embeddings, who, tail)
    threshold = _just_above(scores, np.ones(len(scores)), total, target)
    rng = np.random.default_rng(seed)
    thresholds, fmrs, fnmrs = np.empty(_DRAWS), np.empty(_DRAWS), np.empty(_DRAWS)
    rejected = genuine < threshold
    own = np.bincount(owner, minlength=len(names)).astype(np.float64)
    wrong = np.bincount(owner, weights=rejected, minlength=len(names))
    accepted = scores >= threshold
    for draw in range(_DRAWS):
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names))).astype(np.float64)
        weights = times[one] * times[other]
        all_ = (np.dot(times, sizes) ** 2 - np.square(times * sizes).sum()) / 2
        thresholds[draw] = _just_above(scores, weights, all_, target)
        fmrs[draw] = weights[accepted].sum() / max(all_, 1.0)
        fnmrs[draw] = np.dot(times, wrong) / max(np.dot(times, own), 1.0)
    independent = len(names) * (len(names) - 1) // 2
    # Two people whose pictures match once or often are one error of the independent comparisons.
    errors = len(np.unique(np.minimum(one, other)[accepted] * len(names) + np.maximum(one, other)[accepted]))
    several = own > 0
    return _result(
        target,
        threshold,
        thresholds,
        (float(accepted.sum() / total), fmrs, clopper_pearson(errors, independent)),
        (float(rejected.mean()), fnmrs, clopper_pearson(int((wrong[several] > 0).sum()), int(several.sum()))),
        (int(total), independent, len(genuine)),
        counted,
        genuine,
    )


def calibrate_pairs(scores: _Scores, same: NDArray[np.bool_], target: float, *, seed: int = 0) -> Calibration:
    """Calibrate on a list of pairs, which is taken for independent.

    Parameters
    ----------
    scores : ndarray of float64, shape (N,)
        Cosines.
    same : ndarray of bool, shape (N,)
        Whether a pair shows one person.
    target, seed
        As for :func:`calibrate_identities`.

    Raises
    ------
    UsageError
        If the target is out of its range.
    InputError
        If there are no pairs of either kind.
    """
    _check_target(target)
    impostor, genuine = np.sort(scores[~same])[::-1], scores[same]
    if not len(impostor) or not len(genuine):
        raise InputError(f"the data has {len(genuine)} same and {len(impostor)} different pairs: wanted some of both")
    threshold = _just_above(impostor, np.ones(len(impostor)), len(impostor), target)
    rng = np.random.default_rng(seed)
    # A resample's threshold lies in the tail, so only that is drawn one by one.
    tail = min(len(impostor), math.ceil(20 * target * len(impostor)) + 100)
    chances = np.append(np.full(tail, 1 / len(impostor)), max(0.0, 1 - tail / len(impostor)))
    draws = rng.multinomial(len(impostor), chances / chances.sum(), _DRAWS)[:, :tail]
    thresholds = np.array([_just_above(impostor[:tail], times, len(impostor), target) for times in draws])
    counted = ScoreCounts()
    counted.add(impostor)
    false, missed = int((impostor >= threshold).sum()), int((genuine < threshold).sum())
    fmrs = rng.binomial(len(impostor), false / len(impostor), _DRAWS) / len(impostor)
    fnmrs = rng.binomial(len(genuine), missed / len(genuine), _DRAWS) / len(genuine)
    return _result(
        target,
        threshold,
        thresholds,
        (false / len(impostor), fmrs, clopper_pearson(false, len(impostor))),
        (missed / len(genuine), fnmrs, clopper_pearson(missed, len(genuine))),
        (len(impostor), len(impostor), len(genuine)),
        counted,
        genuine,
    )


def clopper_pearson(errors: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a rate of which `errors` were seen in `trials` independent trials.

    Raises
    ------
    UsageError
        If there is no trial, or there are more errors than trials.
    """
    if trials < 1 or not 0 <= errors <= trials:
        raise UsageError(f"there are {errors} errors in {trials} trials, but there must be 0 to trials, and 1 trial")
    alpha = (1 - confidence) / 2
    low = 0.0 if errors == 0 else _root(lambda p: _beta_cdf(p, errors, trials - errors + 1) - alpha)
    high = 1.0 if errors == trials else _root(lambda p: _beta_cdf(p, errors + 1, trials - errors) - (1 - alpha))
    return low, high


def _all_pairs(
    embeddings: NDArray[np.float32], who: NDArray[np.intp], tail: int
) -> tuple[_Scores, NDArray[np.intp], NDArray[np.intp], _Scores, NDArray[np.intp], ScoreCounts]:
    """The `tail` largest scores of different people, largest first, with their people; all scores of one person.

    And how many of all scores of different people reach which threshold.
    """
    counted = ScoreCounts()
    kept = (np.empty(0), np.empty(0, np.intp), np.empty(0, np.intp))
    genuine, owner = [np.empty(0)], [np.empty(0, np.intp)]
    for start in range(0, len(who), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(who)))
        scores = (embeddings[rows] @ embeddings[start:].T).astype(np.float64)
        upper = np.arange(start, len(who))[None, :] > rows[:, None]
        same = who[rows][:, None] == who[start:][None, :]
        i, j = np.nonzero(upper & same)
        genuine.append(scores[i, j])
        owner.append(who[rows[i]])
        i, j = np.nonzero(upper & ~same)
        counted.add(scores[i, j])
        found = (
            np.concatenate([kept[0], scores[i, j]]),
            np.concatenate([kept[1], who[rows[i]]]),
            np.concatenate([kept[2], who[start + j]]),
        )
        best = np.argpartition(found[0], -tail)[-tail:] if len(found[0]) > tail else np.arange(len(found[0]))
        kept = (found[0][best], found[1][best], found[2][best])
    order = np.argsort(-kept[0], kind="stable")
    return kept[0][order], kept[1][order], kept[2][order], np.concatenate(genuine), np.concatenate(owner), counted


def _just_above(scores: _Scores, weights: NDArray[Any], total: float, target: float) -> float:
    """The lowest threshold that accepts at most the target of the weight; `scores` are sorted, largest first."""
    within = np.cumsum(weights) <= target * total + 1e-9
    allowed = int(np.count_nonzero(within))
    return float(min(1.0, np.nextafter(scores[min(allowed, len(scores) - 1)], np.inf)))


def _result(
    target: float,
    threshold: float,
    thresholds: _Scores,
    fmr: tuple[float, _Scores, tuple[float, float]],
    fnmr: tuple[float, _Scores, tuple[float, float]],
    counts: tuple[int, int, int],
    impostors: ScoreCounts,
    genuine: _Scores,
) -> Calibration:
    low, high = np.percentile(thresholds, [2.5, 97.5])
    bounds = []
    for rate, draws, exact in (fmr, fnmr):
        drawn = np.percentile(draws, [2.5, 97.5])
        bounds.append((min(rate, float(drawn[0]), exact[0]), max(rate, float(drawn[1]), exact[1])))
    return Calibration(
        target,
        threshold,
        min(threshold, float(low)),
        max(threshold, float(high)),
        fmr[0],
        *bounds[0],
        fnmr[0],
        *bounds[1],
        *counts,
        _rates(impostors, genuine, counts),
    )


def _rates(impostors: ScoreCounts, genuine: _Scores, counts: tuple[int, int, int]) -> ErrorRates:
    own = ScoreCounts()
    own.add(genuine)
    fmr, reached = impostors.reaching(), own.reaching()
    return ErrorRates(tuple(map(float, fmr)), tuple(map(float, 1 - reached)), *counts)


def _check_target(target: float) -> None:
    if not 0 < target < 0.5:
        raise UsageError(f"the false match rate to calibrate to is {target!r}, but it must be above 0 and below 0.5")


def _root(rising: Any) -> float:
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function, by its continued fraction (Lentz; DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x > (a + 1) / (a + b + 2):
        return 1 - front * _fraction(1 - x, b, a) / b
    return front * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    found = d
    for m in range(1, 10_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + numerator * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + numerator / c
            c = c if abs(c) > tiny else tiny
            found *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return found
