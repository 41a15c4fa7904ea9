"""How often evidence from purification alarms on clean faces, and on the attacks of the evaluation.

``python -m immunecam.benchmarks.evidence --data ../shared/data --recognizer R.torchscript.pt --json R.json``

The limits are quantiles of clean faces of the training folds; both rates are those of fold 8, whose people are others.
The gate's margin beyond the quantile is not blind: 3 was taken after clean faces of fold 8, found in pictures, had
alarmed far too often at 1, and attacks of fold 8 had been seen to lie further away. Rates at margin 1 owe it nothing.
An attack is judged as the gate would see it: the attacked probe, before any threshold of the recogniser. Faces that an
attack leaves harmless count like the others; how many it gets through, undefended and purified, stands beside. Three
kinds of attacker: grey-box (has the recogniser), adaptive (knows the purifier, too), evidence-aware (knows this check).
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation.defences import BundleDefence
from immunecam.benchmarks.evaluation.metrics import best_threshold
from immunecam.benchmarks.evaluation.pairs import Pairs, load_pairs
from immunecam.benchmarks.robustness import TRAINING_FOLDS, load_faces
from immunecam.errors import UsageError
from immunecam.kernels import dequantize_faces
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.runtime.faces import align, face_finder
from immunecam.runtime.gate.calibration import clopper_pearson
from immunecam.runtime.gate.evidence import MARGIN, Evidence, evidence_limits, residual_energy
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.report import write_report
from immunecam.training.attacks import EOTPGD, FGSM, MIFGSM, PGD, Patch, dodging, impersonation
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.recognizer import Recognizer

__all__ = ["PLANS", "main"]

_Pixels = NDArray[np.uint8]


def _embed(recognizer: Recognizer, faces: _Pixels) -> NDArray[np.float32]:
    with torch.no_grad():
        parts = torch.from_numpy(np.ascontiguousarray(faces)).split(32)
        return np.concatenate([recognizer(from_uint8(part)).numpy() for part in parts])


def _evidence(purifier: Purifier, recognizer: Recognizer, faces: _Pixels) -> dict[str, NDArray[np.float64]]:
    """Both signs, and the purified embedding's change that judges attacks."""
    residual = []
    purified = np.empty_like(faces)
    for start in range(0, len(faces), 32):
        part = slice(start, start + 32)
        batch = purifier.purify_batch(faces[part])
        purified[part] = batch.purified
        antibodies = purifier.antibodies(batch)
        residual.append(residual_energy(dequantize_faces(faces[part]), antibodies, purifier.bundle.subspace))
    before, after = _embed(recognizer, faces), _embed(recognizer, purified)
    return {
        "residual": np.concatenate(residual),
        "cosine": (before * after).sum(1).astype(np.float64),
        "before": before.astype(np.float64),
        "after": after.astype(np.float64),
    }


