"""A device with a public key: what it loads, what it refuses, and that signing never leaves a bundle without one."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from immunecam import Purifier
from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.runtime import bundle as bundle_module
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.runtime.bundle_archive import write_archive
from immunecam.runtime.bundle_signer import sign_bundle, signature_of
from immunecam.runtime.plan_record import PlanKey
from immunecam.runtime.plan_writer import store_plans
from immunecam.runtime.trust import STATE_VARIABLE, TRUST_VARIABLE, PrivateKey, Trust, write_key_pair


@pytest.fixture(autouse=True)
def no_keys_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    monkeypatch.delenv(STATE_VARIABLE, raising=False)


@pytest.fixture
def maker(tmp_path: Path) -> PrivateKey:
    return write_key_pair(tmp_path / "maker.pem", tmp_path / "maker.pub.pem")


@pytest.fixture
def stranger(tmp_path: Path) -> PrivateKey:
    return write_key_pair(tmp_path / "stranger.pem", tmp_path / "stranger.pub.pem")


@pytest.fixture
def public(tmp_path: Path, maker: PrivateKey) -> Path:
    return tmp_path / "maker.pub.pem"


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the valid bundle, not signed."""
    return Path(shutil.copytree(bundle.path, tmp_path / "gate.immune"))


@pytest.fixture
def signed(folder: Path, maker: PrivateKey) -> Path:
    sign_bundle(folder, maker, version=2)
    return folder


