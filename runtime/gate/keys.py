"""The gate's secret key: where it comes from, and the keys that are derived from it."""

from __future__ import annotations

import base64
import binascii
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from immunecam.errors import BackendMissingError, InputError
from immunecam.files import create_durably

__all__ = ["KEY_BYTES", "KEY_VARIABLE", "Cipher", "GateKey", "SealBroken"]

KEY_BYTES = 32
KEY_VARIABLE = "IMMUNECAM_GATE_KEY"

_NONCE = 12
_log = logging.getLogger(__name__)


class GateKey:
    """32 secret bytes, of which every use gets a key of its own (HKDF-SHA256, RFC 5869).

    Parameters
    ----------
    secret : bytes
        Exactly 32, from a good source of randomness: this is no password.

    Raises
    ------
    InputError
        If there are not 32, or all are equal.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES or len(set(secret)) == 1:
            raise InputError(
                f"the gate's key has {len(secret)} bytes, but it must be {KEY_BYTES} random ones: make it by "
                "`immunecam gate keygen FILE`"
            )
        self._secret = secret

    def __repr__(self) -> str:
        return "GateKey(...)"  # never in a log or a traceback

    @classmethod
    def generate(cls) -> GateKey:
        """A new one from the operating system."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> GateKey:
        """The key of a file: 64 hex digits, base64, or 32 bytes as they are.

        Raises
        ------
        InputError
            If it cannot be read, others may write it, or it holds no key.
        """
        file = Path(path)
        try:
            descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
            with os.fdopen(descriptor, "rb") as opened:
                about = os.fstat(descriptor)
                data = opened.read(1024) if stat.S_ISREG(about.st_mode) else b""
        except OSError as error:
            raise InputError(
                f"the gate's key {str(file)!r} cannot be read ({error.strerror}): check path and rights, or make "
                "one by `immunecam gate keygen FILE`"
            ) from None
        if about.st_mode & 0o022:
            raise InputError(f"the gate's key {str(file)!r} may be written by others: chmod 600 {file}")
        if about.st_mode & 0o004:
            _log.warning("the gate's key %s may be read by everybody: chmod 600 it", file)
        return cls(_decoded(data, f"the gate's key {str(file)!r}"))

    @classmethod
    def from_environment(cls, variable: str = KEY_VARIABLE) -> GateKey:
        """The key of an environment variable: 64 hex digits or base64.

        Raises
        ------
        InputError
            If it is not set, or holds no key.
        """
        value = os.environ.get(variable, "")
        if not value:
            raise InputError(f"the gate needs its key: give --key-file FILE, or set {variable} to 64 hex digits")
        return cls(_decoded(value.encode("utf-8", "replace"), f"the environment variable {variable}"))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as hex digits into a new file that only the owner may read.

        Raises
        ------
        InputError
            If there is a file already, which is never replaced, or it cannot be written.
        """
        file = Path(path)
        try:
            create_durably(file, self._secret.hex().encode() + b"\n")
        except FileExistsError:
            raise InputError(
                f"the key {str(file)!r} exists already, and what it sealed needs it: name another"
            ) from None
        except OSError as error:
            raise InputError(f"the key {str(file)!r} cannot be written ({error.strerror}): check the folder") from None

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose; those of two purposes say nothing of each other or of the secret.

        Raises
        ------
        BackendMissingError
            If cryptography is not installed.
        """
        hashes, kdf = _cryptography("hazmat.primitives.hashes"), _cryptography("hazmat.primitives.kdf.hkdf")
        info = b"immunecam gate 1 " + purpose.encode()
        derived: bytes = kdf.HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(self._secret)
        return derived


class SealBroken(Exception):
    """What was to be opened was not sealed by this key for this place, or was changed since."""


class Cipher:
    """AES-256-GCM with a fresh random nonce for every message, which stands before the ciphertext.

    Parameters
    ----------
    key : bytes
        32, from :meth:`GateKey.derive`.

    Raises
    ------
    BackendMissingError
        If cryptography is not installed.
    """

    def __init__(self, key: bytes) -> None:
        self._aead: Any = _cryptography("hazmat.primitives.ciphers.aead").AESGCM(key)
        self._invalid: type[Exception] = _cryptography("exceptions").InvalidTag

    def seal(self, message: bytes, bound: bytes) -> bytes:
        """Ciphertext that opens only together with `bound`, the associated data."""
        nonce = os.urandom(_NONCE)
        sealed: bytes = nonce + self._aead.encrypt(nonce, message, bound)
        return sealed

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        """The message.

        Raises
        ------
        SealBroken
            If a bit of it, of `bound` or of the key is another.
        """
        try:
            message: bytes = self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], bound)
        except (self._invalid, ValueError):  # ValueError: too short for a nonce or a tag
            raise SealBroken from None
        return message


def _decoded(data: bytes, what: str) -> bytes:
    if len(data) == KEY_BYTES:
        return data
    text = data.strip()
    try:
        return (
            bytes.fromhex(text.decode("ascii")) if len(text) == 2 * KEY_BYTES else base64.b64decode(text, validate=True)
        )
    except (ValueError, binascii.Error):
        # Its content is not quoted: it may be a secret that was meant for something else.
        raise InputError(f"{what} is no key: wanted 64 hex digits, base64, or a file of {KEY_BYTES} bytes") from None


def _cryptography(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"cryptography.{module}")
    except ImportError as error:
        raise BackendMissingError(
            f"the gate encrypts templates with cryptography, which cannot be imported ({error}): "
            "pip install 'immunecam[gate]'"
        ) from None
