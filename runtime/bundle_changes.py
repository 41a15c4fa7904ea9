"""Changing a bundle's folder in place, so that every reader sees it as it was or as it is to be."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from immunecam.errors import InputError
from immunecam.files import read_regular, write_durably, written_whole
from immunecam.runtime.bundle_manifest import MANIFEST
from immunecam.runtime.trust import (
    SIGNATURE,
    SIGNATURE_LIMIT,
    PrivateKey,
    Signature,
    sign_manifest,
    signatures_from_bytes,
    signatures_to_bytes,
)

__all__ = ["alone", "change_folder", "signatures_with"]


def change_folder(
    folder: Path,
    manifest: bytes,
    *,
    files: Mapping[str, bytes] | None = None,
    unused: Collection[str] = (),
    sign: PrivateKey | None = None,
) -> None:
    """Put new files and a new manifest into a bundle's folder; call it within :func:`alone`.

    New files come first, under names that nobody knows of, then the signatures, then the manifest, which is replaced in
    one step. Between the last two the signatures of the old manifest are still there beside the new one, so that
    neither a reader nor a power cut meets a manifest without its signature.

    Parameters
    ----------
    folder : Path
    manifest : bytes
        The new content of ``manifest.json``.
    files : Mapping of bytes, optional
        New files.
    unused : collection of str
        Files that the new manifest no longer lists; they are removed.
    sign : PrivateKey, optional
        Key to sign the new manifest with. Without one, signatures of another manifest are removed.

    Raises
    ------
    InputError
        If the folder cannot be written, or the old signatures cannot be read; it is left as it was.
    """
    with contextlib.suppress(OSError):
        for left in folder.glob(".*.partial"):  # by a process that was killed; nobody else writes here now
            left.unlink()
    before = _signatures(folder)
    contents = dict(files or {})
    if sign is not None:
        contents[SIGNATURE] = signatures_to_bytes(signatures_with(before, _content(folder / MANIFEST), manifest, sign))
    new = [name for name in contents if not (folder / name).exists()]
    try:
        for name, data in contents.items():
            # Durable before the manifest is: a power cut cannot keep the new one and lose what it needs.
            write_durably(folder / name, data)
        write_durably(folder / MANIFEST, manifest)
    except BaseException as error:
        with contextlib.suppress(OSError):
            if (folder / MANIFEST).read_bytes() != manifest:  # else the new files are listed already, and stay
                for name in new:
                    (folder / name).unlink(missing_ok=True)
                if before is not None:
                    with written_whole(folder / SIGNATURE) as partial:
                        partial.write_bytes(before)
        if isinstance(error, OSError):
            raise InputError(f"The bundle {folder} cannot be written: {error.strerror}.") from None
        raise
    gone = set(unused)
    if sign is None and before is not None and not _signed(before, manifest):
        gone.add(SIGNATURE)
    for name in gone:
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def signatures_with(
    before: bytes | None, old_manifest: bytes | None, manifest: bytes, sign: PrivateKey
) -> tuple[Signature, ...]:
    """The new signature first, then those of other keys over the same manifest and those of the old manifest.

    Parameters
    ----------
    before : bytes or None
        Content of the ``signature.json`` that is there; one that cannot be understood is replaced.
    old_manifest : bytes or None
        Whose signatures are to be kept for readers that have it open.
    manifest : bytes
        What is signed now.
    sign : PrivateKey
    """
    made = sign_manifest(manifest, sign)
    wanted = {made.manifest_sha256} | (
        {hashlib.sha256(old_manifest).hexdigest()} if old_manifest is not None else set()
    )
    try:
        old = signatures_from_bytes(before, SIGNATURE) if before is not None else ()
    except InputError:
        old = ()
    kept = [
        signature
        for signature in old
        if signature.manifest_sha256 in wanted
        and (signature.key, signature.manifest_sha256) != (made.key, made.manifest_sha256)
    ]
    return (made, *kept[:15])


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Only one process changes a bundle at a time; the lock is the folder's own, so no file is left by it.

    Raises
    ------
    InputError
        If there is no such folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"The bundle {folder} cannot be opened: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _signatures(folder: Path) -> bytes | None:
    return _content(folder / SIGNATURE) if os.path.lexists(folder / SIGNATURE) else None


def _content(path: Path) -> bytes:
    limit = SIGNATURE_LIMIT if path.name == SIGNATURE else 2**26
    try:
        return read_regular(path, limit)
    except OSError as error:
        raise InputError(f"The bundle file {path} cannot be read ({error.strerror}): look at it first.") from None


def _signed(signatures: bytes, manifest: bytes) -> bool:
    """Whether one of them says that it is of this manifest."""
    sha256 = hashlib.sha256(manifest).hexdigest()
    try:
        return any(signature.manifest_sha256 == sha256 for signature in signatures_from_bytes(signatures, SIGNATURE))
    except InputError:
        return False