def refused(path: Path, trust: Any, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        Bundle.load(path, trust=trust)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    for part in parts:
        assert part in message


def plan(bundle: Bundle, gpu: str = "Orin") -> tuple[str, PlanKey, bytes, dict[str, Any]]:
    sha256 = bundle.manifest.files["analyzer.onnx"].sha256
    return "analyzer", PlanKey(sha256, "10.3.0", gpu, "8.7", "12.6", "fp16", (1, 8, 32)), f"plan {gpu}".encode(), {}


def test_signed_bundle_loads(signed: Path, public: Path, maker: PrivateKey, bundle: Bundle) -> None:
    found = Bundle.load(signed, trust=public)
    assert found.signed_by == maker.public
    assert (found.manifest.name, found.manifest.version) == ("gate", 2)
    assert dict(found.files) == dict(bundle.files)
    assert Bundle.load(signed).signed_by is None  # nobody asked
    assert {k: v for k, v in found.manifest.content.items() if k not in ("name", "version")} == dict(
        bundle.manifest.content
    )


def test_unsigned_bundle_does_not(folder: Path, public: Path, maker: PrivateKey) -> None:
    refused(folder, public, "is not signed", maker.public.id, "immunecam bundle sign")
    assert Bundle.load(folder).manifest.version == 0


def test_the_installed_bundle_too(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every load of the process demands a signature, whoever calls it and however."""
    monkeypatch.setenv(TRUST_VARIABLE, str(public))
    unsigned = bundle_module.read_bundle(default_bundle(), None)
    for load in (
        Purifier.load,
        lambda: Purifier.load(default_bundle()),
        lambda: Bundle.load(default_bundle()),
        lambda: Purifier.load(unsigned, provider="cpu"),
    ):
        with pytest.raises(InputError, match=r"is not signed|without a trusted signature"):
            load()


def test_purifier_of_a_signed_bundle(
    signed: Path, public: Path, stranger: PrivateKey, tmp_path: Path, faces: Any
) -> None:
    purifier = Purifier.load(signed, provider="cpu", seed=1, trust=public)
    loaded = Purifier.load(Bundle.load(signed, trust=public), provider="cpu", seed=1, trust=public)
    assert np.array_equal(purifier.purify(faces), loaded.purify(faces))
    with pytest.raises(InputError, match="without a trusted signature"):
        Purifier.load(Bundle.load(signed, trust=public), trust=tmp_path / "stranger.pub.pem")


def test_missing_library_is_no_permission(signed: Path, public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, str(public))
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(BackendMissingError, match=r"immunecam\[sign\]"):
        Bundle.load(signed)
    monkeypatch.delenv(TRUST_VARIABLE)
    Bundle.load(signed)  # a device without keys needs no library


def test_other_key(signed: Path, tmp_path: Path, maker: PrivateKey, stranger: PrivateKey) -> None:
    refused(
        signed, tmp_path / "stranger.pub.pem", f"signed by {maker.public.id}, but only {stranger.public.id} is trusted"
    )


def test_changed_after_signing(signed: Path, public: Path) -> None:
    text = (signed / "manifest.json").read_text()
    (signed / "manifest.json").write_text(text.replace("the tests", "the rests"))
    refused(signed, public, "of another manifest", "changed after it was signed")


def test_signature_of_something_else_under_the_key_s_name(signed: Path, public: Path, stranger: PrivateKey) -> None:
    content = json.loads((signed / "signature.json").read_text())
    id_ = content["signatures"][0]["key"]
    sign_bundle(signed, stranger)
    content = json.loads((signed / "signature.json").read_text())
    content["signatures"] = content["signatures"][:1]
    content["signatures"][0]["key"] = id_
    (signed / "signature.json").write_text(json.dumps(content))
    refused(signed, public, "does not fit its manifest")


def test_the_prefix_keeps_other_signatures_of_the_key_out(signed: Path, public: Path, maker: PrivateKey) -> None:
    """A maker may sign other things with the key; none of them passes for a bundle."""
    content = json.loads((signed / "signature.json").read_text())
    plain = maker.sign((signed / "manifest.json").read_bytes())
    content["signatures"][0]["signature"] = base64.b64encode(plain).decode()
    (signed / "signature.json").write_text(json.dumps(content))
    refused(signed, public, "does not fit its manifest")


def test_signature_comes_before_the_manifest_is_parsed(
    signed: Path, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a manifest that is no JSON is refused for its signature."""
    parsed = []
    genuine = bundle_module.BundleManifest.from_bytes
    monkeypatch.setattr(
        bundle_module.BundleManifest, "from_bytes", lambda raw, where: parsed.append(raw) or genuine(raw, where)
    )
    (signed / "manifest.json").write_bytes(b"[" * 1000)
    refused(signed, public, "of another manifest")
    assert not parsed
    with pytest.raises(InputError, match="not valid JSON"):
        Bundle.load(signed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format="x"), "no signature file"),
        (lambda c: c.update(format_version=2), "format version 2"),
        (lambda c: c.update(format_version=True), "format version True"),
        (lambda c: c.update(signatures={}), "must be a list of at most 16"),
        (lambda c: c.update(signatures=[]), "signed by nobody"),
        (lambda c: c.update(signatures=c["signatures"] * 17), "must be a list of at most 16"),
        (lambda c: c["signatures"].append(3), r"signatures[1] must be an object"),
        (lambda c: c["signatures"][0].update(algorithm="ed448"), "signed by nobody"),
        (lambda c: c["signatures"][0].update(algorithm=None), "must be an object"),
        (lambda c: c["signatures"][0].update(key="A" * 16), "16 lower-case"),
        (lambda c: c["signatures"][0].update(manifest_sha256=0), "64 lower-case"),
        (lambda c: c["signatures"][0].update(signature="AAAA"), "64 bytes in base64"),
        (lambda c: c["signatures"][0].update(signature="é" * 88), "64 bytes in base64"),
        (lambda c: c["signatures"][0].update(signature=None), "64 bytes in base64"),
    ],
)
def test_signature_file_that_is_wrong(signed: Path, public: Path, change: Callable[[Any], Any], words: str) -> None:
    content = json.loads((signed / "signature.json").read_text())
    change(content)
    (signed / "signature.json").write_text(json.dumps(content))
    refused(signed, public, words)
    Bundle.load(signed)  # without a key the signature is not looked at


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[" * 60_000, b"[]", b" " * 70_000])
def test_signature_file_that_is_none(signed: Path, public: Path, raw: bytes) -> None:
    (signed / "signature.json").write_bytes(raw)
    refused(signed, public, "signature.json of the bundle")


def test_keys_are_rotated(signed: Path, tmp_path: Path, maker: PrivateKey, stranger: PrivateKey, public: Path) -> None:
    """Signed by the old and the new key, a bundle loads on every device; devices may trust both for a while."""
    new = tmp_path / "stranger.pub.pem"
    sign_bundle(signed, stranger)
    assert Bundle.load(signed, trust=public).signed_by == maker.public
    assert Bundle.load(signed, trust=new).signed_by == stranger.public
    sign_bundle(signed, stranger, version=3)  # the old key did not sign this
    refused(signed, public, "of another manifest")
    assert Bundle.load(signed, trust=[public, new]).signed_by == stranger.public


def test_signing_twice_changes_nothing(signed: Path, maker: PrivateKey) -> None:
    before = {path.name: path.read_bytes() for path in signed.iterdir()}
    sign_bundle(signed, maker)
    assert {path.name: path.read_bytes() for path in signed.iterdir()} == before
    assert signature_of(signed) == before["signature.json"]


def test_only_whole_bundles_are_signed(folder: Path, maker: PrivateKey) -> None:
    (folder / "analyzer.onnx").write_bytes(b"other")
    with pytest.raises(InputError, match=r"analyzer\.onnx has"):
        sign_bundle(folder, maker)
    assert not (folder / "signature.json").exists()


def test_name_and_version(signed: Path, maker: PrivateKey, public: Path) -> None:
    with pytest.raises(UsageError, match=r"The version is 1, but .* has version 2 already: give 2 or more"):
        sign_bundle(signed, maker, version=1)
    for wrong in ({"name": "a/b"}, {"name": "x" * 101}, {"version": 2**53}):
        with pytest.raises(UsageError, match=r"must be .*: give --name and --version such"):
            sign_bundle(signed, maker, **wrong)  # type: ignore[arg-type]
    assert Bundle.load(signed, trust=public).manifest.version == 2
    assert sign_bundle(signed, maker, name="lobby").manifest.name == "lobby"


@pytest.mark.parametrize(
    ("key", "value"),
    [("version", -1), ("version", True), ("version", "3"), ("version", 2**53), ("name", 3), ("name", "/")],
)
def test_wrong_name_or_version_in_a_manifest(folder: Path, key: str, value: Any) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {key: value}))
    with pytest.raises(InputError, match=f"{key} is "):
        Bundle.load(folder)


