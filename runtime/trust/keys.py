"""Ed25519 keys in PEM files: the private one as PKCS #8, the public one as SubjectPublicKeyInfo (RFC 8410).

These are the forms that OpenSSL reads and writes, so a key may come from a vendor's own key ceremony.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.files import create_durably, read_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["PASSPHRASE_VARIABLE", "PrivateKey", "PublicKey", "passphrase_from", "write_key_pair"]

PASSPHRASE_VARIABLE = "IMMUNECAM_PASSPHRASE"
"""Environment: passphrase of a private key."""

_LIMIT = 64 * 2**10
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublicKey:
    """A key that a device may trust.

    Attributes
    ----------
    id : str
        First 16 hexadecimal digits of the SHA-256 of the key's DER form, as
        ``openssl pkey -pubin -in FILE -outform DER | sha256sum`` shows it. A name to find the key by; nothing is
        accepted because of it.
    pem : bytes
        SubjectPublicKeyInfo.
    """

    id: str
    pem: bytes = field(repr=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PublicKey:
        """Read a public key.

        Raises
        ------
        InputError
            If the file cannot be read or does not hold exactly one Ed25519 public key.
        BackendMissingError
            If the library ``cryptography`` is not installed.
        """
        return cls.from_pem(_read(path, "public key"), f"The public key {path}")

    @classmethod
    def from_pem(cls, pem: bytes, where: str = "The public key") -> PublicKey:
        """Public key in the content of a PEM file; ``where`` names it in an error."""
        library = _Library()
        wanted = "give the PEM file of an Ed25519 public key, as 'immunecam bundle keygen' writes"
        if b"PRIVATE KEY" in pem:
            raise InputError(f"{where} is a private key, which must not lie on a device: {wanted}.")
        if pem.count(b"-----BEGIN") > 1:
            raise InputError(f"{where} holds {pem.count(b'-----BEGIN')} keys, but a file holds one: split it.")
        try:
            key = library.serialization.load_pem_public_key(pem)
        except Exception as error:  # ValueError, UnsupportedAlgorithm, and what the parser below them may raise
            raise InputError(f"{where} is not a PEM file of a public key ({_short(error)}): {wanted}.") from None
        if not isinstance(key, library.ed25519.Ed25519PublicKey):
            raise InputError(f"{where} is of the kind {type(key).__name__.strip('_')}, not Ed25519: {wanted}.")
        return cls._of(library, key)

    @classmethod
    def _of(cls, library: _Library, key: Any) -> PublicKey:
        form, encoding = library.serialization.PublicFormat.SubjectPublicKeyInfo, library.serialization.Encoding
        der = key.public_bytes(encoding.DER, form)
        return cls(hashlib.sha256(der).hexdigest()[:16], key.public_bytes(encoding.PEM, form))

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the signature (64 bytes) over the message is by this key."""
        library = _Library()
        key = library.serialization.load_pem_public_key(self.pem)
        try:
            key.verify(signature, message)
        except library.InvalidSignature:
            return False
        return True


