"""Writing a bundle, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from immunecam.errors import InputError, UsageError
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.bundle_manifest import FORMAT, FORMAT_VERSION, MANIFEST, check_file_name

__all__ = ["write_bundle"]


def write_bundle(
    path: str | os.PathLike[str],
    *,
    kind: str,
    k: int,
    files: Mapping[str, bytes],
    graphs: Mapping[str, str],
    precision: Mapping[str, str],
    options: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    quality: Mapping[str, Any] | None = None,
    parity: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle and load it back.

    The files go to a temporary folder next to the target, are loaded from there as a device would load
    them, and only then get the target's name, so that a bundle that cannot be loaded is never written.

    Parameters
    ----------
    path : str or path
        The new folder; its name must end in ``.immune`` and its parent must exist.
    kind, k, graphs, precision, options, provenance, quality, parity
        Fields of the manifest, see :class:`immunecam.runtime.bundle_manifest.BundleManifest`.
    files : Mapping of str to bytes
        Content of every file but the manifest; sizes and hashes are filled in here.
    overwrite : bool
        Replace a bundle that is already there. Anything else that is there is never replaced.

    Returns
    -------
    Bundle
        What :meth:`Bundle.load` makes of the written folder.

    Raises
    ------
    UsageError
        If the path does not end in ``.immune`` or is taken.
    InputError
        If the content is not a valid bundle, or it cannot be written (no space, no permission).
    """
    target = Path(path)
    if target.suffix != ".immune":
        raise UsageError(f"The bundle's path is {target}, but its name must end in .immune.")
    taken = os.path.lexists(target)
    if taken and not (overwrite and (target / MANIFEST).is_file()):
        why = "is not a bundle" if overwrite else "exists already"
        raise UsageError(f"{target} {why}, so it is not replaced: choose another path for the bundle.")
    for name in files:
        check_file_name(name)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "options": dict(options or {}),
        "shapes": {"height": 112, "width": 112, "k": k},
        "value_range": [-1, 1],
        "precision": dict(precision),
        "graphs": dict(graphs),
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in sorted(files.items())
        },
        "provenance": dict(provenance or {}),
        "quality": dict(quality or {}),
        "parity": dict(parity or {}),
    }
    try:
        text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"The bundle's manifest cannot be written as JSON ({error}).") from None
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(f"The bundle {target} cannot be written: {error.strerror}.") from None
    try:
        staging.chmod(0o755)  # mkdtemp makes it private, but a bundle is for every user of the device
        for name, data in {**files, MANIFEST: text.encode("utf-8")}.items():
            _write(staging / name, data)
        _check(staging, target)
        _put_in_place(staging, target)
    except OSError as error:
        raise InputError(f"The bundle {target} cannot be written: {error.strerror}.") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Bundle.load(target)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _check(staging: Path, target: Path) -> None:
    try:
        Bundle.load(staging)
    except InputError as error:
        # The temporary folder is gone when the message is read, so it names the target.
        raise InputError(str(error).replace(str(staging), str(target))) from None


def _put_in_place(staging: Path, target: Path) -> None:
    """Rename; a folder cannot be renamed over a full one, so an old bundle steps aside first."""
    if not os.path.lexists(target):
        os.rename(staging, target)
        return
    aside = staging.with_name(staging.name + ".old")
    os.rename(target, aside)
    try:
        os.rename(staging, target)
    except OSError:
        os.rename(aside, target)
        raise
    with contextlib.suppress(OSError):
        if aside.is_symlink():
            aside.unlink()
        else:
            shutil.rmtree(aside)
