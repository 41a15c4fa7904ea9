"""Signatures of a bundle: the file ``signature.json`` beside the manifest, over the manifest's exact bytes.

The manifest holds the SHA-256 of every other file, compiled plans included, so a signature over it covers all of them.
What is signed is the manifest behind a prefix of its own, so that a signature made for a bundle can never pass for one
over something else, nor the other way round.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from immunecam.errors import InputError
from immunecam.runtime.trust.keys import PrivateKey, PublicKey

__all__ = [
    "SIGNATURE",
    "SIGNATURE_LIMIT",
    "Signature",
    "sign_manifest",
    "signatures_from_bytes",
    "signatures_to_bytes",
    "trusted_signer",
]

SIGNATURE = "signature.json"
SIGNATURE_LIMIT = 64 * 2**10
"""Most bytes of it."""

_FORMAT, _FORMAT_VERSION = "immunecam-signature", 1
_ALGORITHM = "ed25519"
_PREFIX = b"immunecam bundle manifest, signature format 1\0"
_MOST = 16
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Signature:
    """One signature, not yet verified.

    Attributes
    ----------
    key : str
        Id of the key, see :class:`immunecam.runtime.trust.keys.PublicKey`.
    manifest_sha256 : str
        Of the manifest it was made for; a hint, by which one of another manifest is told apart from a wrong one.
    value : bytes
        64 bytes.
    algorithm : str
        "ed25519".
    """

    key: str
    manifest_sha256: str
    value: bytes
    algorithm: str = _ALGORITHM


def sign_manifest(manifest: bytes, key: PrivateKey) -> Signature:
    """Sign the content of a ``manifest.json``."""
    return Signature(key.public.id, hashlib.sha256(manifest).hexdigest(), key.sign(_PREFIX + manifest))


def signatures_to_bytes(signatures: Sequence[Signature]) -> bytes:
    """Content of a ``signature.json``."""
    content = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "signatures": [
            {
                "algorithm": signature.algorithm,
                "key": signature.key,
                "manifest_sha256": signature.manifest_sha256,
                "signature": base64.b64encode(signature.value).decode("ascii"),
            }
            for signature in signatures
        ],
    }
    return (json.dumps(content, indent=2) + "\n").encode("ascii")


def signatures_from_bytes(raw: bytes, where: str) -> tuple[Signature, ...]:
    """Signatures in the content of a ``signature.json``; ones of another algorithm are left out.

    Parameters
    ----------
    raw : bytes
        The whole file.
    where : str
        What to call the file in an error.

    Raises
    ------
    InputError
        If it is no signature file of this format version.
    """
    again = "sign the bundle again, or copy it again from where it was made"
    if len(raw) > SIGNATURE_LIMIT:
        raise InputError(f"{where} has more than {SIGNATURE_LIMIT} bytes, so it is no signature: {again}.")
    try:
        content = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON ({' '.join(str(error).split())}): {again}.") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"{where} is no signature file, its format must be {_FORMAT!r}: {again}.")
    if content.get("format_version") != _FORMAT_VERSION or isinstance(content["format_version"], bool):
        found = repr(content.get("format_version"))[:40]
        raise InputError(f"{where} has the format version {found}, but this immunecam reads {_FORMAT_VERSION}.")
    entries = content.get("signatures")
    if not isinstance(entries, list) or len(entries) > _MOST:
        raise InputError(f"{where}: signatures must be a list of at most {_MOST}: {again}.")
    read = (_entry(entry, f"{where}: signatures[{index}]", again) for index, entry in enumerate(entries))
    return tuple(signature for signature in read if signature is not None)


def trusted_signer(
    manifest: bytes, signatures: Sequence[Signature], keys: Sequence[PublicKey], where: str
) -> PublicKey:
    """The first of the keys that signed these bytes.

    Parameters
    ----------
    manifest : bytes
        Content of ``manifest.json``.
    signatures : sequence of Signature
    keys : sequence of PublicKey
        Those that are trusted.
    where : str
        What to call the bundle in an error.

    Raises
    ------
    InputError
        If none of them did.
    """
    sha256 = hashlib.sha256(manifest).hexdigest()
    theirs = [(signature, key) for signature in signatures for key in keys if signature.key == key.id]
    for signature, key in theirs:
        if key.verifies(signature.value, _PREFIX + manifest):
            return key
    trusted = ", ".join(key.id for key in keys)
    if not theirs:
        by = ", ".join(dict.fromkeys(signature.key for signature in signatures)) or "nobody"
        raise InputError(
            f"{where} is signed by {by}, but only {trusted} is trusted: sign it with that key, or trust the other."
        )
    if all(signature.manifest_sha256 != sha256 for signature, _ in theirs):
        raise InputError(
            f"{where} has a signature by {theirs[0][1].id}, but of another manifest: it was changed after it was "
            "signed, so sign it again or copy it again from where it was made."
        )
    raise InputError(
        f"{where} has a signature that says it is by {theirs[0][1].id}, but does not fit its manifest: one of them was "
        "changed or damaged, copy the bundle again from where it was made."
    )


def _entry(entry: Any, where: str, again: str) -> Signature | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("algorithm"), str):
        raise InputError(f"{where} must be an object with algorithm, key, manifest_sha256 and signature: {again}.")
    if entry["algorithm"] != _ALGORITHM:
        return None
    key, sha256, text = entry.get("key"), entry.get("manifest_sha256"), entry.get("signature")
    if not isinstance(key, str) or not _KEY_ID.fullmatch(key):
        raise InputError(f"{where}.key must be 16 lower-case hexadecimal digits: {again}.")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise InputError(f"{where}.manifest_sha256 must be 64 lower-case hexadecimal digits: {again}.")
    try:
        value = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != 64:
        raise InputError(f"{where}.signature must be 64 bytes in base64: {again}.")
    return Signature(key, sha256, value)
