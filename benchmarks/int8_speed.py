"""How much faster a bundle in int8 is than the one that it was made from.

``python -m immunecam.benchmarks.int8_speed SOURCE.immune INT8.immune --json benchmarks/results/int8_speed.json``

Every launch is a process of its own, in which both bundles purify the same faces in turn; intervals are over launches
(see `benchmarks.latency.ratio`). "analyzer" and "restorer" are the files for a card, with int8 activations, run on this
CPU; "purifier" is what a CPU runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from immunecam.benchmarks.in_turn import in_turn
from immunecam.benchmarks.latency.ratio import paired_ratio
from immunecam.benchmarks.launches import launched
from immunecam.kernels import uniforms
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.engines import OnnxRuntimeEngine, WholePurifier
from immunecam.runtime.report import write_report

__all__ = ["main"]

_STAGES = ("analyzer", "restorer", "purifier")


def _launch(paths: list[Path], threads: int, batch: int, repeats: int) -> dict[str, dict[str, Mapping[str, float]]]:
    """Times by stage and bundle, in this process."""
    faces = (np.random.default_rng(0).integers(0, 256, (batch, 112, 112)) / 127.5 - 1).astype(np.float32)
    engines = []
    for path in paths:
        engine = OnnxRuntimeEngine.from_bundle(Bundle.load(path), provider="cpu", threads=threads)
        assert isinstance(engine, WholePurifier)
        engines.append(engine)
    drawn = uniforms(0, np.arange(batch), 1, engines[0].k)[:, 0]
    stages: dict[str, list[Callable[[], object]]] = {
        "analyzer": [lambda engine=engine: engine.analyze(faces) for engine in engines],  # type: ignore[misc]
        "restorer": [lambda engine=engine: engine.restore(faces, faces) for engine in engines],  # type: ignore[misc]
        "purifier": [lambda engine=engine: engine.purify(faces, drawn, False) for engine in engines],  # type: ignore[misc]
    }
    return {
        stage: in_turn(dict(zip(("source", "int8"), forms, strict=True)), repeats=repeats)
        for stage, forms in stages.items()
    }


def _rows(launches: list[dict[str, Any]], threads: int, batch: int) -> list[dict[str, Any]]:
    rows = []
    for stage in _STAGES:
        row: dict[str, Any] = {"stage": stage, "threads": threads, "batch": batch}
        for clock in ("cpu_p50_ms", "wall_p50_ms"):
            sides = [[launch[stage][side][clock] for launch in launches] for side in ("source", "int8")]
            ratio = paired_ratio(*sides)
            row[f"source_{clock}"], row[f"int8_{clock}"] = (round(float(np.median(side)), 4) for side in sides)
            row[f"times_faster_by_{clock.partition('_')[0]}"] = None if ratio is None else ratio.to_list()
        rows.append(row)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path, nargs=2, metavar="BUNDLE")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # a launch: prints its times
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(_launch(given.bundles, given.threads[0], given.batch[0], given.repeats)))
        return
    rows = []
    for threads in given.threads:
        for batch in given.batch:
            settings = ["--threads", str(threads), "--batch", str(batch), "--repeats", str(given.repeats)]
            launches = launched("int8_speed", [*map(str, given.bundles), *settings], given.launches)
            for row in _rows(launches, threads, batch):
                print(row, flush=True)
                rows.append(row)
    if given.json:
        source, made = (Bundle.load(path) for path in given.bundles)
        write_report(
            given.json,
            "immunecam.int8-speed/1",
            rows,
            bundle_sha256=source.sha256,
            bundle_files={name: record.sha256 for name, record in source.manifest.files.items()},
            int8_sha256=made.sha256,
            quantisation=made.manifest.provenance.get("quantisation"),
            launches=given.launches,
            repeats=given.repeats,
        )


if __name__ == "__main__":
    main()
