"""Whom a device trusts: Ed25519 keys, signatures over a bundle's manifest, and the versions that it has seen.

Nothing here imports the library ``cryptography`` before a key is read.
"""

from __future__ import annotations

from immunecam.runtime.trust.keys import PASSPHRASE_VARIABLE, PrivateKey, PublicKey, passphrase_from, write_key_pair
from immunecam.runtime.trust.policy import STATE_VARIABLE, TRUST_VARIABLE, Trust, TrustedKeys
from immunecam.runtime.trust.seen_versions import SeenVersions
from immunecam.runtime.trust.signature import (
    SIGNATURE,
    SIGNATURE_LIMIT,
    Signature,
    sign_manifest,
    signatures_from_bytes,
    signatures_to_bytes,
    trusted_signer,
)

__all__ = [
    "PASSPHRASE_VARIABLE",
    "SIGNATURE",
    "SIGNATURE_LIMIT",
    "STATE_VARIABLE",
    "TRUST_VARIABLE",
    "PrivateKey",
    "PublicKey",
    "SeenVersions",
    "Signature",
    "Trust",
    "TrustedKeys",
    "passphrase_from",
    "sign_manifest",
    "signatures_from_bytes",
    "signatures_to_bytes",
    "trusted_signer",
    "write_key_pair",
]
