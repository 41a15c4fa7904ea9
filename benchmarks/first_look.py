"""A first look at what a bundle does to faces and to attacks; the whole protocol is a command of its own, later.

``python -m immunecam.benchmarks.first_look --data FOLDER --recognizer R... --json benchmarks/results/first_look.json``

Pairs of LFW fold 8 (FOLDER/lfw), never used for fitting. The threshold of each recogniser is the one of best accuracy
on clean, unpurified training pairs (fold 1) and stays there. The left picture is attacked by PGD (same pairs: dodging,
different pairs: impersonation of the right one), grey-box: the attacker has the recogniser and does not know the
defence. Attacked faces are 8-bit. Both sides go through the defence.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from immunecam.runtime.purifier import Purifier
from immunecam.runtime.report import write_report
from immunecam.training.attacks import dodging, impersonation, pgd
from immunecam.training.faces import FaceSet, from_uint8, to_uint8
from immunecam.training.recognizer import Recognizer

__all__ = ["main"]

_Defence = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def _pairs(table: Path, fold: int, count: int) -> list[tuple[str, str, bool]]:
    with table.open(newline="") as file:
        rows = [(r["left"], r["right"], r["same"] == "1") for r in csv.DictReader(file) if int(r["fold"]) == fold]
    same, different = [r for r in rows if r[2]], [r for r in rows if not r[2]]
    return [*same[:count], *different[:count]]


def _embed(recognizer: Recognizer, pixels: NDArray[np.uint8]) -> Tensor:
    with torch.no_grad():
        parts = torch.from_numpy(pixels).split(64)
        return torch.cat([recognizer(from_uint8(part)) for part in parts])


def _threshold(recognizer: Recognizer, faces: FaceSet, pairs: list[tuple[str, str, bool]]) -> float:
    index = {name: number for number, name in enumerate(faces.names)}
    known = [(a, b, s) for a, b, s in pairs if a in index and b in index]
    left = _embed(recognizer, faces.pixels[[index[a] for a, _, _ in known]].numpy())
    right = _embed(recognizer, faces.pixels[[index[b] for _, b, _ in known]].numpy())
    cosine = (left * right).sum(1).numpy()
    same = np.array([s for _, _, s in known])
    candidates = np.sort(cosine)
    accuracy = [((cosine >= t) == same).mean() for t in candidates]
    return float(candidates[int(np.argmax(accuracy))])


def _attacked(
    recognizer: Recognizer, left: NDArray[np.uint8], right: NDArray[np.uint8], same: NDArray[np.bool_], level: float
) -> NDArray[np.uint8]:
    torch.manual_seed(0)
    out = left.copy()
    for wanted, goal in ((True, dodging), (False, impersonation)):
        chosen = np.flatnonzero(same == wanted)
        reference = _embed(recognizer, (left if wanted else right)[chosen])
        for start in range(0, len(chosen), 32):
            part = chosen[start : start + 32]
            loss = goal(recognizer, reference[start : start + 32])
            faces = from_uint8(torch.from_numpy(left[part]))
            out[part] = to_uint8(pgd(loss, faces, level / 127.5, steps=10)).numpy()
    return out


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with lfw/")
    parser.add_argument("--recognizer", type=Path, action="append", required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--pairs", type=int, default=100, help="of each kind")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    lfw = given.data / "lfw"
    faces, training = FaceSet.load(lfw / "dev_112.zip"), FaceSet.load(lfw / "train_112.zip")
    index = {name: number for number, name in enumerate(faces.names)}
    pairs = _pairs(lfw / "pairs.csv", 8, given.pairs)
    left = faces.pixels[[index[a] for a, _, _ in pairs]].numpy()
    right = faces.pixels[[index[b] for _, b, _ in pairs]].numpy()
    same = np.array([s for _, _, s in pairs])
    purifiers = {
        mode: Purifier.load(given.bundle, mutation=mode, seed=0 if mode == "sample" else None)
        for mode in ("sample", "expected")
    }
    defences: dict[str, _Defence] = {"none": lambda x: x}
    defences |= {mode: purifier.purify for mode, purifier in purifiers.items()}
    rows: list[dict[str, Any]] = []
    for path in given.recognizer:
        recognizer = Recognizer.load(path)
        threshold = _threshold(recognizer, training, _pairs(lfw / "pairs.csv", 1, 300))
        for level in (0, 4, 8):
            probe = _attacked(recognizer, left, right, same, level) if level else left
            for name, defence in defences.items():
                cosine = (_embed(recognizer, defence(probe)) * _embed(recognizer, defence(right))).sum(1).numpy()
                accepted = cosine >= threshold
                row = {
                    "recognizer": recognizer.name,
                    "attack": f"PGD-10 {level}/255" if level else "clean",
                    "defence": name,
                    "same_accepted_percent": round(100 * float(accepted[same].mean()), 1),
                    "different_rejected_percent": round(100 * float((~accepted[~same]).mean()), 1),
                    "active_eigenfaces": None
                    if name == "none"
                    else round(float((purifiers[name].analyze(probe) > 0.5).sum(1).mean()), 1),
                }
                rows.append(row)
                print(row, flush=True)
    if given.json:
        bundle = purifiers["sample"].bundle
        trained_with = [r["name"] for r in bundle.manifest.provenance.get("recognizers", [])]
        write_report(
            given.json,
            "immunecam.first_look/1",
            rows,
            bundle_sha256=bundle.sha256,
            # The manifest will carry these figures, so its own hash cannot be what ties them to the model.
            bundle_files={name: record.sha256 for name, record in bundle.manifest.files.items()},
            pairs_of_each_kind=given.pairs,
            trained_with=trained_with,
        )


if __name__ == "__main__":
    main()
