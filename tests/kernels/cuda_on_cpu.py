"""The kernels' own sources compiled for the CPU, and a stand-in for the part of cuda.core that launches them.

It runs the real launchers and the real kernels, thread by thread, so wrong indices, sizes, arguments and barriers are
found without a GPU. It is no GPU test: memory model, intrinsics and speed are a card's own.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import types
from pathlib import Path

import numpy as np

from immunecam.kernels.cuda import Card, source
from immunecam.kernels.cuda.sources import KERNELS, SOURCES

HEADER = Path(__file__).with_name("cuda_on_cpu.hpp")
_SCALARS = {
    "int": (np.int32, "int"),
    "uint32": (np.uint32, "unsigned"),
    "uint64": (np.uint64, "unsigned long long"),
}


def signatures(name):
    """Parameter types of every kernel of a translation unit, by kernel."""
    text = source(name).replace("\\\n", " ")
    formats = dict(re.findall(r"^PROJECT\w*\((\w+), (\w+)\)$", text, re.MULTILINE))
    found = {}
    for match in re.finditer(
        r'extern "C" __global__ void(?:\s*__launch_bounds__\([^)]*\))?\s*(\w+?)(##NAME)?\(([^)]*)\)', text
    ):
        for label, real in formats.items() if match[2] else [("", "")]:
            types_ = []
            for parameter in match[3].split(","):
                kind = re.sub(r"\s*\b\w+\s*$", "", parameter.strip()).replace("const ", "").strip()
                types_.append("B*" if kind == "B*" else kind)
            found[match[1] + label] = [real + "*" if t == "B*" else t for t in types_]
    return found


SIGNATURES = {kernel: types_ for name in SOURCES for kernel, types_ in signatures(name).items()}


def compiled(name, folder):
    """A translation unit as a shared library with `run_KERNEL(x, y, threads, shared, together, arguments)`."""
    text = source(name)
    text = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1* \2 = reinterpret_cast<\1*>(cpu::dynamic_shared);", text)
    text = re.sub(r'asm\("cvt\.f32\.f16.*?\);', "result = cpu::from_half(value.bits);", text)
    text = re.sub(r"^#pragma unroll.*$", "", text, flags=re.MULTILINE)
    runs = []
    for kernel in (k for k, unit in KERNELS.items() if unit == name):
        given = ", ".join(f"*static_cast<{kind}*>(a[{i}])" for i, kind in enumerate(SIGNATURES[kernel]))
        runs.append(
            f'extern "C" void run_{kernel}(unsigned x, unsigned y, unsigned threads, size_t shared, int together, '
            f"void** a) {{ cpu::run_grid(x, y, threads, shared, together, [=] {{ {kernel}({given}); }}); }}"
        )
    file = folder / f"{name}.cpp"
    file.write_text(f'#include "{HEADER}"\n{text}\n' + "\n".join(runs))
    library = folder / f"{name}.so"
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-pthread", "-Wno-unknown-pragmas", "-o", library, file]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[:3000]
    return ctypes.CDLL(str(library))


class Buffer:
    """Host memory with a guard behind it, poisoned as fresh memory of a card is."""

    def __init__(self, size):
        self.bytes = np.full(size + 64, 0xA5, np.uint8)
        self.size, self.handle, self.closed = size, self.bytes.ctypes.data, False

    def view(self, dtype, *shape):
        return self.bytes[: self.size].view(dtype)[: int(np.prod(shape))].reshape(shape)

    def __dlpack__(self, **_):
        return self.bytes[: self.size].__dlpack__()

    def __dlpack_device__(self):
        return (1, 0)

    def copy_to(self, other, *, stream):
        assert other.size == self.size, "cuda.core copies whole buffers of one size"
        other.bytes[: self.size] = self.bytes[: self.size]

    def fill(self, value, *, stream):
        self.bytes[: self.size] = value

    def close(self):
        assert (self.bytes[self.size :] == 0xA5).all(), "a kernel wrote beyond its buffer"
        self.closed = True


class Memory:
    def __init__(self, limit=None):
        self.limit = limit

    def allocate(self, size, *, stream=None):
        if self.limit is not None and size > self.limit:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: the API call failed")
        return Buffer(size)


class Stream:
    def sync(self):
        pass


class Programs:
    """In place of `immunecam.kernels.cuda.Programs`: a kernel is its own name."""

    def __init__(self, card, limit=None):
        self.card = card
        self.device = types.SimpleNamespace(memory_resource=Memory(limit))

    def kernel(self, name):
        return name


def card(multiprocessors=4, shared_memory=100_000, *, cooperative=True):
    return Card("a CPU", (9, 0), multiprocessors, shared_memory, cooperative, False)


class Core(types.ModuleType):
    """In place of `cuda.core`, with the members that launchers use; every launch is checked against the source."""

    def __init__(self, folder):
        super().__init__("cuda.core")
        self._libraries, self._folder, self.launched = {}, folder, []
        self.LegacyPinnedMemoryResource = Memory

    class LaunchConfig:
        def __init__(self, *, grid, block, shmem_size=0, is_cooperative=False):
            assert all(x >= 1 for x in grid)
            assert grid[1] <= 65535
            assert 1 <= block <= 1024
            self.grid, self.block, self.shmem_size, self.is_cooperative = grid, block, shmem_size, is_cooperative

    def launch(self, stream, config, kernel, *arguments):
        wanted = SIGNATURES[kernel]
        assert len(arguments) == len(wanted), f"{kernel} takes {len(wanted)} arguments, got {len(arguments)}"
        cells = []
        for argument, kind in zip(arguments, wanted, strict=True):
            if kind.endswith("*"):
                assert type(argument) is int, f"{kernel}: {argument!r} for {kind}"
                cells.append(ctypes.c_uint64(argument))
            else:
                assert type(argument) is _SCALARS[kind][0], f"{kernel}: {argument!r} for {kind}"
                cells.append(np.ctypeslib.as_ctypes_type(_SCALARS[kind][0])(int(argument)))
        name = KERNELS[kernel]
        if name not in self._libraries:
            self._libraries[name] = compiled(name, self._folder)
        pointers = (ctypes.c_void_p * len(cells))(*(ctypes.addressof(cell) for cell in cells))
        self.launched.append((kernel, config))
        getattr(self._libraries[name], f"run_{kernel}")(
            ctypes.c_uint(config.grid[0]), ctypes.c_uint(config.grid[1]), ctypes.c_uint(config.block),
            ctypes.c_size_t(config.shmem_size), ctypes.c_int(config.is_cooperative), pointers,
        )  # fmt: skip
