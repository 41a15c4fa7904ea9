"""Fixtures shared by all tests: where the local face data is, if it is there at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("IMMUNECAM_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real faces, recognisers and clips; the test is skipped where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the local data folder {SHARED_DATA} (set IMMUNECAM_DATA to it)")
    return SHARED_DATA
