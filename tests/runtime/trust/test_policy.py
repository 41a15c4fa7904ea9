"""Which keys hold: an argument, else the environment, and nothing that is set by mistake switches them off."""

from __future__ import annotations

from pathlib import Path

import pytest

from immunecam.errors import InputError, UsageError
from immunecam.runtime.trust import STATE_VARIABLE, TRUST_VARIABLE, PrivateKey, SeenVersions, Trust


def test_nothing_is_demanded_by_default() -> None:
    assert Trust.in_force() is None


def test_environment(tmp_path: Path, maker: PrivateKey, stranger: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    both = f"{tmp_path / 'maker.pub.pem'}:{tmp_path / 'stranger.pub.pem'}"
    monkeypatch.setenv(TRUST_VARIABLE, both)
    found = Trust.in_force()
    assert found is not None
    assert found.keys == (maker.public, stranger.public)
    assert found.versions is None
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "seen.json"))
    found = Trust.in_force()
    assert found is not None
    assert isinstance(found.versions, SeenVersions)
    assert found.versions.path == tmp_path / "seen.json"


def test_an_argument_goes_before_the_environment(
    tmp_path: Path, maker: PrivateKey, stranger: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, str(tmp_path / "maker.pub.pem"))
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "a.json"))
    found = Trust.in_force(tmp_path / "stranger.pub.pem", state=tmp_path / "b.json")
    assert found is not None
    assert found.keys == (stranger.public,)
    assert found.versions is not None
    assert found.versions.path == tmp_path / "b.json"
    found = Trust.in_force([tmp_path / "stranger.pub.pem"])  # the file of versions is still the environment's
    assert found is not None
    assert found.versions is not None
    assert found.versions.path == tmp_path / "a.json"
    ready = Trust((maker.public,))
    assert Trust.in_force(ready) is ready


@pytest.mark.parametrize("text", ["", "  ", "a.pem:", ":a.pem", "a.pem::b.pem"])
def test_an_empty_environment_is_no_permission(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, text)
    with pytest.raises(InputError, match=r"IMMUNECAM_TRUST is .*empty"):
        Trust.in_force()


def test_an_empty_state_is_no_permission(tmp_path: Path, maker: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, "")
    for keys in (None, tmp_path / "maker.pub.pem"):
        with pytest.raises(InputError, match="IMMUNECAM_BUNDLE_STATE is set but empty"):
            Trust.in_force(keys)


def test_no_key_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="give at least one"):
        Trust.in_force([])
    with pytest.raises(UsageError, match="no public key is trusted"):
        Trust.in_force(state=tmp_path / "seen.json")
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "seen.json"))
    with pytest.raises(UsageError, match="no public key is trusted"):
        Trust.in_force()
    monkeypatch.setenv(TRUST_VARIABLE, str(tmp_path / "gone.pem"))
    with pytest.raises(InputError, match=r"gone\.pem cannot be read"):
        Trust.in_force()
