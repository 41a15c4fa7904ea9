"""Writing a bundle's folder, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from immunecam.errors import InputError, UsageError
from immunecam.runtime.bundle import Bundle, read_bundle
from immunecam.runtime.bundle_manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    BundleManifest,
    check_file_name,
    manifest_to_bytes,
)
from immunecam.runtime.bundle_parts import kept_parts
from immunecam.runtime.part_record import PartRecord
from immunecam.runtime.trust import SIGNATURE, PrivateKey, sign_manifest, signatures_to_bytes

__all__ = ["check_free", "check_signature_kept", "is_signed", "put_folder", "write_bundle"]


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
    parts: Mapping[str, PartRecord] | None = None,
    name: str | None = None,
    version: int | None = None,
    sign: PrivateKey | None = None,
    overwrite: bool = False,
    drop_signature: bool = False,
    drop_parts: Collection[str] = (),
) -> Bundle:
    """Write a bundle and load it back.

    The files go to a temporary folder next to the target, are loaded from there as a device would load
    them, and only then get the target's name, so that a bundle that cannot be loaded is never written.

    Parameters
    ----------
    path : str or path
        The new folder; its name must end in ``.immune`` and its parent must exist.
    kind, k, graphs, precision, options, provenance, quality, parity, parts
        Fields of the manifest, see :class:`immunecam.runtime.bundle_manifest.BundleManifest`.
    files : Mapping of str to bytes
        Content of every file but the manifest; sizes and hashes are filled in here.
    name : str, optional
        What the bundle is called wherever it lies, see :class:`BundleManifest`; None takes the folder's name if it is
        signed or has a version.
    version : int, optional
        0 to 2**53 - 1; None keeps that of a bundle that is replaced, else leaves it away, which is 0.
    sign : PrivateKey, optional
        Sign it with this key.
    overwrite : bool
        Replace a bundle that is already there. Anything else that is there is never replaced.
    drop_signature : bool
        Replace it even if it is signed and the new one would not be.
    drop_parts : collection of str
        Optional parts of it to let go, by the `KEY` of their records. Otherwise a bundle that is replaced hands them
        on, as it does its name and version, to one that brings none of that kind: they are networks of their own, which
        depend on nothing else in the bundle.

    Returns
    -------
    Bundle
        What :meth:`Bundle.load` makes of the written folder.

    Raises
    ------
    UsageError
        If the path does not end in ``.immune`` or is taken, by a signed bundle for instance.
    InputError
        If the content is not a valid bundle, it cannot be written (no space, no permission), or a part to be handed on
        is damaged.
    """
    target = Path(path)
    check_free(target, overwrite=overwrite)
    check_signature_kept(target, sign=sign, drop_signature=drop_signature)
    if os.path.lexists(target) and version is None:
        name, version = _named_before(target, name)
    kept, networks = kept_parts(target, drop={*drop_parts, *(parts or {})})
    files, parts = {**files, **networks}, {**kept, **(parts or {})}
    for file in files:
        check_file_name(file)
    if name is None and (sign is not None or version is not None):
        name = target.stem
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **({} if name is None else {"name": name}),
        **({} if version is None else {"version": version}),
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
        **{key: part.to_dict() for key, part in parts.items()},
    }
    try:
        raw = manifest_to_bytes(manifest)
    except (TypeError, ValueError) as error:
        raise InputError(f"The bundle's manifest cannot be written as JSON ({error}).") from None
    signature = {} if sign is None else {SIGNATURE: signatures_to_bytes([sign_manifest(raw, sign)])}
    put_folder(target, {**files, **signature, MANIFEST: raw})
    return read_bundle(target, None)


def check_free(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Say, before the slow work, that a bundle cannot be written there.

    Raises
    ------
    UsageError
        If the path does not end in ``.immune``, or something is there that may not be replaced.
    """
    target = Path(path)
    if target.suffix != ".immune":
        raise UsageError(f"The bundle's path is {target}, but its name must end in .immune.")
    if os.path.lexists(target) and not (overwrite and (target / MANIFEST).is_file()):
        why = "is not a bundle" if overwrite else "exists already"
        raise UsageError(f"{target} {why}, so it is not replaced: choose another path for the bundle.")


def check_signature_kept(path: str | os.PathLike[str], *, sign: PrivateKey | None, drop_signature: bool) -> None:
    """Say, before the slow work, that writing a bundle would lose the signature of the one that is there.

    Raises
    ------
    UsageError
        If so, and nobody asked for it.
    """
    if sign is None and not drop_signature and is_signed(path):
        raise UsageError(
            f"{path} is signed and the new one would not be: name another, or export with --sign or --drop-signature."
        )


def is_signed(path: str | os.PathLike[str]) -> bool:
    """Whether a bundle's folder has a signature, of whomever and valid or not."""
    return os.path.lexists(Path(path) / SIGNATURE)


def put_folder(target: Path, contents: Mapping[str, bytes]) -> None:
    """Write a bundle's folder, manifest and signature included, in place of what is there.

    Raises
    ------
    InputError
        If it could not be loaded, or cannot be written; what was there is kept.
    """
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(f"The bundle {target} cannot be written: {error.strerror}.") from None
    try:
        staging.chmod(0o755)  # mkdtemp makes it private, but a bundle is for every user of the device
        for name, data in contents.items():
            _write(staging / name, data)
        _check(staging, target)
        _put_in_place(staging, target)
    except OSError as error:
        raise InputError(f"The bundle {target} cannot be written: {error.strerror}.") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _named_before(target: Path, name: str | None) -> tuple[str | None, int | None]:
    """Name and version of the bundle that is replaced: a device would refuse what falls behind it."""
    with contextlib.suppress(InputError, OSError):
        old = BundleManifest.from_bytes((target / MANIFEST).read_bytes(), str(target))
        return name or old.name or None, old.version if "version" in old.content else None
    return name, None


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _check(staging: Path, target: Path) -> None:
    try:
        read_bundle(staging, None)
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
