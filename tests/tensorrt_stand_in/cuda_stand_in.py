"""`cuda.core` and `cuda.bindings` with a card that is the host, for what allocates, copies and asks for the driver."""

from __future__ import annotations

import ctypes
import threading
import types

import numpy as np

from .world import World


class Buffer:
    """Host memory with a guard behind it, aligned as a card's and poisoned as fresh memory of one is."""

    def __init__(self, size):
        self._room = np.full(size + 512, 0xA5, np.uint8)
        start = -self._room.ctypes.data % 256
        self._bytes, self.size = self._room[start:], size
        self.handle = self._bytes.ctypes.data

    def copy_to(self, other, *, stream):
        assert other.size == self.size, "cuda.core copies whole buffers of one size"
        ctypes.memmove(other.handle, self.handle, self.size)

    def fill(self, value, *, stream):
        self._bytes[: self.size] = value

    def close(self):
        assert (self._bytes[self.size :] == 0xA5).all(), "something wrote beyond its buffer"


class _Memory:
    def __init__(self, world):
        self._world = world

    def allocate(self, size, *, stream=None):
        if size > self._world.memory:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: the API call failed")
        return Buffer(size)


class Stream:
    """Work is done when it is launched; the handle is one that nothing else has."""

    _next = 0x1000

    def __init__(self):
        Stream._next += 16
        self.handle = Stream._next

    def sync(self):
        pass

    def close(self):
        pass


def cuda_modules(world: World) -> dict[str, types.ModuleType]:
    """Modules for `sys.modules`, by name."""
    core, bindings = types.ModuleType("cuda.core"), types.ModuleType("cuda.bindings")
    driver, package = types.ModuleType("cuda.bindings.driver"), types.ModuleType("cuda")

    class Device:
        def __init__(self, ordinal=None):
            if world.driver == 0:
                raise RuntimeError("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected")
            self.name, self.compute_capability = world.gpu, world.capability
            self.memory_resource = _Memory(world)
            self.properties = types.SimpleNamespace(
                multiprocessor_count=4, max_shared_memory_per_block_optin=232_448, cooperative_launch=1, integrated=0
            )

        def set_current(self):
            world.current.add(threading.get_ident())

        def create_stream(self):
            return Stream()

    core.Device, core.LegacyPinnedMemoryResource = Device, lambda: _Memory(world)
    driver.cuDriverGetVersion = lambda: (0, world.driver)
    package.core, package.bindings, bindings.driver = core, bindings, driver
    return {"cuda": package, "cuda.core": core, "cuda.bindings": bindings, "cuda.bindings.driver": driver}
