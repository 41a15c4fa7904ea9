"""What a device demands of a bundle before it loads it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from immunecam.errors import InputError, UsageError
from immunecam.runtime.trust.keys import PublicKey
from immunecam.runtime.trust.seen_versions import SeenVersions
from immunecam.runtime.trust.signature import SIGNATURE, signatures_from_bytes, trusted_signer

__all__ = ["STATE_VARIABLE", "TRUST_VARIABLE", "Trust", "TrustedKeys"]

TRUST_VARIABLE = "IMMUNECAM_TRUST"
"""Environment: PEM files of the public keys, with ':' between them."""

STATE_VARIABLE = "IMMUNECAM_BUNDLE_STATE"
"""Environment: the file of seen bundle versions."""


@dataclass(frozen=True)
class Trust:
    """Keys, one of which must have signed a bundle, and the versions below which none is loaded.

    Attributes
    ----------
    keys : tuple of PublicKey
        At least one; several while keys are rotated.
    versions : SeenVersions, optional
        None remembers nothing, and a signed bundle of any version is loaded.

    Raises
    ------
    UsageError
        If there is no key: that could only mean to trust nobody, or everybody.
    """

    keys: tuple[PublicKey, ...]
    versions: SeenVersions | None = None

    def __post_init__(self) -> None:
        if not self.keys:
            raise UsageError("No public key is trusted, but a signature is to be demanded: give at least one.")

    @classmethod
    def load(cls, keys: TrustedKeys, *, state: str | os.PathLike[str] | None = None) -> Trust:
        """Read the keys from their files.

        Parameters
        ----------
        keys : path or sequence of paths
            PEM files, a public key each.
        state : path, optional
            The file of seen versions, see :class:`SeenVersions`. None takes that of the environment variable
            ``IMMUNECAM_BUNDLE_STATE``, if it is set.

        Raises
        ------
        InputError
            If a key cannot be read, or the environment variable is empty.
        BackendMissingError
            If the library ``cryptography`` is not installed.
        """
        if isinstance(keys, Trust):
            return keys if state is None else cls(keys.keys, SeenVersions(state))
        paths = [keys] if isinstance(keys, (str, os.PathLike)) else list(keys)
        state = _variable(STATE_VARIABLE, "the file of seen bundle versions") if state is None else state
        return cls(tuple(PublicKey.load(path) for path in paths), None if state is None else SeenVersions(state))

    @classmethod
    def in_force(cls, keys: TrustedKeys | None = None, *, state: str | os.PathLike[str] | None = None) -> Trust | None:
        """What holds for a load: keys that were given, else those of ``IMMUNECAM_TRUST``, else None.

        A key that was given replaces those of the environment; nothing that can be given switches them off.

        Parameters
        ----------
        keys, state
            As for :meth:`load`, or None if the caller has none.

        Raises
        ------
        InputError
            If a key cannot be read, or an environment variable is set and empty.
        UsageError
            If there is a file of seen versions but no key: the version of an unsigned bundle says nothing.
        BackendMissingError
            If keys are set and the library ``cryptography`` is not installed.
        """
        if keys is not None:
            return cls.load(keys, state=state)
        text = _variable(TRUST_VARIABLE, "a PEM file of a public key")
        if text is not None:
            paths = text.split(os.pathsep)
            if not all(paths):
                raise InputError(f"{TRUST_VARIABLE} is {text!r}, which has an empty path in it: name PEM files only.")
            return cls.load(paths, state=state)
        state = _variable(STATE_VARIABLE, "the file of seen bundle versions") if state is None else state
        if state is not None:
            raise UsageError(
                f"Versions of bundles are to be remembered in {state}, but no public key is trusted, and an unsigned "
                f"version says nothing: set {TRUST_VARIABLE} or give --trust."
            )
        return None

    def verify(self, manifest: bytes, signature: bytes | None, where: str) -> PublicKey:
        """The key that signed a manifest.

        Parameters
        ----------
        manifest : bytes
            Content of ``manifest.json``.
        signature : bytes or None
            Content of ``signature.json``, None if there is none.
        where : str
            What to call the bundle in an error.

        Raises
        ------
        InputError
            If it is not signed by a trusted key.
        """
        if signature is None:
            trusted = ", ".join(key.id for key in self.keys)
            raise InputError(
                f"{where} is not signed, but a signature by {trusted} is demanded: sign it by 'immunecam bundle sign' "
                "where it was made."
            )
        name = where[:1].lower() + where[1:]
        return trusted_signer(
            manifest, signatures_from_bytes(signature, f"The {SIGNATURE} of {name}"), self.keys, where
        )

    def trusts(self, key: PublicKey) -> bool:
        """Whether a key is among the trusted ones."""
        return key in self.keys


TrustedKeys = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Trust
"""What :meth:`Trust.load` takes."""


def _variable(name: str, wanted: str) -> str | None:
    """An environment variable; one that is set but empty is a mistake that must not switch protection off."""
    text = os.environ.get(name)
    if text is not None and not text.strip():
        raise InputError(f"{name} is set but empty: set it to {wanted}, or unset it.")
    return text
