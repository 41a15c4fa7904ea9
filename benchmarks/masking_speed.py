"""What masking and recognising a masked face takes of a device's time.

``python -m immunecam.benchmarks.masking_speed edge.immune edge-int8.immune --key-file KEY --json masking_speed.json``

Every launch is a process that does the same faces in each way and with each bundle in turn (see `benchmarks.in_turn`).
Times are of one face: of a batch, its share. "purify, mask, recognise" is what a gate does to a face.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.in_turn import in_turn
from immunecam.benchmarks.latency.masked_work import BUDGET_MS
from immunecam.benchmarks.launches import launched, per_face
from immunecam.mask_key import MaskKey
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.gate.keys import GateKey
from immunecam.runtime.masking import MaskedEmbedder
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.report import write_report

__all__ = ["SCHEMA", "main"]

SCHEMA = "immunecam.masking-speed/2"


def _launch(
    paths: list[Path], key_file: Path | None, batch: int, threads: int, repeats: int
) -> Mapping[str, Mapping[str, float]]:
    """Times by the bundle's number and what is done, in this process; of the whole batch."""
    key = GateKey.from_environment() if key_file is None else GateKey.from_file(key_file)
    faces = np.random.default_rng(0).integers(0, 256, (batch, 112, 112), np.uint8)
    forms: dict[str, Callable[[], object]] = {}
    with contextlib.ExitStack() as opened:
        for number, path in enumerate(paths):
            loaded = Bundle.load(path)
            embedder = MaskedEmbedder.load(loaded, MaskKey(key.derive("masking")), threads=threads)
            purifier = opened.enter_context(Purifier.load(loaded, provider="cpu", threads=threads))
            forms |= {f"{number} {what}": work for what, work in _forms(embedder, purifier, faces).items()}
        return in_turn(forms, repeats=repeats)


def _forms(embedder: MaskedEmbedder, purifier: Purifier, faces: NDArray[np.uint8]) -> dict[str, Callable[[], object]]:
    channels = embedder.mask.channels(faces)
    return {
        "mask": lambda: embedder.mask.channels(faces),
        "recognise": lambda: embedder.embed_channels(channels),
        "mask, recognise": lambda: embedder.embed(faces),
        "purify, mask, recognise": lambda: embedder.embed(purifier.purify_batch(faces).purified),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--key-file", type=Path, help="of the gate; default: the variable IMMUNECAM_GATE_KEY")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # a launch: prints its times
    given = parser.parse_args(arguments)
    if given.one:
        found = _launch(given.bundles, given.key_file, given.batch[0], given.threads, given.repeats)
        print(json.dumps(found))
        return
    bundles = [Bundle.load(path) for path in given.bundles]
    if len({bundle.name for bundle in bundles}) < len(bundles):
        parser.error("two bundles have the same name, and their rows could not be told apart: rename one")
    rows: list[dict[str, Any]] = []
    for batch in given.batch:
        settings = ["--batch", str(batch), "--repeats", str(given.repeats), "--threads", str(given.threads)]
        settings += [] if given.key_file is None else ["--key-file", str(given.key_file)]
        launches = launched("masking_speed", [*map(str, given.bundles), *settings], given.launches)
        for name in launches[0]:
            number, _, what = name.partition(" ")
            bundle = bundles[int(number)]
            row: dict[str, Any] = {"bundle": bundle.name, "what": what, "batch": batch, "threads": given.threads}
            row |= per_face(launches, name, batch)
            if what == "mask, recognise":
                row["within_budget"] = row["wall_p50_ms"] < BUDGET_MS
            print(row, flush=True)
            rows.append(row)
    if given.json:
        write_report(
            given.json,
            SCHEMA,
            rows,
            bundle_sha256=bundles[0].sha256,
            bundles={bundle.name: bundle.sha256 for bundle in bundles},
            budget_ms=BUDGET_MS,
            launches=given.launches,
            repeats=given.repeats,
        )


if __name__ == "__main__":
    main()
