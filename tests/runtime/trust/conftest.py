"""Keys of a maker and of somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from immunecam.runtime.trust import STATE_VARIABLE, TRUST_VARIABLE, PrivateKey, write_key_pair


@pytest.fixture(autouse=True)
def no_keys_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    monkeypatch.delenv(STATE_VARIABLE, raising=False)
    return


@pytest.fixture
def maker(tmp_path: Path) -> PrivateKey:
    """Private key; its public one lies in `maker.pub.pem`."""
    return write_key_pair(tmp_path / "maker.pem", tmp_path / "maker.pub.pem")


@pytest.fixture
def stranger(tmp_path: Path) -> PrivateKey:
    """Private key; its public one lies in `stranger.pub.pem`."""
    return write_key_pair(tmp_path / "stranger.pem", tmp_path / "stranger.pub.pem")
