"""Optional parts of a bundle: put into its folder, and handed on to the bundle that replaces it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from immunecam.errors import InputError, UsageError
from immunecam.files import read_regular
from immunecam.runtime.bundle import Bundle, read_bundle
from immunecam.runtime.bundle_changes import alone, change_folder
from immunecam.runtime.bundle_manifest import MANIFEST, BundleManifest, manifest_to_bytes
from immunecam.runtime.part_record import PartRecord
from immunecam.runtime.trust import SIGNATURE, PrivateKey

__all__ = ["check_takes_part", "kept_parts", "put_part"]


def check_takes_part(path: str | os.PathLike[str], *, sign: PrivateKey | None = None) -> Bundle:
    """The bundle as it is; or say, before the slow work, that nothing can be put into it.

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
    bundle = read_bundle(place, None)
    if sign is None and os.path.lexists(place / SIGNATURE):
        raise UsageError(f"{str(path)!r} is signed and would not be any more: give --sign, or remove {SIGNATURE} first")
    return bundle


def put_part(
    path: str | os.PathLike[str],
    record: PartRecord,
    networks: Mapping[str, bytes],
    tried: Callable[[Bundle], object],
    *,
    sign: PrivateKey | None = None,
) -> Bundle:
    """Put a part into a bundle's folder, in place of the one that it may have; nothing else changes.

    Parameters
    ----------
    path : path
        Folder of a bundle.
    record : PartRecord
        Names of its networks are filled in here: with hashes, so that no reader meets a new file under the old
        manifest. Plans are left out, and those of the old part go with it, even where the networks are the same: they
        are of its record.
    networks : Mapping of bytes
        ONNX by role.
    tried : callable
        Uses the part as a device would, in the bundle as it is to be; what it raises leaves the folder as it was.
    sign : PrivateKey, optional
        Sign the new manifest with it.

    Returns
    -------
    Bundle
        As it is now.

    Raises
    ------
    InputError, UsageError
        As :func:`check_takes_part`, or as `tried`.
    """
    place, key = Path(path), record.KEY
    with alone(place):
        before = check_takes_part(place, sign=sign)
        hashes = {role: hashlib.sha256(graph).hexdigest() for role, graph in networks.items()}
        names = {role: _file_name(key, role, sha256) for role, sha256 in hashes.items()}
        added = {names[role]: graph for role, graph in networks.items()}
        old, content = before.manifest.parts.get(key), json.loads(before.manifest_bytes)
        gone = set() if old is None else set(old.files) - set(added)
        files = {name: entry for name, entry in content["files"].items() if name not in gone}
        files |= {names[role]: {"sha256": hashes[role], "bytes": len(graph)} for role, graph in networks.items()}
        part = record.named(names).without_plans().to_dict()
        raw = manifest_to_bytes({**content, "files": dict(sorted(files.items())), key: part})
        parsed = BundleManifest.from_bytes(raw, f"The manifest of {before.path}")
        tried(dataclasses.replace(before, manifest=parsed, files={**before.files, **added}))
        change_folder(place, raw, files=added, unused=gone, sign=sign)
        return read_bundle(place, None)


def kept_parts(
    path: str | os.PathLike[str], *, drop: Collection[str] = ()
) -> tuple[dict[str, PartRecord], dict[str, bytes]]:
    """What a bundle's folder hands on to the one that replaces it: its parts' records, and their files.

    Parameters
    ----------
    path : path
        Where there need not be a bundle.
    drop : collection of str
        `PartRecord.KEY` of parts that are to be left behind.

    Raises
    ------
    InputError
        If the manifest has a part, but not the files that it lists.
    """
    target = Path(path)
    try:
        old = BundleManifest.from_bytes((target / MANIFEST).read_bytes(), str(target))
    except (InputError, OSError):
        return {}, {}  # there is nothing that could be known of
    parts = {key: part for key, part in old.parts.items() if key not in drop}
    kept = {}
    for key, part in parts.items():
        for name in part.files:
            listed = old.files[name]
            try:
                kept[name] = read_regular(target / name, listed.bytes)
                same = hashlib.sha256(kept[name]).hexdigest() == listed.sha256
                reason = "" if same else "it is not the file that was written"
            except OSError as error:
                reason = error.strerror or str(error)
            if reason:
                raise InputError(
                    f"The {part.TITLE}'s file {name} of {target} cannot be kept ({reason}): put it in again by "
                    f"`immunecam {key} export`, leave it behind by `immunecam export --drop-{key}`, or name another "
                    "bundle."
                )
    return parts, kept


def _file_name(key: str, role: str, sha256: str) -> str:
    return f"{key}.{sha256[:12]}.onnx" if role == key else f"{key}.{role}.{sha256[:12]}.onnx"
