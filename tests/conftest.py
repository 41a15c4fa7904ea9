"""Fixtures shared by all tests: where the local face data is, if it is there at all, and `cuda.core` on a CPU."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
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


def _stand_in() -> ModuleType:
    """The package of the stand-in for TensorRT, which lies beside this file and is imported nowhere else."""
    folder = Path(__file__).with_name("tensorrt_stand_in")
    spec = importlib.util.spec_from_file_location(
        "tensorrt_stand_in", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    if not hasattr(package, "VERSIONS"):
        spec.loader.exec_module(package)
    return package


@pytest.fixture(scope="session")
def stand_in() -> ModuleType:
    """The stand-in's package: `World`, `tensorrt_module`, `small_bundle` and so on."""
    pytest.importorskip("onnx", reason="needs onnx to read graphs (pip install 'immunecam[train]')")
    return _stand_in()


@pytest.fixture(params=["10.3.0", "10.16.0", "11.0.0"])
def world(request: pytest.FixtureRequest, stand_in: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A machine with a card and TensorRT of a version, both made up; a second one is set up by `world.move(...)`."""
    assert request.param in stand_in.VERSIONS
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("polygraphy", "cuda")}

    def arrive(machine) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("polygraphy", "cuda")]:
            del sys.modules[name]  # Polygraphy keeps the first TensorRT that it meets
        monkeypatch.setitem(sys.modules, "tensorrt", stand_in.tensorrt_module(machine))
        sys.modules.update(stand_in.cuda_modules(machine))

    machine = stand_in.World(version=request.param, arrive=arrive)
    machine.move()
    monkeypatch.setenv("IMMUNECAM_CACHE", str(tmp_path / "cache"))
    yield machine
    for name in [name for name in sys.modules if name.partition(".")[0] in ("polygraphy", "cuda")]:
        del sys.modules[name]
    sys.modules.update(before)


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
