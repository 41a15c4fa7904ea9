"""Fixtures shared by all tests: where the local face data is, if it is there at all, and `cuda.core` on a CPU."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cuda_on_cpu
import pytest

ROOT = Path(__file__).resolve().parents[1]
# Whoever starts the tests in the background of a shell has Ctrl-C ignored, in all processes that tests interrupt, too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(os.environ.get("IMMUNECAM_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command line sets the package's logger up; a test that runs it in this process must not for others."""
    logger = logging.getLogger("immunecam")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real faces, recognisers and clips; the test is skipped where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the local data folder {SHARED_DATA} (set IMMUNECAM_DATA to it)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def stand_in() -> ModuleType:
    """The stand-in's package: `World`, `tensorrt_module`, `small_bundle` and so on."""
    pytest.importorskip("onnx", reason="needs onnx to read graphs (pip install 'immunecam[train]')")
    return importlib.import_module("tensorrt_stand_in")


@pytest.fixture(scope="session")
def kernel_libraries(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Where the CUDA kernels are compiled for the CPU, and those that were."""
    return tmp_path_factory.mktemp("kernels"), {}


@pytest.fixture(params=["10.3.0", "10.16.0", "11.0.0"])
def world(
    request: pytest.FixtureRequest,
    stand_in: ModuleType,
    kernel_libraries: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Any]:
    """A machine with a card and TensorRT of a version, both made up; a second one is set up by `world.move(...)`."""
    assert request.param in stand_in.VERSIONS
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "polygraphy"}

    def arrive(machine: Any) -> None:
        _forget_polygraphy()  # it keeps the first TensorRT that it meets
        monkeypatch.setitem(sys.modules, "tensorrt", stand_in.tensorrt_module(machine))
        core = cuda_on_cpu.Core(*kernel_libraries)
        core.driver.cuDriverGetVersion = lambda: (0, machine.driver)
        if machine.driver:
            card = cuda_on_cpu.card(name=machine.gpu, sm=machine.capability, cooperative=False)
            core.device = cuda_on_cpu.Device(card, limit=lambda: machine.memory)
            core.device.current = machine.current
        core.install(monkeypatch)

    cuda_on_cpu.GraphBuilder.crashes.clear()
    machine = stand_in.World(version=request.param, arrive=arrive)
    machine.move()
    monkeypatch.setenv("IMMUNECAM_CACHE", str(tmp_path / "cache"))
    yield machine
    assert not cuda_on_cpu.GraphBuilder.crashes
    _forget_polygraphy()
    sys.modules.update(before)


def _forget_polygraphy() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "polygraphy"]:
        del sys.modules[name]


@pytest.fixture
def core(kernel_libraries: tuple[Path, dict[str, Any]]) -> Iterator[Any]:
    """`cuda.core` on a CPU, in place of the real one; skipped where its compiler is missing."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    made = cuda_on_cpu.Core(*kernel_libraries)
    cuda_on_cpu.GraphBuilder.crashes.clear()
    with pytest.MonkeyPatch.context() as patch:
        made.install(patch)
        yield made
        assert not cuda_on_cpu.GraphBuilder.crashes
