"""Signing a bundle that is there already, folder or archive, and giving it a name and a version."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from immunecam.errors import InputError, UsageError
from immunecam.runtime.bundle import Bundle, read_bundle
from immunecam.runtime.bundle_archive import write_archive
from immunecam.runtime.bundle_changes import alone, change_folder, signatures_with
from immunecam.runtime.bundle_manifest import BundleManifest, manifest_to_bytes
from immunecam.runtime.bundle_source import open_source
from immunecam.runtime.trust import SIGNATURE, SIGNATURE_LIMIT, PrivateKey, signatures_to_bytes

__all__ = ["sign_bundle", "signature_of"]


def sign_bundle(
    path: str | os.PathLike[str], key: PrivateKey, *, version: int | None = None, name: str | None = None
) -> Bundle:
    """Check a bundle file by file and sign it.

    Signatures of other keys stay if the manifest does, so that a bundle can be signed by an old key and a new one.

    Parameters
    ----------
    path : str or path
        Folder or archive.
    key : PrivateKey
    version : int, optional
        Goes into the manifest, and may not be below what is there; None leaves that.
    name : str, optional
        What the bundle is called wherever it lies, for rollback protection. None leaves what is there, or takes the
        name of the folder or archive.

    Returns
    -------
    Bundle
        As it is now.

    Raises
    ------
    InputError
        If the bundle cannot be loaded or written; it is left as it was.
    UsageError
        If the version is below the bundle's own.
    """
    place = Path(path)
    with alone(place) if place.is_dir() else contextlib.nullcontext():
        bundle = read_bundle(place, None)
        raw = _manifest(bundle, version, name)
        if place.is_dir():
            change_folder(place, raw, sign=key)
        else:
            signatures = signatures_with(signature_of(place), None, raw, key)
            write_archive(place, raw, signatures_to_bytes(signatures), bundle.files)
        return read_bundle(place, None)


def signature_of(path: str | os.PathLike[str]) -> bytes | None:
    """Content of the ``signature.json`` of a folder or archive, or None if it has none; nothing is verified.

    Raises
    ------
    InputError
        If there is no bundle, or it cannot be read.
    """
    with contextlib.closing(open_source(Path(path))) as source:
        return source.read(SIGNATURE, SIGNATURE_LIMIT) if source.has(SIGNATURE) else None


def _manifest(bundle: Bundle, version: int | None, name: str | None) -> bytes:
    """The manifest with name and version; its own bytes if they are there already."""
    manifest = bundle.manifest
    if version is not None and version < manifest.version:
        raise UsageError(
            f"The version is {version}, but {bundle.path} has version {manifest.version} already: give "
            f"{manifest.version} or more."
        )
    wanted_version = manifest.version if version is None else version
    wanted_name = name or manifest.name or bundle.name
    if (wanted_name, wanted_version) == (manifest.name, manifest.version) and "version" in manifest.content:
        return bundle.manifest_bytes
    content = json.loads(bundle.manifest_bytes)
    first = {key: content.pop(key) for key in ("format", "format_version")}
    content = (
        first
        | {"name": wanted_name, "version": wanted_version}
        | {key: value for key, value in content.items() if key not in ("name", "version")}
    )
    raw = manifest_to_bytes(content)
    try:
        BundleManifest.from_bytes(raw, "The manifest to sign")
    except InputError as error:
        wrong = str(error).replace("export the bundle again", "give --name and --version such")
        raise UsageError(wrong) from None
    return raw
