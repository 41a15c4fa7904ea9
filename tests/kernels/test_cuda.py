"""What a machine without a GPU can say of the CUDA kernels: that they compile, and keep everything in registers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "kernels" / "cuda"
NVCC = shutil.which("nvcc")


def _architectures() -> list[str]:
    """Those of the project that this compiler knows."""
    if NVCC is None:
        return []
    known = subprocess.run([NVCC, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    return [a for a in ("75", "80", "86", "87", "89", "90", "100", "110", "120") if f"compute_{a}" in known]


def test_sources_need_no_header_of_the_toolkit():
    """NVRTC may have no include folder where kernels are compiled at first use."""
    sources = [path.read_text() for path in SOURCES.iterdir()]
    assert sources
    assert not any("#include <" in source for source in sources)


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("source", sorted(path.name for path in SOURCES.glob("*.cu")))
def test_kernels_compile_without_warnings_spills_or_local_arrays(source, tmp_path):
    architectures = _architectures()
    assert "90" in architectures
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    result = subprocess.run(
        [
            NVCC,
            *targets,
            "-std=c++17",
            "-Werror",
            "all-warnings",
            "-Xptxas",
            "-v",
            "-fatbin",
            "-o",
            tmp_path / "x",
            SOURCES / source,
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", result.stderr)
    assert len(frames) >= len(architectures)
    assert set(frames) == {("0", "0", "0")}