def test_signature_may_not_be_a_listed_file(signed: Path) -> None:
    content = json.loads((signed / "manifest.json").read_text())
    content["files"]["signature.json"] = content["files"]["analyzer.onnx"]
    (signed / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"must be plain.*not manifest\.json or signature\.json"):
        Bundle.load(signed)


def test_bundle_written_signed(parts: Any, tmp_path: Path, public: Path, maker: PrivateKey) -> None:
    place = tmp_path / "new.immune"
    written = parts().write(place, version=7, sign=maker)
    assert (written.manifest.name, written.manifest.version) == ("new", 7)
    assert Bundle.load(place, trust=public).sha256 == written.sha256
    with pytest.raises(UsageError, match="is signed and the new one would not be"):
        parts().write(place, overwrite=True)
    # A device that has seen version 7 must be able to load what replaces it.
    assert parts(whole=False).write(place, overwrite=True, sign=maker).manifest.version == 7
    assert parts().write(place, overwrite=True, sign=maker, version=8).manifest.version == 8
    parts().write(place, overwrite=True, drop_signature=True)
    assert not (place / "signature.json").exists()


def test_writing_where_keys_are_demanded(
    parts: Any, tmp_path: Path, public: Path, maker: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A maker's machine that demands signatures can still write what it is about to sign; it does not load it."""
    monkeypatch.setenv(TRUST_VARIABLE, str(public))
    place = parts().write(tmp_path / "new.immune").path
    refused(place, None, "is not signed")
    sign_bundle(place, maker)
    assert Bundle.load(place).signed_by == maker.public


def test_manifest_without_end(signed: Path, public: Path) -> None:
    with open(signed / "manifest.json", "ab") as stream:
        stream.write(b" " * 2**22)
    for trust in (None, public):
        refused(signed, trust, "has more than 4194304 bytes")


def test_leftovers_of_a_killed_process_go(signed: Path, maker: PrivateKey) -> None:
    (signed / ".manifest.json.999.partial").write_bytes(b"half")
    sign_bundle(signed, maker, version=3)
    assert not list(signed.glob(".*"))


# Rollback


def test_an_older_bundle_does_not_load(signed: Path, tmp_path: Path, public: Path, maker: PrivateKey) -> None:
    old = Path(shutil.copytree(signed, tmp_path / "old.immune"))
    trust = Trust.load(public, state=tmp_path / "seen.json")
    assert Bundle.load(old, trust=trust).manifest.version == 2
    sign_bundle(signed, maker, version=5)
    assert Bundle.load(signed, trust=trust).manifest.version == 5
    # Its folder's name does not matter: the signed name does.
    refused(old, trust, "is version 2 of 'gate', but this device has seen version 5", "install version 5 or later")
    archive = tmp_path / "lobby.immune"
    found = Bundle.load(old)
    write_archive(archive, found.manifest_bytes, signature_of(old), found.files)
    refused(archive, trust, "has seen version 5")
    assert Bundle.load(old, trust=Trust((maker.public,))).manifest.version == 2  # nothing was to be remembered
    assert Bundle.load(signed, trust=trust).manifest.version == 5


def test_a_damaged_new_bundle_does_not_lock_the_old_one_out(
    signed: Path, tmp_path: Path, public: Path, maker: PrivateKey
) -> None:
    trust = Trust.load(public, state=tmp_path / "seen.json")
    Bundle.load(signed, trust=trust)
    new = Path(shutil.copytree(signed, tmp_path / "new.immune"))
    sign_bundle(new, maker, version=9)
    (new / "analyzer.onnx").write_bytes(b"half")
    refused(new, trust, "analyzer.onnx")
    assert Bundle.load(signed, trust=trust).manifest.version == 2


def test_rollback_over_a_rotated_key(signed: Path, tmp_path: Path, maker: PrivateKey, stranger: PrivateKey) -> None:
    keys = [tmp_path / "maker.pub.pem", tmp_path / "stranger.pub.pem"]
    trust = Trust.load(keys, state=tmp_path / "seen.json")
    old = Path(shutil.copytree(signed, tmp_path / "old.immune"))
    sign_bundle(signed, stranger, version=3)
    Bundle.load(signed, trust=trust)
    refused(old, trust, "has seen version 3")


# Plans


def test_plans_are_covered(signed: Path, public: Path, maker: PrivateKey) -> None:
    trust = Trust.load(public)
    stored = store_plans(Bundle.load(signed, trust=trust), [plan(Bundle.load(signed))], sign=maker, trust=trust)
    assert stored.signed_by == maker.public
    assert stored.manifest.version == 2
    file = stored.manifest.plans[0].file
    (signed / file).write_bytes(b"plan Evil")
    refused(signed, public, file, "SHA-256")
    # With the manifest to match, only the signature can tell.
    content = json.loads((signed / "manifest.json").read_text())
    content["files"][file]["sha256"] = hashlib.sha256(b"plan Evil").hexdigest()
    (signed / "manifest.json").write_text(json.dumps(content))
    assert Bundle.load(signed).files[file] == b"plan Evil"
    refused(signed, public, "of another manifest")


def test_storing_plans_never_loses_a_signature_unasked(
    signed: Path, public: Path, maker: PrivateKey, stranger: PrivateKey
) -> None:
    before = {path.name: path.read_bytes() for path in signed.iterdir()}
    found = Bundle.load(signed)
    trust = Trust.load(public)
    for options, words in (
        ({}, "is signed, and plans change what was signed"),
        ({"drop_signature": True, "trust": trust}, "would be unsigned, but only"),
        ({"sign": stranger, "trust": trust}, f"would be signed by {stranger.public.id}, but only"),
        ({"sign": maker, "drop_signature": True}, "--sign or --drop-signature"),
    ):
        with pytest.raises(UsageError, match=words):
            store_plans(found, [plan(found)], **options)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in signed.iterdir()} == before
    dropped = store_plans(found, [plan(found)], drop_signature=True)
    assert dropped.manifest.plans
    assert not (signed / "signature.json").exists()


