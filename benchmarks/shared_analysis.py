"""What it costs, and saves, to analyse a followed face once for many frames.

``python -m immunecam.benchmarks.shared_analysis --data FOLDER --recognizer R... --json shared_analysis.json``

The cost is that of the worst moment: an attack begins just after an analysis, so the attacked face meets the
probabilities of the clean one. Pairs of LFW fold 8 under grey-box attacks at 8/255 are purified with their own
probabilities and with those of the clean face, by the runtime's own purifier and with the same random numbers, and
judged at the threshold of the unpurified recogniser. The gain is the time of a clip whose faces are followed, with and
without `SharedAnalysis`, in turn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation.metrics import decisions, interval
from immunecam.benchmarks.evaluation.pairs import Pairs, load_pairs
from immunecam.benchmarks.evaluation.run import Victim
from immunecam.benchmarks.evaluation.store import Store
from immunecam.benchmarks.in_turn import in_turn
from immunecam.benchmarks.robustness import TRAINING_FOLDS, find_victim, load_faces
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.runtime.faces import FollowingFinder
from immunecam.runtime.frames import FrameSource
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.report import write_report
from immunecam.runtime.shared_analysis import SharedAnalysis
from immunecam.training.attacks import MIFGSM, PGD, Goal, LinfAttack
from immunecam.training.faces import from_uint8
from immunecam.training.recognizer import Recognizer

__all__ = ["main"]

_ATTACKS = {"PGD-10": PGD(steps=10), "MI-FGSM-10": MIFGSM(steps=10)}
_BATCH = 60
_SEED = 1
_CLIP = default_bundle().with_name("sample.mp4")


def _embedded(recognizer: Recognizer, faces: NDArray[np.uint8]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([recognizer(from_uint8(part)) for part in torch.from_numpy(faces).split(_BATCH)])


def _attacked(attack: LinfAttack, victim: Victim, pairs: Pairs, reference: torch.Tensor) -> NDArray[np.uint8]:
    """The probes of the pairs: same ones dodge, different ones impersonate."""
    torch.manual_seed(_SEED)
    attacked = pairs.left.copy()
    for impersonate in (False, True):
        rows = np.flatnonzero(pairs.same != impersonate)
        for part in np.array_split(rows, max(1, len(rows) // _BATCH)):
            goal = Goal(victim.recognizer, reference[part], impersonate, victim.best)
            found = attack(goal, from_uint8(torch.from_numpy(pairs.left[part])), 8 / 127.5)
            attacked[part] = ((found + 1) * 127.5).round().to(torch.uint8).numpy()
    return attacked


def _cost(purifier: Purifier, victim: Victim, pairs: Pairs) -> list[dict[str, Any]]:
    recognizer = victim.recognizer
    enrolled = purifier.purify_batch(pairs.right, first_image=0).purified
    reference, plain = _embedded(recognizer, enrolled), _embedded(recognizer, pairs.right)
    clean = purifier.analyze(pairs.left)
    rows = []
    for name, attack in _ATTACKS.items():
        attacked = _attacked(attack, victim, pairs, plain)
        own = purifier.analyze(attacked)
        accepted, rejected = [], []
        for known in (own, clean):
            purified = purifier.purify_batch(attacked, first_image=len(pairs), probabilities=known).purified
            cosine = (_embedded(recognizer, purified) * reference).sum(1).double().numpy()
            for kept, part in zip((accepted, rejected), decisions(cosine, pairs.same, victim.best), strict=True):
                kept.append(part)
        lost = [before - after for before, after in (accepted, rejected)]
        row: dict[str, Any] = {"recognizer": victim.name, "attack": f"{name} 8/255", "pairs": len(pairs)}
        for key, shares in (("same_accepted", accepted), ("different_rejected", rejected)):
            row |= {f"{key}_{p}_percent": 100 * float(s.mean()) for p, s in zip(("own", "shared"), shares, strict=True)}
        row["accuracy_lost_points"] = 100 * float(np.mean([part.mean() for part in lost]))
        row["accuracy_lost_interval"] = [100 * bound for bound in interval(*lost)]
        row["mean_change_of_p"] = float(np.abs(own - clean).mean())
        print(row, flush=True)
        rows.append(row)
    return rows


def _gain(bundle: Bundle, clip: Path, threads: int, repeats: int) -> dict[str, Any]:
    with FrameSource.open(str(clip)) as source:
        frames = [frame.image for frame in source]
    purifier = Purifier.load(bundle, provider="cpu", threads=threads)
    counts: dict[str, int] = {}

    def run(shared: SharedAnalysis | None) -> None:
        counts["faces"] = 0
        with FollowingFinder(background=False) as finder:
            for image in frames:
                counts["faces"] += len(purifier.purify_frame(image, finder, shared=shared).faces)
        if shared is not None:
            counts["shared"] = shared.shared

    times = in_turn({"every": lambda: run(None), "shared": lambda: run(SharedAnalysis())}, repeats=repeats, warm_up=1)
    row = {
        "clip": clip.name,
        "threads": threads,
        "frames": len(frames),
        **counts,
        **{f"{form}_{name}": value for form, found in times.items() for name, value in found.items()},
        "times_faster": round(times["every"]["wall_p50_ms"] / times["shared"]["wall_p50_ms"], 3),
    }
    print(row, flush=True)
    return row


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with lfw/")
    parser.add_argument("--recognizer", type=Path, action="append", required=True)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--clip", type=Path, default=_CLIP)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--work", type=Path, default=Path(".immunecam-evaluation"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    bundle = Bundle.load(given.bundle or default_bundle())
    table, store = given.data / "lfw" / "pairs.csv", Store(given.work)
    training, judged = load_faces(given.data)
    known = load_pairs(table, training, TRAINING_FOLDS)
    pairs = load_pairs(table, judged, range(8, 9)).first(given.pairs)
    # Staged in both cases, and the seed is fixed, so that nothing but the probabilities differs.
    purifier = Purifier.load(bundle, provider="cpu", threads=given.threads, seed=_SEED)
    rows = []
    for path in given.recognizer:
        rows += _cost(purifier, find_victim(Recognizer.load(path), known, store, "cpu"), pairs)
    gain = _gain(bundle, given.clip, given.threads, given.repeats)
    if given.json:
        write_report(
            given.json,
            "immunecam.shared-analysis/1",
            rows,
            bundle_sha256=bundle.sha256,
            bundle_files={name: record.sha256 for name, record in bundle.manifest.files.items()},
            gain=gain,
        )


if __name__ == "__main__":
    main()
