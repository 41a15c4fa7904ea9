"""Thousands of mutated signed bundles, each loaded as a device would: none crashes, none changes what is loaded.

``python -m immunecam.benchmarks.fuzz_bundle --count 20000 --json benchmarks/results/fuzz_bundle.json``

Every mutation has a number, from which (and the seed) it is made again: ``--only NUMBER`` repeats one and shows its
error. A load must end with one sentence of `InputError`, or with exactly the bytes of the original: a changed time of a
zip member, for example, changes nothing. Each is then loaded without a key, too, where changes may be accepted but
nothing may crash: there the parsers see what a signature keeps from them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from immunecam.benchmarks.bundle_mutations import ARCHIVE_MUTATIONS, CONTENT_MUTATIONS, Material, packed
from immunecam.errors import InputError
from immunecam.kernels import Subspace
from immunecam.runtime.bundle import Bundle, read_bundle
from immunecam.runtime.bundle_writer import write_bundle
from immunecam.runtime.liveness_record import LivenessCrop, LivenessRecord
from immunecam.runtime.masking_record import MASKING_GRAPHS, MaskingRecord
from immunecam.runtime.plan_record import LIVENESS, MASK, PlanKey
from immunecam.runtime.plan_writer import store_plans
from immunecam.runtime.report import write_report
from immunecam.runtime.subspace_file import subspace_to_bytes
from immunecam.runtime.trust import PrivateKey, SeenVersions, Trust, sign_manifest, signatures_to_bytes

__all__ = ["Campaign", "Outcome", "main"]

_MUTATIONS = [("folder", name) for name in CONTENT_MUTATIONS] + [
    ("archive", name) for name in (*CONTENT_MUTATIONS, *ARCHIVE_MUTATIONS)
]


@dataclass
class Outcome:
    """What became of the loads.

    Attributes
    ----------
    refused, accepted : Counter
        Loads by (form, mutation); accepted ones gave the original's bytes.
    stopped_by_trust : int
        How many of the refused a device without a key loads: those that only the signature or the version stops.
    failures : list of str
        Crashes and accepted changes, a sentence each; there must be none.
    slowest : (float, str)
        Seconds of the longest load, and which it was.
    """

    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    accepted: Counter[tuple[str, str]] = field(default_factory=Counter)
    stopped_by_trust: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


class Campaign:
    """A signed bundle of version 2 with a plan, an older and a foreign one, and a device that has seen version 2."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        """Write the bundles into a scratch folder."""
        self.folder, self.seed = folder, seed
        trusted, other = _key(seed, "trusted"), _key(seed, "other")
        self.state = folder / "seen.json"
        self.trust = Trust((trusted.public,), SeenVersions(self.state))
        old = _contents(_small_bundle(folder / "old" / "gate.immune", trusted, 1, seed))
        good = _contents(_small_bundle(folder / "good" / "gate.immune", trusted, 2, seed + 1))
        foreign = _contents(_small_bundle(folder / "foreign" / "gate.immune", other, 2, seed + 2))
        self.material = Material(
            good, old, foreign, lambda manifest: signatures_to_bytes([sign_manifest(manifest, other)])
        )
        self.wanted = Bundle.load(folder / "good" / "gate.immune", trust=self.trust)
        self.seen = self.state.read_bytes()
        self.place = folder / "gate.immune"

    def run(self, numbers: range, outcome: Outcome | None = None) -> Outcome:
        """Load the mutations of these numbers; with an outcome, add to it."""
        outcome = Outcome() if outcome is None else outcome
        for number in numbers:
            form, name, made = self.mutation(number)
            self.put(made)
            which = f"{number} ({form}, {name})"
            found = self.load(self.trust, which, outcome)
            if found is None:
                outcome.refused[form, name] += 1
            elif self.same(found):
                outcome.accepted[form, name] += 1
            else:
                outcome.failures.append(f"{which}: a change was accepted")
            if self.state.read_bytes() != self.seen:
                outcome.failures.append(f"{which}: the versions seen were changed")
            if self.load(None, f"{which}, without a key", outcome) is not None and found is None:
                outcome.stopped_by_trust += 1
        return outcome

    def load(self, trust: Trust | None, which: str, outcome: Outcome) -> Bundle | None:
        """The bundle, or None if it was refused or, which is a failure, crashed."""
        began = time.perf_counter()
        try:
            return read_bundle(self.place, trust)
        except InputError as error:
            text = str(error)
            if not text.endswith(".") or not text.isprintable() or len(text) > 1000:
                outcome.failures.append(f"{which}: the error is no clear sentence: {text!r}")
        except Exception as error:
            outcome.failures.append(f"{which}: {type(error).__name__}: {error}")
        finally:
            outcome.slowest = max(outcome.slowest, (time.perf_counter() - began, which))
        return None

    def same(self, found: Bundle) -> bool:
        """Whether all bytes are the original's."""
        same = found.manifest_bytes == self.wanted.manifest_bytes and dict(found.files) == dict(self.wanted.files)
        return same and found.sha256 == self.wanted.sha256 and found.signed_by == self.wanted.signed_by

    def mutation(self, number: int) -> tuple[str, str, Mapping[str, bytes] | bytes]:
        """Form, name and result of a mutation; never the original itself."""
        form, name = _MUTATIONS[number % len(_MUTATIONS)]
        draw = random.Random(f"{self.seed}/{number}")
        original = packed(self.material.good)
        while True:
            if name in ARCHIVE_MUTATIONS:
                raw = ARCHIVE_MUTATIONS[name](self.material, draw)
                if raw != original:
                    return form, name, raw
                continue
            contents = CONTENT_MUTATIONS[name](self.material, draw)
            if contents != self.material.good:
                return form, name, contents if form == "folder" else packed(contents)

    def put(self, made: Mapping[str, bytes] | bytes) -> None:
        """Write it where the device looks."""
        if self.place.is_dir():
            shutil.rmtree(self.place)
        elif self.place.exists():
            self.place.unlink()
        if isinstance(made, bytes):
            self.place.write_bytes(made)
            return
        self.place.mkdir()
        for name, data in made.items():
            (self.place / name).write_bytes(data)