def test_plans_and_archives(signed: Path, tmp_path: Path) -> None:
    found = Bundle.load(signed)
    write_archive(tmp_path / "a.immune", found.manifest_bytes, None, found.files)
    packed = Bundle.load(tmp_path / "a.immune")
    with pytest.raises(UsageError, match="is an archive, but plans"):
        store_plans(packed, [plan(packed)])


def test_what_changed_meanwhile_is_not_signed(signed: Path, maker: PrivateKey) -> None:
    """While plans are built for minutes, somebody may change the folder: that must not get the maker's signature."""
    found = Bundle.load(signed)
    content = json.loads((signed / "manifest.json").read_text())
    content["options"] = {"weaker": True}
    (signed / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="was changed while its plans were built"):
        store_plans(found, [plan(found)], sign=maker)
    with pytest.raises(InputError, match="of another manifest"):
        store_plans(found, [plan(found)], sign=maker, trust=Trust((maker.public,)))


@pytest.mark.parametrize("when", [1, 2, 3])
def test_a_failing_write_keeps_bundle_and_signature(
    signed: Path, public: Path, maker: PrivateKey, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    """At the plan, at the signature and at the manifest."""
    before = {path.name: path.read_bytes() for path in signed.iterdir()}
    calls: list[int] = []

    def fails(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == when:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    found = Bundle.load(signed)
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(InputError, match="No space left"):
        store_plans(found, [plan(found)], sign=maker)
    assert {path.name: path.read_bytes() for path in signed.iterdir()} == before
    Bundle.load(signed, trust=public)


SIGN = """
import sys
from immunecam.runtime.bundle_signer import sign_bundle
from immunecam.runtime.trust import PrivateKey
key, version = PrivateKey.load(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
while True:
    version += 1
    sign_bundle(sys.argv[1], key, version=version)
    print(version, flush=True)
"""


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_killed_while_signing(signed: Path, tmp_path: Path, public: Path, form: str) -> None:
    """Whenever it is killed, the bundle has a signature that holds: the old one or the new one."""
    place, draw = signed, random.Random(3)
    if form == "archive":
        found = Bundle.load(signed)
        place = tmp_path / "packed.immune"
        write_archive(place, found.manifest_bytes, signature_of(signed), found.files)
    version = 2
    for _ in range(8):
        command = [sys.executable, "-c", SIGN, str(place), str(tmp_path / "maker.pem"), str(version)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            assert process.stdout.readline().strip() == str(version + 1)
            time.sleep(draw.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            said = [version + 1, *(int(line) for line in process.stdout.read().splitlines() if line.isdigit())]
        version = Bundle.load(place, trust=public).manifest.version
        assert version in (said[-1], said[-1] + 1)
