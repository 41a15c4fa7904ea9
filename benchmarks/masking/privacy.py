"""What attackers see of masked faces: recoveries of people that they never had, judged by a plain recogniser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from immunecam.benchmarks.evaluation import metrics
from immunecam.benchmarks.evaluation.pairs import load_pairs
from immunecam.errors import InputError
from immunecam.files import written_whole
from immunecam.mask_key import MaskKey
from immunecam.training.attacks.disentangling import disentangled, mixed_with_others
from immunecam.training.attacks.inversion import LinearRecovery, RecoveryScores, recovery_scores
from immunecam.training.attacks.orders import OrderFinder
from immunecam.training.attacks.recovery_trainer import RecoveryConfig, RecoveryTrainer
from immunecam.training.faces import FaceSet, from_uint8, to_uint8
from immunecam.training.masking.mask_file import MaskFile
from immunecam.training.masking.people import person_of
from immunecam.training.masking.trained import load_mixer
from immunecam.training.recognizer import Recognizer

__all__ = [
    "METHODS",
    "SCHEMA",
    "Attacked",
    "attack",
    "judge_threshold",
    "one_of_each",
    "score_columns",
    "write_sheet",
]

METHODS = ("mean", "linear", "network")
SCHEMA = "immunecam.masking-attack/1"
_PAIRS = 600  # of the training folds, for the judge's threshold
_BATCH = 32
_SHOWN = 8


@dataclass(frozen=True)
class Attacked:
    """One attack on one mask.

    Attributes
    ----------
    row : dict
        Named numbers.
    originals, recovered : ndarray of uint8
        (M, 112, 112), some people for a sheet.
    """

    row: dict[str, Any]
    originals: NDArray[np.uint8]
    recovered: NDArray[np.uint8]


def attack(
    run: Path,
    key: MaskKey,
    data: Path,
    judge: Recognizer,
    method: str,
    *,
    per_enrolment: bool = False,
    sought: bool = False,
    k: int = 1,
    encodings: int = 1,
    as_trained: bool = False,
    faces: int = 300,
    people: int = 100,
    work: Path | None = None,
    config: RecoveryConfig | None = None,
    resume: bool = False,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    seed: int = 0,
) -> Attacked:
    """Recover faces from what a run's mask gives, and score what was seen.

    Parameters
    ----------
    run : Path
        Folder with a `mask.safetensors`.
    key : MaskKey
        Of the mask: it makes the attacker's masked faces; the attacker is not told.
    data : Path
        Folder with `lfw/train_112.zip`, the attacker's people, `lfw/dev_112.zip`, the others, and `lfw/pairs.csv`.
    judge : Recognizer
        That had no part in the training.
    method : str
        Of `METHODS`: "mean" guesses the attacker's mean face and is what all else is to be held against.
    per_enrolment : bool
        Every face in an order of its own, which the attacker does not know.
    sought : bool
        These orders are looked for by what channels are like in the attacker's own faces, see `OrderFinder`, and
        recovery is fitted to those in one order. Of "linear".
    k : int
        What the attacker sees of a face is mixed with k - 1 others.
    as_trained : bool
        What the attacker sees of a face is mixed as the run mixed its training faces, its strategy included, in place
        of `k`: what somebody sees who comes by the training set. Of a run that mixes a part of a batch, that part.
    encodings : int
        So many mixes of every face are seen, and disentangled first.
    faces : int
        Of the attacker, for "linear"; the network has all.
    people : int
        That are judged, a picture of each.
    work : Path, optional
        Run folder of the network; needed for it.
    config : RecoveryConfig, optional
        Of the network.
    resume : bool
        Go on with the network's run.
    on_step : callable, optional
        Called after each step of the network's training.
    seed : int
        Of the orders.

    Raises
    ------
    InputError
        If the key is another, or something cannot be read.
    ValueError
        If the method is unknown, the network has no folder, mixes were to be in several orders, or orders are sought
        where there is one, or not for "linear".
    """
    if as_trained and (per_enrolment or k > 1 or encodings > 1):
        raise ValueError("mixes as of the training have their own numbers of faces, one order, and are seen once")
    if per_enrolment and k > 1:
        raise ValueError("mixes are of faces in one order: attack either orders by enrolment or mixes")
    if sought and not (per_enrolment and method == "linear"):
        raise ValueError("orders are sought for linear recovery, of faces in orders of their own")
    if method not in METHODS or (method == "network" and work is None):
        raise ValueError(f"an attack is one of {', '.join(METHODS)}, the last with a work folder, got {method!r}")
    mask_file = MaskFile.load(run / "mask.safetensors")
    if mask_file.spec.colours != "grey":
        raise InputError(f"the mask of {str(run)!r} is of {mask_file.spec.colours}, but LFW's faces here are grey")
    mask = mask_file.mask(key, f"the mask of {str(run)!r}")
    count = mask_file.spec.channels
    orders = ("per enrolment, sought" if sought else "per enrolment") if per_enrolment else "fixed"
    lfw = data / "lfw"
    known, others = FaceSet.load(lfw / "train_112.zip"), FaceSet.load(lfw / "dev_112.zip")
    own = known.pixels[:: max(1, len(known) // faces)][:faces]
    judged = one_of_each(others, people)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        pool = torch.cat([mask(from_uint8(part)) for part in own.split(_BATCH)])
    centre = pool.mean(0)
    mixer = load_mixer(run) if as_trained else None

    @torch.no_grad()
    def seen(batch: Tensor) -> Tensor:
        own_orders = torch.rand(len(batch), count, generator=draws).argsort(1) if per_enrolment else None
        channels: Tensor = mask(batch, own_orders)
        if mixer is not None:
            return mixed_with_others(channels, pool, mixer.counts(channels, draws)[0], draws)
        if k == 1:
            return channels
        mixes = (mixed_with_others(channels, pool, k, draws) for _ in range(encodings))
        return disentangled(mixes, k, centre)

    if method == "mean":
        guess = from_uint8(own).mean(0).expand(1, 1, -1, -1)

        def recover(channels: Tensor) -> Tensor:
            return guess.expand(len(channels), -1, -1, -1)
    elif sought:
        finder = OrderFinder(pool)
        solved = LinearRecovery.fitted(mask, (from_uint8(part) for part in own.split(_BATCH)))

        def recover(channels: Tensor) -> Tensor:
            found: Tensor = solved(finder(channels))
            return found
    elif method == "linear":
        recover = LinearRecovery.fitted(seen, (from_uint8(part) for part in own.split(_BATCH)))
    else:
        trainer = RecoveryTrainer(
            config or RecoveryConfig(),
            seen,
            f"{mask_file.identity} {orders}, " + (f"as {run.name}" if as_trained else f"{encodings} mixes of {k}"),
            known,
            work or Path(),
            resume=resume,
        )
        trainer.run(on_step=on_step)
        recover = trainer.recover
    threshold = judge_threshold(judge, lfw / "pairs.csv", known)
    scores = recovery_scores(recover, seen, (from_uint8(part) for part in judged.split(_BATCH)), judge, threshold)
    with torch.no_grad():
        shown = to_uint8(recover(seen(from_uint8(judged[:_SHOWN]))))[:, 0]
    row = {
        "run": run.name,
        "channels": count,
        "positions": mask_file.spec.positions,
        "orders": orders,
        "mixes_of": "as trained" if as_trained else k,
        "encodings": encodings if k > 1 else 1,
        "attack": method,
        "attacker_faces": len(known) if method == "network" else len(own),
        "judge": judge.name,
        "threshold_cosine": round(threshold, 4),
        **score_columns(scores),
    }
    return Attacked(row, judged[:_SHOWN].numpy(), shown.numpy())


def score_columns(scores: RecoveryScores) -> dict[str, float]:
    """Scores as a table has them."""
    return {
        "people": scores.faces,
        "ssim": round(scores.ssim, 4),
        "psnr_db": round(scores.psnr_db, 2),
        "cosine": round(scores.cosine, 4),
        "verified_percent": round(100 * scores.verified, 2),
        "identified_percent": round(100 * scores.identified, 2),
        "privacy": round(scores.privacy, 4),
    }


def write_sheet(attacked: Attacked, file: Path) -> None:
    """Originals in the upper row, what was seen in the lower one, as PNG. It shows real people: keep it to yourself.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    rows = [np.concatenate(list(part), axis=1) for part in (attacked.originals, attacked.recovered)]
    _, data = cv2.imencode(".png", np.concatenate(rows, axis=0))
    try:
        with written_whole(file) as partial:
            partial.write_bytes(data.tobytes())
    except OSError as error:
        raise InputError(f"the sheet {str(file)!r} cannot be written ({error.strerror}): name another") from None


def one_of_each(faces: FaceSet, most: int) -> Tensor:
    """The first picture of each of so many people."""
    first: dict[str, int] = {}
    for number, name in enumerate(faces.names):
        first.setdefault(person_of(name) or name, number)
    return faces.pixels[list(first.values())[:most]]


def judge_threshold(judge: Recognizer, table: Path, faces: FaceSet) -> float:
    """The judge's cosine of best accuracy on pairs of plain faces of the training folds."""
    pairs = load_pairs(table, faces, range(1, 8))
    each = min(_PAIRS // 2, int(pairs.same.sum()), int((~pairs.same).sum()))
    pairs = pairs.first(2 * each)
    with torch.no_grad():
        left, right = (
            torch.cat([judge(from_uint8(part)) for part in torch.from_numpy(x).split(_BATCH)])
            for x in (pairs.left, pairs.right)
        )
    return metrics.best_threshold((left * right).sum(1).double().numpy(), pairs.same)
