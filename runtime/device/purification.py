"""Whether the bundle is the maker's, and how long a face takes here."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from immunecam.errors import ImmuneCamError
from immunecam.kernels import quantize_faces
from immunecam.runtime.bundle import default_bundle, read_bundle
from immunecam.runtime.device.finding import Finding
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.report import percentiles_ms
from immunecam.runtime.trust import Trust

__all__ = ["check_purification"]

_FACES = 30


def check_purification(
    bundle: Path | None, trust: Trust | None, *, provider: str = "auto", threads: int | None = None
) -> tuple[Finding, str | None]:
    """Verify a bundle and purify 30 faces, one at a time; returns the SHA-256 of its manifest, too.

    No version of it is remembered as seen: that is the service's to do, as its own user.

    Parameters
    ----------
    bundle : Path or None
        None takes the one that is installed with the package.
    trust : Trust or None
        None demands no signature.
    provider, threads
        As for :meth:`Purifier.load`.
    """
    part = "bundle"
    try:
        found = read_bundle(bundle or default_bundle(), trust, remember=False)
        with Purifier.load(found, provider=provider, threads=threads, trust=trust) as purifier:
            height, width = found.manifest.height, found.manifest.width
            mean = np.asarray(found.subspace.mean, np.float32).reshape(height, width)
            noise = np.random.default_rng(0).normal(0, 0.05, (_FACES + 1, height, width)).astype(np.float32)
            faces = quantize_faces(np.clip(mean + noise, -1, 1).astype(np.float32))
            purifier.purify(faces[:1])  # the first one compiles and allocates
            times, flat = [], False
            for number in range(1, _FACES + 1):
                began = time.perf_counter()
                purified = purifier.purify(faces[number : number + 1])
                times.append(time.perf_counter() - began)
                flat = flat or float(np.std(purified)) == 0
            used = purifier.provider
    except ImmuneCamError as error:
        return Finding(part, "bad", str(error)), None
    numbers = {"provider": used, "faces": _FACES, **{f"face_{k}": v for k, v in percentiles_ms(times).items()}}
    why = f"{found.name}: {numbers['face_p50_ms']:.1f} ms a face (p95 {numbers['face_p95_ms']:.1f}) on {used}"
    if flat:
        return Finding(
            part, "bad", f"{why}, but it gives a face of one grey", "try --provider cpu", numbers
        ), found.sha256
    if found.signed_by is None:
        todo = "give --trust the maker's public key, as the unit's IMMUNECAM_TRUST does"
        return Finding(part, "note", f"{why}; nobody's signature is demanded", todo, numbers), found.sha256
    named = f"version {found.manifest.version}, signed by {found.signed_by.id}"
    return Finding(part, "good", f"{why}, {named}", "", numbers), found.sha256
