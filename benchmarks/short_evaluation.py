"""A protocol of minutes, to choose between bundles; what one is worth, `immunecam evaluate` says.

Clean pairs, grey-box PGD-10 and MI-FGSM-10, both also resampled, TI-FGSM and PGD in L2, and PGD-20 through the purifier
(expected antibody), each by one run and all pairs of LFW fold 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation.defences import BundleDefence, Filter
from immunecam.benchmarks.evaluation.pairs import Pairs, load_pairs
from immunecam.benchmarks.evaluation.protocol import Planned, Protocol
from immunecam.benchmarks.evaluation.run import Evaluation, Job, Victim
from immunecam.benchmarks.evaluation.store import Store
from immunecam.benchmarks.robustness import TRAINING_FOLDS, find_victim, load_faces
from immunecam.runtime.bundle import Bundle
from immunecam.training.attacks import L2PGD, MIFGSM, PGD, TIFGSM
from immunecam.training.recognizer import Recognizer

__all__ = ["CASES", "Judged", "ShortEvaluation"]

_STRONG = (Planned("PGD-10", PGD(steps=10), 8.0), Planned("MI-FGSM-10", MIFGSM(steps=10), 8.0))
_SMOOTH = (Planned("TI-FGSM-10", TIFGSM(steps=10), 8.0), Planned("L2-PGD-10", L2PGD(steps=10), 1.5))
_PROTOCOL = Protocol(
    "log",
    adaptive_pairs=0,
    unbounded_pairs=0,
    grey_box=(*_STRONG, *_SMOOTH),
    resampled=_STRONG,
    adaptive_levels=(2.0, 4.0, 8.0),
    eot_levels=(),
    square_levels=(),
    fewer_steps_level=0.0,
    adaptive_steps=20,
    adaptive_restarts=1,
    judge_draws=3,
    resubmissions=1,
)

CASES = (
    "clean",
    *(f"{where}{planned.name} {planned.budget}" for planned in _STRONG for where in ("", "resampled ")),
    *(f"{planned.name} {planned.budget}" for planned in _SMOOTH),
    *(f"adaptive PGD-20 {level:g}/255" for level in _PROTOCOL.adaptive_levels),
)
"""Names of what is measured, in the order of tables."""


@dataclass(frozen=True)
class Judged:
    """The pairs of one case by one recogniser.

    Attributes
    ----------
    victim : Victim
        The recogniser.
    case : str
        Of `CASES`.
    both : ndarray
        (draws, N) cosines with both sides purified.
    clean : ndarray
        (draws, N) cosines of the purified probe with the clean one.
    """

    victim: Victim
    case: str
    both: NDArray[np.float32]
    clean: NDArray[np.float32]


class ShortEvaluation:
    """Pairs and recognisers that bundles are compared by; attacks that do not depend on the bundle are kept in `work`.

    Parameters
    ----------
    data : path
        Folder with ``lfw/``.
    recognizers : sequence of path
        TorchScript or ONNX.
    pairs : int
        Of fold 8, the first ones.
    work : path
        Folder for what is kept.
    """

    def __init__(self, data: Path, recognizers: Sequence[Path], *, pairs: int, work: Path) -> None:
        self._store = Store(work)
        table = data / "lfw" / "pairs.csv"
        training, judged = load_faces(data)
        known = load_pairs(table, training, TRAINING_FOLDS)
        self.pairs: Pairs = load_pairs(table, judged, range(8, 9)).first(pairs)
        self.victims = [find_victim(Recognizer.load(path), known, self._store, "cpu") for path in recognizers]

    def judged(self, bundle: Bundle, *, adaptive: bool) -> Iterator[Judged]:
        """Every case, attacks through the purifier only if `adaptive`."""
        defence = BundleDefence(bundle, "sample", seed=_PROTOCOL.seed)
        evaluation = Evaluation(_PROTOCOL, self.pairs, self.victims, [Filter("none", None)], [defence], self._store)
        for job in evaluation.jobs(adaptive=adaptive):
            if job.threat != "unbounded":
                found = evaluation.cosines(job, defence, evaluation.draws(job, defence))
                yield Judged(job.victim, _case(job), found["both"], found["clean"])


def _case(job: Job) -> str:
    if job.planned is None:
        return "clean"
    where = "" if job.threat == "grey-box" else f"{job.threat} "
    return f"{where}{job.planned.name.removeprefix('expected ')} {job.planned.budget}"
