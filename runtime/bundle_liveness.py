"""Putting a liveness network into a bundle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

from immunecam.errors import InputError, UsageError
from immunecam.runtime.bundle import Bundle, read_bundle
from immunecam.runtime.bundle_changes import alone, change_folder
from immunecam.runtime.bundle_manifest import manifest_to_bytes
from immunecam.runtime.liveness import LivenessDetector
from immunecam.runtime.liveness_record import LivenessRecord
from immunecam.runtime.trust import SIGNATURE, PrivateKey

__all__ = ["check_takes_liveness", "put_liveness"]


def check_takes_liveness(path: str | os.PathLike[str], *, sign: PrivateKey | None = None) -> None:
    """Say, before the slow work, that nothing can be put into this bundle.

    Raises
    ------
    InputError
        If it cannot be loaded, or is an archive.
    UsageError
        If it is signed and would not be afterwards.
    """
    place = Path(path)
    if place.is_file():
        raise InputError(f"{str(path)!r} is an archive: unpack it first, and pack it again")
    read_bundle(place, None)
    if sign is None and os.path.lexists(place / SIGNATURE):
        raise UsageError(f"{str(path)!r} is signed and would not be any more: give --sign, or remove {SIGNATURE} first")


def put_liveness(
    path: str | os.PathLike[str], graph: bytes, record: LivenessRecord, *, sign: PrivateKey | None = None
) -> Bundle:
    """Put a network into a bundle's folder, in place of the one that it may have; nothing else changes.

    Parameters
    ----------
    path : path
        Folder of a bundle.
    graph : bytes
        ONNX, as :class:`LivenessRecord` says.
    record : LivenessRecord
        Its `file` is filled in here: a name with the graph's hash, so that no reader meets the new file under the old
        manifest.
    sign : PrivateKey, optional
        Sign the new manifest with it.

    Returns
    -------
    Bundle
        As it is now; its network was opened and has judged a grey picture.

    Raises
    ------
    InputError, UsageError
        As :func:`check_takes_liveness`, and if the graph cannot be run; the bundle is left as it was.
    """
    place = Path(path)
    with alone(place):
        check_takes_liveness(place, sign=sign)
        before = read_bundle(place, None)
        sha256 = hashlib.sha256(graph).hexdigest()
        record = dataclasses.replace(record, file=f"liveness.{sha256[:12]}.onnx")
        content = json.loads(before.manifest_bytes)
        old = before.manifest.liveness
        # Plans of the old network go with it, even where the new one has the same file: they are of its record.
        gone = set(old.files) - {record.file} if old is not None else set()
        files = {name: entry for name, entry in content["files"].items() if name not in gone}
        files[record.file] = {"sha256": sha256, "bytes": len(graph)}
        changed = {**content, "files": dict(sorted(files.items())), "liveness": record.to_dict()}
        raw = manifest_to_bytes(changed)
        _tried(before, raw, record.file, graph)
        change_folder(place, raw, files={record.file: graph}, unused=gone, sign=sign)
        return read_bundle(place, None)


def _tried(before: Bundle, manifest: bytes, name: str, graph: bytes) -> None:
    """Open the network as a device would, and have it judge a grey picture."""
    import numpy as np

    from immunecam.runtime.bundle_manifest import BundleManifest

    parsed = BundleManifest.from_bytes(manifest, f"The manifest of {before.path}")
    draft = dataclasses.replace(before, manifest=parsed, files={**before.files, name: graph})
    detector = LivenessDetector(draft, threads=1)
    detector.scores(np.full((2, detector.side, detector.side, 3), 128, np.uint8))
