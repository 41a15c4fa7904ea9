"""How well recognisers of masked faces tell people apart: LFW's pairs, at a threshold from people not trained on.

The house's protocol sets thresholds on clean pairs of the training folds. A recogniser that was trained on those people
is surer of them than of others, so its threshold is set on the folds that its run held out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation import metrics
from immunecam.benchmarks.evaluation.pairs import Pairs, load_pairs, read_table
from immunecam.errors import InputError
from immunecam.mask_key import MaskKey
from immunecam.models.masked_recognizer import MaskedRecognizer
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.purifier import Purifier
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.masking.mask_file import steps_of
from immunecam.training.masking.people import person_of
from immunecam.training.masking.trained import load_trained

__all__ = ["SCHEMA", "TRAINING_FOLDS", "check_measurable", "cosines", "held_out_folds", "measure", "people_of_fold"]

SCHEMA = "immunecam.masking/1"
TRAINING_FOLDS = range(1, 8)
_BATCH = 64


def people_of_fold(table: Path, fold: int) -> set[str]:
    """Everybody on a fold's pairs.

    Raises
    ------
    InputError
        If the table has no such fold, or is none.
    """
    rows = read_table(table, range(fold, fold + 1))
    if not rows:
        raise InputError(f"{str(table)!r} has no pairs of fold {fold}: name one that it has")
    return {person_of(name) for left, right, _ in rows for name in (left, right)}


def held_out_folds(table: Path, held_out: set[str]) -> list[int]:
    """The training folds of which nobody was trained on."""
    found = []
    for fold in TRAINING_FOLDS:
        rows = read_table(table, range(fold, fold + 1))
        if rows and {person_of(name) for left, right, _ in rows for name in (left, right)} <= held_out:
            found.append(fold)
    return found


def cosines(recognizer: MaskedRecognizer, pairs: Pairs, key: MaskKey | None = None) -> NDArray[np.float64]:
    """(N,) cosines of pairs.

    Parameters
    ----------
    recognizer : MaskedRecognizer
    pairs : Pairs
        Of grey faces.
    key : MaskKey, optional
        Given, both faces of a pair are in an order of the pair's own, as those of an enrolment are.
    """
    orders: torch.Tensor | None = None
    if key is not None and recognizer.mask is not None:
        count = recognizer.mask.spec.channels
        orders = torch.tensor([key.enrolment_order(count, n) for n in range(len(pairs))])
    with torch.no_grad():
        left, right = (
            torch.cat(
                [
                    recognizer(from_uint8(part), None if orders is None else orders[n * _BATCH : (n + 1) * _BATCH])
                    for n, part in enumerate(torch.from_numpy(faces).split(_BATCH))
                ]
            )
            for faces in (pairs.left, pairs.right)
        )
    found: NDArray[np.float64] = (left * right).sum(1).double().numpy()
    return found


def check_measurable(runs: Sequence[Path], key: MaskKey | None, data: Path) -> None:
    """Refuse runs that `measure` would refuse, before anything takes time; arguments and errors are the same."""
    for run in runs:
        _folds_of(run, load_trained(run, key)[1], data / "lfw" / "pairs.csv")


def measure(
    runs: Sequence[Path], key: MaskKey | None, data: Path, fold: int = 8, *, bundle: Bundle | None = None
) -> list[dict[str, Any]]:
    """A row for each run.

    Parameters
    ----------
    runs : sequence of Path
        Folders of ``immunecam masking train``.
    key : MaskKey or None
        Of their masks.
    data : Path
        Folder with `lfw/train_112.zip`, `lfw/dev_112.zip` and `lfw/pairs.csv`.
    fold : int
        That is judged.
    bundle : Bundle, optional
        Purifies all faces, as a gate does before it masks: those that are judged, and those of the threshold.

    Raises
    ------
    InputError
        If a run held no training fold out, so that no threshold can be set, or something cannot be read.
    """
    lfw = data / "lfw"
    table = lfw / "pairs.csv"
    loaded = [(run, *load_trained(run, key)) for run in runs]
    folds = {run: _folds_of(run, about, table) for run, _, about in loaded}
    training, judged = FaceSet.load(lfw / "train_112.zip"), FaceSet.load(lfw / "dev_112.zip")
    pairs = load_pairs(table, judged, range(fold, fold + 1))
    known = {f: load_pairs(table, training, range(f, f + 1)) for f in {f for found in folds.values() for f in found}}
    if bundle is not None:
        with Purifier.load(bundle, provider="cpu", seed=0) as purifier:
            pairs, *others = (_purified(one, purifier.purify) for one in (pairs, *known.values()))
        known = dict(zip(known, others, strict=True))
    by = None if bundle is None else bundle.name
    return [
        _row(run, recognizer, about, key, [known[f] for f in folds[run]], pairs) | {"purified_by": by}
        for run, recognizer, about in loaded
    ]


def _purified(pairs: Pairs, purify: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Pairs:
    return Pairs(purify(pairs.left), purify(pairs.right), pairs.same)


def _folds_of(run: Path, about: dict[str, Any], table: Path) -> list[int]:
    found = held_out_folds(table, set(about["held_out"]))
    if not found:
        raise InputError(
            f"the run {str(run)!r} was trained on people of every training fold, so no threshold can be set on "
            "others: train with --pairs and --hold-out"
        )
    return found


def _row(
    run: Path,
    recognizer: MaskedRecognizer,
    about: dict[str, Any],
    key: MaskKey | None,
    known: Sequence[Pairs],
    judged: Pairs,
) -> dict[str, Any]:
    config = about["config"]
    own = key if config["permutation"] == "enrolment" else None
    threshold = metrics.best_threshold(
        np.concatenate([cosines(recognizer, part, own) for part in known]),
        np.concatenate([part.same for part in known]),
    )
    genuine, impostor = metrics.decisions(cosines(recognizer, judged, own), judged.same, threshold)
    low, high = metrics.interval(genuine, impostor, rates=True)
    mask = recognizer.mask
    return {
        "run": run.name,
        "masked": mask is not None,
        "steps": steps_of(run / "checkpoint.safetensors"),
        "channels": recognizer.network.inputs,
        "positions": recognizer.network.positions,
        "mixing": config["mixing"],
        "permutation": config["permutation"] if mask is not None else None,
        "pairs": len(judged),
        "threshold_cosine": round(threshold, 4),
        "accuracy_percent": _percent((genuine.mean() + impostor.mean()) / 2),
        "accuracy_low_percent": _percent(low),
        "accuracy_high_percent": _percent(high),
        "same_accepted_percent": _percent(genuine.mean()),
        "different_rejected_percent": _percent(impostor.mean()),
    }


def _percent(rate: float) -> float:
    return round(100 * float(rate), 2)
