"""Fixtures shared by all tests: where the local face data is, if it is there at all, and `cuda.core` on a CPU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cuda_on_cpu
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("IMMUNECAM_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real faces, recognisers and clips; the test is skipped where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the local data folder {SHARED_DATA} (set IMMUNECAM_DATA to it)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def kernel_libraries(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Where the CUDA kernels are compiled for the CPU, and those that were."""
    return tmp_path_factory.mktemp("kernels"), {}


@pytest.fixture
def core(kernel_libraries: tuple[Path, dict[str, Any]]) -> Iterator[Any]:
    """`cuda.core` on a CPU, in place of the real one; skipped where its compiler is missing."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    made = cuda_on_cpu.Core(*kernel_libraries)
    with pytest.MonkeyPatch.context() as patch:
        made.install(patch)
        yield made
