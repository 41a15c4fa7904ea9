"""The site, built once as `make docs` builds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the built site; a warning of the build fails the test."""
    for module in ("sphinx", "furo", "myst_parser", "numpydoc", "latex2mathml", "ziamath"):
        pytest.importorskip(module, reason="needs what builds the site (pip install 'immunecam[docs]')")
    for module in ("torch", "fastapi", "cryptography"):
        pytest.importorskip(module, reason="the reference imports everything (extras train, gate and serve)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(ROOT / "docs"), str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return folder