def _key(seed: int, name: str) -> PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    secret = hashlib.sha256(f"immunecam fuzz {seed} {name}".encode()).digest()
    return PrivateKey(Ed25519PrivateKey.from_private_bytes(secret))


def _small_bundle(path: Path, key: PrivateKey, version: int, seed: int) -> Bundle:
    """One eigenface; the graphs are noise, because a bundle's loading does not run them."""
    path.parent.mkdir()
    noise = np.random.default_rng(seed)
    space = Subspace(
        noise.uniform(-0.5, 0.5, 12544).astype(np.float32), np.full((1, 12544), 1 / 112, np.float32).astype(np.float16)
    )
    files = {
        "subspace.safetensors": subspace_to_bytes(space),
        "analyzer.onnx": noise.bytes(3000),
        "restorer.onnx": noise.bytes(2000),
        "liveness.onnx": noise.bytes(1000),
        **{f"{role}.onnx": noise.bytes(700) for role in MASKING_GRAPHS},
    }
    liveness = LivenessRecord("liveness.onnx", 64, LivenessCrop("landmarks", 3.3, 0.4), 0.5, "fp32", True)
    masking = MaskingRecord({role: f"{role}.onnx" for role in MASKING_GRAPHS}, (1, 2, 3), 14, 16, "0" * 32)
    bundle = write_bundle(
        path,
        kind="edge",
        k=1,
        files=files,
        graphs={"analyzer": "analyzer.onnx", "restorer": "restorer.onnx"},
        precision={"analyzer": "fp32", "restorer": "fp32", "basis": "fp16"},
        parts={part.KEY: part for part in (liveness, masking)},
        version=version,
        sign=key,
    )
    plans = []
    for role in ("analyzer", LIVENESS, MASK):
        sha256 = str(bundle.manifest.compiled_sha256(role))
        plan = PlanKey(sha256, "10.3.0", "Orin (nvgpu)", "8.7", "12.6", "fp16", (1, 8, 32))
        plans.append((role, plan, noise.bytes(1500), {}))
    return store_plans(bundle, plans, sign=key)


def _contents(bundle: Bundle) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.path.iterdir()}


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if a mutation crashed or was accepted."""
    parser = argparse.ArgumentParser(description="Load mutated signed bundles; none may crash or be accepted changed.")
    parser.add_argument("--count", type=int, default=20_000, help="mutations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="repeat one and show what it gives")
    parser.add_argument("--json", type=Path, metavar="REPORT")
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        campaign = Campaign(Path(scratch), given.seed)
        if given.only is not None:
            print(_told(campaign, given.only))
            return 0
        before = _peak_mib()
        outcome = campaign.run(range(given.count))
    rows: list[dict[str, Any]] = [
        {
            "form": form,
            "mutation": name,
            "refused": outcome.refused[form, name],
            "accepted_identical": outcome.accepted[form, name],
        }
        for form, name in _MUTATIONS
    ]
    for row in rows:
        print("{form:8} {mutation:28} {refused:6} refused {accepted_identical:6} accepted, identical".format(**row))
    for failure in outcome.failures[:20]:
        print(f"FAILED {failure[:400]}")
    totals = {
        "count": given.count,
        "seed": given.seed,
        "refused": outcome.refused.total(),
        "accepted_identical": outcome.accepted.total(),
        "stopped_by_signature_or_version_alone": outcome.stopped_by_trust,
        "failures": len(outcome.failures),
        "seconds": round(time.perf_counter() - began, 1),
        "slowest_load_ms": round(1000 * outcome.slowest[0], 1),
        "slowest_load": outcome.slowest[1],
        "peak_memory_grew_mib": round(_peak_mib() - before, 1),
    }
    print(", ".join(f"{name} {value}" for name, value in totals.items()))
    if given.json is not None:
        write_report(given.json, "immunecam.fuzz-bundle/1", rows, bundle_sha256=None, **totals)
    return 1 if outcome.failures else 0


def _told(campaign: Campaign, number: int) -> str:
    form, name, made = campaign.mutation(number)
    campaign.put(made)
    try:
        read_bundle(campaign.place, campaign.trust)
    except InputError as error:
        return f"{number} ({form}, {name}): {str(error).replace(str(campaign.folder) + os.sep, '')}"
    return f"{number} ({form}, {name}): accepted"


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