def _attacked(recognizer: Recognizer, defence: BundleDefence, pairs: Pairs, plan: str, level: float) -> _Pixels:
    attack = {
        "PGD-40": PGD(steps=40),
        "PGD-10": PGD(steps=10),
        "MI-FGSM-10": MIFGSM(steps=10),
        "FGSM": FGSM(),
        "patch": Patch(steps=40),
        "adaptive PGD-20": EOTPGD(steps=20, draws=1),
        "evidence-aware PGD-20": EOTPGD(steps=20, draws=1),
    }[plan]
    embed: Callable[[torch.Tensor], torch.Tensor] = recognizer
    reference = torch.from_numpy(_embed(recognizer, pairs.right))
    if plan.startswith("adaptive"):
        embed = defence.before(recognizer, "expected")
    elif plan.startswith("evidence-aware"):
        # The face before purification shall be taken for the same person as the one after: their embeddings agree.
        def embed(faces: torch.Tensor) -> torch.Tensor:
            after = recognizer(defence.seen(faces, "expected"))
            return torch.cat([after, recognizer(faces)], 1) / 2**0.5

        reference = torch.cat([reference, reference], 1) / 2**0.5
    faces = from_uint8(torch.from_numpy(pairs.left))
    out = np.empty_like(pairs.left)
    same = torch.from_numpy(pairs.same)
    for aim, chosen in ((dodging, same), (impersonation, ~same)):
        rows = torch.nonzero(chosen)[:, 0]
        for part in rows.split(16):
            goal = aim(embed, reference[part])
            found = attack(goal, faces[part], level if plan == "patch" else level / 127.5)
            out[part.numpy()] = ((found + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return out


PLANS = (
    ("PGD-40", 4.0),
    ("PGD-40", 8.0),
    ("PGD-10", 8.0),
    ("MI-FGSM-10", 4.0),
    ("MI-FGSM-10", 8.0),
    ("FGSM", 8.0),
    ("patch", 0.1),
    ("adaptive PGD-20", 8.0),
    ("evidence-aware PGD-20", 8.0),
)


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recognizer", type=Path, action="append", required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument(
        "--pairs", type=int, default=600, help="of fold 8, half of them of one person, that are attacked"
    )
    parser.add_argument("--calibration", type=int, default=2000, help="clean faces of the training folds")
    parser.add_argument("--judged", type=int, default=1060, help="clean faces of fold 8")
    parser.add_argument("--false-alarm", type=float, default=0.01, help="of both signs, on the training folds")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    bundle = Bundle.load(given.bundle or default_bundle())
    purifier = Purifier.load(bundle, provider="cpu", seed=0, threads=given.threads)
    training, judged = load_faces(given.data)
    table = given.data / "lfw" / "pairs.csv"
    pairs = load_pairs(table, judged, range(8, 9)).first(given.pairs)
    known = load_pairs(table, training, TRAINING_FOLDS)
    rng = np.random.default_rng(0)
    picked = training.pixels.numpy()[np.sort(rng.choice(len(training), min(given.calibration, len(training)), False))]
    others = judged.pixels.numpy()[np.sort(rng.choice(len(judged), min(given.judged, len(judged)), False))]
    cameras = _cameras(given.data, given.judged)
    rows: list[dict[str, Any]] = []
    told: dict[str, Any] = {}
    for path in given.recognizer:
        recognizer = Recognizer.load(path)
        defence = BundleDefence(bundle, "sample", seed=0)
        some = known.first(min(600, len(known) // 2 * 2))
        left, right = _embed(recognizer, some.left), _embed(recognizer, some.right)
        threshold = best_threshold((left * right).sum(1).astype(np.float64), some.same)
        clean = _evidence(purifier, recognizer, picked)
        signs = [Evidence(r, c, 0.0) for r, c in zip(clean["residual"], clean["cosine"], strict=True)]
        limits = {}
        for margin in (1.0, MARGIN):
            found_limits = evidence_limits(signs, given.false_alarm, margin=margin)
            if found_limits is None:
                raise UsageError(f"{len(signs)} clean faces are too few for a false alarm of {given.false_alarm:g}")
            limits[margin] = found_limits
        for title, faces in (("fold 8", others), *cameras.items()):
            row = {"recognizer": recognizer.name, "attack": "none", "clean": title, "faces": len(faces)}
            rows.append({**row, **_rates(_evidence(purifier, recognizer, faces), limits)})
            print(rows[-1], flush=True)
        told[recognizer.name] = {f"{margin:g}": list(pair) for margin, pair in limits.items()}
        enrolled = _evidence(purifier, recognizer, pairs.right)
        for name, level in PLANS:
            faces = _attacked(recognizer, defence, pairs, name, level)
            found = _evidence(purifier, recognizer, faces)
            through = {}
            for which in ("before", "after"):
                accepted = (found[which] * enrolled[which]).sum(1) >= threshold
                reached = np.where(pairs.same, ~accepted, accepted)
                through[f"gets_through_{'undefended' if which == 'before' else 'purified'}"] = round(
                    float(reached.mean()), 4
                )
            budget = f"{100 * level:g} %" if name == "patch" else f"{level:g}/255"
            row = {"recognizer": recognizer.name, "attack": name, "budget": budget, "faces": len(faces)}
            rows.append({**row, **_rates(found, limits), **through})
            print(rows[-1], flush=True)
    if given.json:
        write_report(
            given.json,
            "immunecam.evidence/1",
            rows,
            bundle_sha256=bundle.sha256,
            bundle_files={name: record.sha256 for name, record in bundle.manifest.files.items()},
            mutation="sample",
            false_alarm_target=given.false_alarm,
            limits_residual_and_cosine_by_margin=told,
            gate_margin=MARGIN,
            calibration_faces=len(picked),
            attacked_pairs=len(pairs),
        )


def _cameras(data: Path, count: int) -> dict[str, _Pixels]:
    """Clean faces that came another way: fold 8 as the gate finds it in a picture, and other cameras."""
    found: dict[str, _Pixels] = {}
    finder, crops = face_finder(), []
    with zipfile.ZipFile(data / "lfw" / "dev_250.zip") as archive:
        names = sorted(archive.namelist())
        for name in names[:: max(1, len(names) // max(1, count // 2))]:
            picture = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_COLOR)
            faces = finder.find(np.asarray(picture, np.uint8))
            if len(faces) == 1:
                grey = align(np.asarray(picture, np.uint8), faces).grey
                crops.append(((grey[0] + 1) * 127.5).round().astype(np.uint8))
    found["fold 8, found in pictures"] = np.stack(crops)
    for title, file in (("ORL", "orl_112.zip"), ("Extended Yale B", "yaleb_112.zip")):
        if (data / "faces" / file).is_file():
            pixels = FaceSet.load(data / "faces" / file).pixels.numpy()
            found[title] = pixels[:: max(1, len(pixels) // max(1, count // 2))]
    return found


def _rates(found: dict[str, NDArray[np.float64]], limits: dict[float, tuple[float, float]]) -> dict[str, Any]:
    """How many alarm, by each sign and by either, at each margin; the gate's with 95 % intervals."""
    out: dict[str, Any] = {}
    for margin, (most, least) in limits.items():
        residual, cosine = found["residual"] > most, found["cosine"] < least
        suffix = "" if margin == MARGIN else f"_at_margin_{margin:g}"
        for name, alarms in (("residual", residual), ("cosine", cosine), ("either", residual | cosine)):
            out[f"alarms_{name}{suffix}"] = round(float(alarms.mean()), 4)
            if margin == MARGIN:
                low, high = clopper_pearson(int(alarms.sum()), len(alarms))
                out[f"alarms_{name}_interval"] = [round(low, 4), round(high, 4)]
    for name in ("residual", "cosine"):
        low, middle, high = np.percentile(found[name], [5, 50, 95])
        out[f"{name}_p5_p50_p95"] = [round(float(value), 4) for value in (low, middle, high)]
    return out


if __name__ == "__main__":
    main()