class PrivateKey:
    """A key to sign with. Its bytes are never shown and never leave the object."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        """Take over a key of the library ``cryptography``; :meth:`load` and :meth:`generate` are the usual ways."""
        self._key = key
        self.public = PublicKey._of(_Library(), key.public_key())

    def __repr__(self) -> str:
        return f"PrivateKey(id={self.public.id!r})"

    @classmethod
    def generate(cls) -> PrivateKey:
        """A new key from the operating system's random numbers."""
        return cls(_Library().ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, passphrase: bytes | None = None) -> PrivateKey:
        """Read a private key.

        Parameters
        ----------
        path : str or path
            PEM file, PKCS #8.
        passphrase : bytes, optional
            Of an encrypted one; None for one in the clear.

        Raises
        ------
        InputError
            If the file cannot be read, is no Ed25519 private key, or the passphrase is wrong or missing.
        BackendMissingError
            If the library ``cryptography`` is not installed.
        """
        library = _Library()
        where, wanted = f"The private key {path}", "give the PEM file that 'immunecam bundle keygen' wrote"
        pem = _read(path, "private key")
        encrypted = b"ENCRYPTED" in pem
        if encrypted and passphrase is None:
            raise InputError(
                f"{where} is encrypted, but no passphrase was given: use --passphrase-file or IMMUNECAM_PASSPHRASE."
            )
        try:
            key = library.serialization.load_pem_private_key(pem, passphrase if encrypted else None)
        except Exception as error:
            if encrypted and isinstance(error, ValueError):
                raise InputError(f"{where} does not open with this passphrase ({_short(error)}): check both.") from None
            raise InputError(f"{where} is not a PEM file of a private key ({_short(error)}): {wanted}.") from None
        if not isinstance(key, library.ed25519.Ed25519PrivateKey):
            raise InputError(f"{where} is of the kind {type(key).__name__.strip('_')}, not Ed25519: {wanted}.")
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o077:
            _log.warning("%s can be read by others (mode %o): chmod 600 it.", where, mode)
        return cls(key)

    def sign(self, message: bytes) -> bytes:
        """Signature (64 bytes) over a message."""
        return self._key.sign(message)

    def to_pem(self, passphrase: bytes | None = None) -> bytes:
        """PKCS #8, encrypted if there is a passphrase."""
        s = _Library().serialization
        how = s.NoEncryption() if passphrase is None else s.BestAvailableEncryption(passphrase)
        return self._key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, how)


def write_key_pair(
    private: str | os.PathLike[str], public: str | os.PathLike[str], *, passphrase: bytes | None = None
) -> PrivateKey:
    """Make a key and write it to two new files; the private one is readable by its owner alone (mode 0600).

    Raises
    ------
    UsageError
        If one of the files exists: a key is never overwritten.
    InputError
        If one cannot be written; neither is left then.
    BackendMissingError
        If the library ``cryptography`` is not installed.
    """
    key = PrivateKey.generate()
    files = ((Path(public), key.public.pem, 0o644), (Path(private), key.to_pem(passphrase), 0o600))
    if Path(public) == Path(private):
        raise UsageError(f"Both keys would go to {private}: name two files.")
    for path, _, _ in files:
        if os.path.lexists(path):
            raise UsageError(f"{path} exists already, and a key is never overwritten: name another file.")
    written: list[Path] = []
    try:
        for path, data, mode in files:
            create_durably(path, data, mode=mode)
            written.append(path)
    except BaseException as error:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        if isinstance(error, OSError):
            raise InputError(f"The key {error.filename or path} cannot be written: {error.strerror}.") from None
        raise
    return key


def passphrase_from(path: str | os.PathLike[str] | None = None) -> bytes | None:
    """Passphrase of a private key: the first line of a file, else of ``IMMUNECAM_PASSPHRASE``, else None.

    Never from the command line itself, which every user of a machine can read.

    Raises
    ------
    InputError
        If the file cannot be read, or the passphrase is empty.
    """
    if path is not None:
        text, where = _read(path, "passphrase").split(b"\n", 1)[0].rstrip(b"\r"), f"The passphrase in {path}"
    elif PASSPHRASE_VARIABLE in os.environ:
        text, where = os.environb[PASSPHRASE_VARIABLE.encode()], PASSPHRASE_VARIABLE
    else:
        return None
    if not text:
        raise InputError(f"{where} is empty, but a passphrase is not: write it there, or leave it away.")
    return text


class _Library:
    """The parts of ``cryptography`` in use, imported when a key is first needed."""

    def __init__(self) -> None:
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric import ed25519
        except ImportError as error:
            raise BackendMissingError(
                f"Signed bundles need the library cryptography, which cannot be imported ({_short(error)}): "
                "pip install 'immunecam[sign]'."
            ) from None
        self.InvalidSignature, self.serialization, self.ed25519 = InvalidSignature, serialization, ed25519


def _read(path: str | os.PathLike[str], what: str) -> bytes:
    try:
        data = read_regular(path, _LIMIT)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The {what} {path} cannot be read ({getattr(error, 'strerror', None) or error}): check path and rights."
        ) from None
    if len(data) > _LIMIT:
        raise InputError(f"The {what} {path} has more than {_LIMIT} bytes, so it is no key: give a PEM file.")
    return data


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(".") if len(text) <= 120 else text[:117] + "..."
