"""What masking and recognising a masked face takes of a device's time.

``python -m immunecam.benchmarks.masking_speed MASKED.immune --key-file KEY --json masking_speed.json``

Every launch is a process that does the same faces in each way in turn (see `benchmarks.in_turn`). Times are of one
face: of a batch, its share. "purify, mask, recognise" is what a gate does to a face.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

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

SCHEMA = "immunecam.masking-speed/1"


def _launch(bundle: Path, key_file: Path | None, batch: int, threads: int, repeats: int) -> Mapping[str, Any]:
    """Times by what is done, in this process; of the whole batch."""
    loaded = Bundle.load(bundle)
    key = GateKey.from_environment() if key_file is None else GateKey.from_file(key_file)
    embedder = MaskedEmbedder.load(loaded, MaskKey(key.derive("masking")), threads=threads)
    faces = np.random.default_rng(0).integers(0, 256, (batch, 112, 112), np.uint8)
    channels = embedder.mask.channels(faces)
    with Purifier.load(loaded, provider="cpu", threads=threads) as purifier:
        return in_turn(
            {
                "mask": lambda: embedder.mask.channels(faces),
                "recognise": lambda: embedder.embed_channels(channels),
                "mask, recognise": lambda: embedder.embed(faces),
                "purify, mask, recognise": lambda: embedder.embed(purifier.purify_batch(faces).purified),
            },
            repeats=repeats,
        )


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--key-file", type=Path, help="of the gate; default: the variable IMMUNECAM_GATE_KEY")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # a launch: prints its times
    given = parser.parse_args(arguments)
    if given.one:
        found = _launch(given.bundle, given.key_file, given.batch[0], given.threads, given.repeats)
        print(json.dumps(found))
        return
    bundle = Bundle.load(given.bundle)
    rows: list[dict[str, Any]] = []
    for batch in given.batch:
        settings = ["--batch", str(batch), "--repeats", str(given.repeats), "--threads", str(given.threads)]
        settings += [] if given.key_file is None else ["--key-file", str(given.key_file)]
        launches = launched("masking_speed", [str(given.bundle), *settings], given.launches)
        for name in launches[0]:
            row: dict[str, Any] = {"what": name, "batch": batch, "threads": given.threads}
            row |= per_face(launches, name, batch)
            if name == "mask, recognise":
                row["within_budget"] = row["wall_p50_ms"] < BUDGET_MS
            print(row, flush=True)
            rows.append(row)
    if given.json:
        write_report(
            given.json,
            SCHEMA,
            rows,
            bundle_sha256=bundle.sha256,
            budget_ms=BUDGET_MS,
            launches=given.launches,
            repeats=given.repeats,
        )


if __name__ == "__main__":
    main()
