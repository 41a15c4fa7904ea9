"""Putting a mask and a recogniser of masked faces into a bundle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from immunecam.errors import InputError
from immunecam.mask_key import MaskKey
from immunecam.runtime.bundle import Bundle, read_bundle
from immunecam.runtime.bundle_changes import alone, change_folder
from immunecam.runtime.bundle_liveness import check_takes_liveness as check_takes_part
from immunecam.runtime.bundle_manifest import BundleManifest, manifest_to_bytes
from immunecam.runtime.masking import FaceMask, MaskedEmbedder
from immunecam.runtime.masking_record import MASKING_GRAPHS, MaskingRecord
from immunecam.runtime.trust import PrivateKey

__all__ = ["put_masking"]


def put_masking(
    path: str | os.PathLike[str],
    graphs: Mapping[str, bytes],
    record: MaskingRecord,
    key: MaskKey,
    *,
    sign: PrivateKey | None = None,
) -> Bundle:
    """Put the part into a bundle's folder, in place of the one that it may have; nothing else changes.

    Parameters
    ----------
    path : path
        Folder of a bundle.
    graphs : Mapping of bytes
        ONNX by role, as :class:`MaskingRecord` says.
    record : MaskingRecord
        Its `graphs` are filled in here: names with hashes, so that no reader meets a new file under the old manifest.
    key : MaskKey
        Of the mask, for a trial; it is not written.
    sign : PrivateKey, optional
        Sign the new manifest with it.

    Returns
    -------
    Bundle
        As it is now; its graphs were opened, and have masked and recognised a grey picture.

    Raises
    ------
    InputError, UsageError
        If the bundle cannot be loaded, is an archive, is signed and would not be afterwards, the key is another, or a
        graph cannot be run; the bundle is left as it was.
    """
    place = Path(path)
    if sorted(graphs) != sorted(MASKING_GRAPHS):
        raise InputError(f"a masking part has the graphs {', '.join(MASKING_GRAPHS)}, got {', '.join(sorted(graphs))}")
    with alone(place):
        check_takes_part(place, sign=sign)
        before = read_bundle(place, None)
        hashes = {role: hashlib.sha256(graph).hexdigest() for role, graph in graphs.items()}
        names = {role: f"masking.{role}.{hashes[role][:12]}.onnx" for role in MASKING_GRAPHS}
        record = dataclasses.replace(record, graphs=names)
        content = json.loads(before.manifest_bytes)
        old = before.manifest.masking
        gone = set(old.graphs.values()) - set(names.values()) if old is not None else set[str]()
        files = {name: entry for name, entry in content["files"].items() if name not in gone}
        files |= {names[role]: {"sha256": hashes[role], "bytes": len(graphs[role])} for role in MASKING_GRAPHS}
        raw = manifest_to_bytes({**content, "files": dict(sorted(files.items())), "masking": record.to_dict()})
        added = {names[role]: graphs[role] for role in MASKING_GRAPHS}
        _tried(before, raw, added, key)
        change_folder(place, raw, files=added, unused=gone, sign=sign)
        return read_bundle(place, None)


def _tried(before: Bundle, manifest: bytes, added: Mapping[str, bytes], key: MaskKey) -> None:
    """Open the graphs as a device would, and recognise a picture that is not all of one grey."""
    import numpy as np

    parsed = BundleManifest.from_bytes(manifest, f"The manifest of {before.path}")
    draft = dataclasses.replace(before, manifest=parsed, files={**before.files, **added})
    faces = np.full((2, 112, 112), 128, np.uint8)
    faces[:, :56, 40:72] = 64
    mask = FaceMask(draft, key, threads=1)
    mask.picture(mask.channels(faces))
    MaskedEmbedder(mask, threads=1).embed(faces)
