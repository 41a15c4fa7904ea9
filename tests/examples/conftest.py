"""The examples as their users have them: files in a folder, which import each other by name."""

from __future__ import annotations

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def examples() -> Path:
    """Their folder."""
    return EXAMPLES


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a script, the folder of which Python puts first."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
