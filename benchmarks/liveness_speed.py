"""What a liveness network takes of a device's time: bundles side by side, each in processes of its own.

``python -m immunecam.benchmarks.liveness_speed FP32.immune INT8.immune --json benchmarks/results/liveness_speed.json``

Every launch is a process that judges the same faces with each bundle in turn (see `benchmarks.in_turn`); "crop" is what
cutting a face of 300 px out of a frame takes. Times are of one face: of a batch, its share.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from immunecam.benchmarks.in_turn import in_turn
from immunecam.benchmarks.launches import launched, per_face
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.faces import TEMPLATE, Face
from immunecam.runtime.liveness import LivenessDetector
from immunecam.runtime.report import write_report

__all__ = ["main"]

SCHEMA = "immunecam.liveness-speed/1"
BUDGET_MS = 5.0
"""Of int8, a face, one core."""

_FACE = 300.0


def _launch(paths: list[Path], batch: int, repeats: int) -> dict[str, Mapping[str, float]]:
    """Times by bundle, and of cropping, in this process; of the whole batch."""
    rng = np.random.default_rng(0)
    detectors = {str(path): LivenessDetector.load(path, threads=1) for path in paths}
    side = next(iter(detectors.values())).side
    faces = {one: rng.integers(0, 256, (batch, one, one, 3), np.uint8) for one in {d.side for d in detectors.values()}}
    frame = rng.integers(0, 256, (1080, 1920, 3), np.uint8)
    points = (TEMPLATE * _FACE / 112 + [400, 300]).astype(np.float32)
    seen = [Face(np.array([400, 300, _FACE, _FACE], np.float32), points, 1.0)] * batch
    first = next(iter(detectors.values()))
    forms = {name: (lambda one=one: one.scores(faces[one.side])) for name, one in detectors.items()}  # type: ignore[misc]
    return in_turn({**forms, f"crop {side}": lambda: first.crops(frame, seen)}, repeats=repeats)


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # a launch: prints its times
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(_launch(given.bundles, given.batch[0], given.repeats)))
        return
    bundles = {str(path): Bundle.load(path) for path in given.bundles}
    rows: list[dict[str, Any]] = []
    for batch in given.batch:
        settings = ["--batch", str(batch), "--repeats", str(given.repeats)]
        launches = launched("liveness_speed", [*map(str, given.bundles), *settings], given.launches)
        for name in launches[0]:
            row: dict[str, Any] = {"what": Path(name).stem, "batch": batch, "threads": 1}
            record = bundles[name].manifest.liveness if name in bundles else None
            if record is not None:
                row |= {
                    "backbone": record.provenance.get("backbone"),
                    "precision": record.precision,
                    "side": record.side,
                }
            row |= per_face(launches, name, batch)
            if record is not None and record.precision == "int8":
                row["within_budget"] = row["cpu_p50_ms"] < BUDGET_MS
            print(row, flush=True)
            rows.append(row)
    if given.json:
        write_report(
            given.json,
            SCHEMA,
            rows,
            bundle_sha256=next(iter(bundles.values())).sha256,
            bundles={Path(name).stem: bundle.sha256 for name, bundle in bundles.items()},
            budget_ms=BUDGET_MS,
            launches=given.launches,
            repeats=given.repeats,
        )


if __name__ == "__main__":
    main()
