"""Keys: the standard's own examples, files that nobody else can read or lose, and everything that is no key."""

from __future__ import annotations

import base64
import errno
import hashlib
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.runtime.trust import PASSPHRASE_VARIABLE, PrivateKey, PublicKey, passphrase_from, write_key_pair

# RFC 8410, section 10
PRIVATE = b"MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC"
PUBLIC = b"MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="


def pem(kind: str, body: bytes) -> bytes:
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (kind.encode(), body, kind.encode())


def test_keys_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "private.pem").write_bytes(pem("PRIVATE KEY", PRIVATE))
    (tmp_path / "private.pem").chmod(0o600)
    (tmp_path / "public.pem").write_bytes(pem("PUBLIC KEY", PUBLIC))
    key, public = PrivateKey.load(tmp_path / "private.pem"), PublicKey.load(tmp_path / "public.pem")
    assert key.public == public
    assert public.id == hashlib.sha256(base64.b64decode(PUBLIC)).hexdigest()[:16]
    assert public.verifies(key.sign(b"a door"), b"a door")
    assert not public.verifies(key.sign(b"a door"), b"a window")


def test_signature_of_the_standard() -> None:
    """RFC 8032, 7.1, test 2."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    wanted = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert PrivateKey(Ed25519PrivateKey.from_private_bytes(secret)).sign(b"\x72").hex() == wanted


@given(st.binary(max_size=50), st.integers(0, 511))
def test_a_signature_holds_for_its_message_alone(message: bytes, bit: int) -> None:
    key = PrivateKey.generate()
    signature = bytearray(key.sign(message))
    assert key.public.verifies(bytes(signature), message)
    assert not key.public.verifies(bytes(signature), message + b"\0")
    signature[bit // 8] ^= 1 << bit % 8
    assert not key.public.verifies(bytes(signature), message)
    assert not PrivateKey.generate().public.verifies(key.sign(message), message)


def test_written_keys_come_back(tmp_path: Path) -> None:
    os.umask(os.umask(0o022))
    key = write_key_pair(tmp_path / "a.pem", tmp_path / "b.pem")
    assert PrivateKey.load(tmp_path / "a.pem").public == PublicKey.load(tmp_path / "b.pem") == key.public
    assert stat.S_IMODE((tmp_path / "a.pem").stat().st_mode) == 0o600
    assert b"PRIVATE" not in (tmp_path / "b.pem").read_bytes()
    assert repr(key) == f"PrivateKey(id={key.public.id!r})"


def test_encrypted_key(tmp_path: Path) -> None:
    key = write_key_pair(tmp_path / "a.pem", tmp_path / "b.pem", passphrase=b"open sesame")
    assert b"ENCRYPTED" in (tmp_path / "a.pem").read_bytes()
    assert PrivateKey.load(tmp_path / "a.pem", passphrase=b"open sesame").public == key.public
    with pytest.raises(InputError, match="is encrypted, but no passphrase was given"):
        PrivateKey.load(tmp_path / "a.pem")
    with pytest.raises(InputError, match="does not open with this passphrase"):
        PrivateKey.load(tmp_path / "a.pem", passphrase=b"open barley")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    write_key_pair(tmp_path / "a.pem", tmp_path / "b.pem")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for names in (("a.pem", "c.pem"), ("c.pem", "b.pem")):
        with pytest.raises(UsageError, match=r"exists already, and a key is never overwritten"):
            write_key_pair(*(tmp_path / name for name in names))
    with pytest.raises(UsageError, match="name two files"):
        write_key_pair(tmp_path / "c.pem", tmp_path / "c.pem")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        write_key_pair(tmp_path / "a.pem", tmp_path / "b.pem")
    assert not list(tmp_path.iterdir())


def test_a_private_key_that_others_can_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_key_pair(tmp_path / "a.pem", tmp_path / "b.pem")
    with caplog.at_level(logging.WARNING):
        PrivateKey.load(tmp_path / "a.pem")
        assert not caplog.messages
        (tmp_path / "a.pem").chmod(0o644)
        PrivateKey.load(tmp_path / "a.pem")
    assert "can be read by others (mode 644)" in caplog.text


def rsa() -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(65537, 1024)


def other_keys() -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives import serialization as s

    key = rsa()
    return (
        key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()),
        key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo),
    )


def test_what_is_no_key(tmp_path: Path) -> None:
    path, (rsa_private, rsa_public) = tmp_path / "key.pem", other_keys()
    public, private = pem("PUBLIC KEY", PUBLIC), pem("PRIVATE KEY", PRIVATE)
    for data, words in (
        (b"", "not a PEM file of a public key"),
        (b"hello", "not a PEM file of a public key"),
        (pem("PUBLIC KEY", b"AAAA"), "not a PEM file of a public key"),
        (private, "is a private key, which must not lie on a device"),
        (public + public, "holds 2 keys, but a file holds one"),
        (rsa_public, "RSAPublicKey, not Ed25519"),
        (public + b" " * 70_000, "more than 65536 bytes"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=words) as caught:
            PublicKey.load(path)
        assert "\n" not in str(caught.value)
    for data, words in (
        (b"", "not a PEM file of a private key"),
        (public, "not a PEM file of a private key"),
        (rsa_private, "RSAPrivateKey, not Ed25519"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=words):
            PrivateKey.load(path)
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        PublicKey.load(path)
    os.mkfifo(path)
    with pytest.raises(InputError, match="not a regular file"):
        PublicKey.load(path)


def test_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    assert passphrase_from() is None
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "sésame")
    assert passphrase_from() == "sésame".encode()
    (tmp_path / "p").write_bytes(b"from file\r\nsecond line\n")
    assert passphrase_from(tmp_path / "p") == b"from file"
    (tmp_path / "p").write_bytes(b"\n")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "")
    for path in (tmp_path / "p", None):
        with pytest.raises(InputError, match="is empty"):
            passphrase_from(path)


def test_missing_library_is_an_error_that_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "public.pem").write_bytes(pem("PUBLIC KEY", PUBLIC))
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'immunecam\[sign\]'") as caught:
        PublicKey.load(tmp_path / "public.pem")
    assert caught.value.exit_code == 4
