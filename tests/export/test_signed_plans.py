"""TensorRT plans into a signed bundle, on the stand-in: signed anew, or refused before the long build."""

from __future__ import annotations

import pytest

from immunecam.cli import _run
from immunecam.errors import InputError, UsageError
from immunecam.export.build_options import BuildOptions
from immunecam.export.to_trt import export_plans, main
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.bundle_signer import sign_bundle
from immunecam.runtime.engines import TensorRTEngine
from immunecam.runtime.trust import STATE_VARIABLE, TRUST_VARIABLE, write_key_pair

QUICK = BuildOptions(precision="fp32", batch=(1, 2, 4))


@pytest.fixture(autouse=True)
def no_keys_of_this_machine(monkeypatch):
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    monkeypatch.delenv(STATE_VARIABLE, raising=False)


@pytest.fixture
def maker(tmp_path):
    return write_key_pair(tmp_path / "maker.pem", tmp_path / "maker.pub.pem")


@pytest.fixture
def signed(stand_in, tmp_path, maker):
    bundle = stand_in.small_bundle(tmp_path / "a.immune")
    return sign_bundle(bundle.path, maker, version=4).path


@pytest.fixture
def faces(stand_in, tmp_path):
    return stand_in.crops(tmp_path / "faces")


def test_plans_are_signed_and_checked_before_use(world, signed, maker, faces, tmp_path, monkeypatch):
    public = tmp_path / "maker.pub.pem"
    monkeypatch.setenv(TRUST_VARIABLE, str(public))  # as on the device where they are built
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "seen.json"))
    stored, _ = export_plans(signed, QUICK, faces=faces, sign=maker)
    assert stored.signed_by == maker.public
    assert stored.manifest.version == 4
    assert [plan.role for plan in stored.manifest.plans] == ["analyzer", "restorer"]
    TensorRTEngine.from_bundle(Bundle.load(signed)).close()
    plan = signed / stored.manifest.plans[0].file
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    with pytest.raises(InputError, match=r"\.plan has the SHA-256 .* changed or damaged"):
        Bundle.load(signed)


def test_refused_before_anything_is_built(world, signed, faces, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in signed.iterdir()}
    stranger = write_key_pair(tmp_path / "s.pem", tmp_path / "s.pub.pem")
    with pytest.raises(UsageError, match="is signed, and plans change what was signed"):
        export_plans(signed, QUICK, faces=faces)
    monkeypatch.setenv(TRUST_VARIABLE, str(tmp_path / "maker.pub.pem"))
    for options in ({"sign": stranger}, {"drop_signature": True}):
        with pytest.raises(UsageError, match=r"but only .* is trusted here"):
            export_plans(signed, QUICK, faces=faces, **options)
    assert world.built == []
    assert {path.name: path.read_bytes() for path in signed.iterdir()} == before


@pytest.mark.parametrize("world", ["10.3.0"], indirect=True)
def test_commands(world, signed, maker, faces, tmp_path, capsys):
    key = str(tmp_path / "maker.pem")
    given = [str(signed), "--faces", str(faces), "--batch", "1,2,4", "--precision", "fp32"]
    assert main(given) == 2
    assert main([*given, "--sign", key]) == 0
    assert Bundle.load(signed, trust=tmp_path / "maker.pub.pem").manifest.plans
    assert maker.public.id in capsys.readouterr().out
    command = ["export", *given, "--target", "tensorrt"]
    assert _run(command) == 2
    assert _run([*command, "--sign", key, "--trust", str(tmp_path / "maker.pub.pem")]) == 0
    assert _run([*command, "--check", "--sign", key]) == 2
    assert _run([*command, "--passphrase-file", key]) == 2
    assert _run([*command, "--bundle-version", "3"]) == 2  # of the other target
    assert _run([*command, "--batch", "1,2,3", "--drop-signature"]) == 0
    assert not (signed / "signature.json").exists()
    assert "Traceback" not in capsys.readouterr().err
