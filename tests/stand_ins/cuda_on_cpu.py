"""The kernels' own sources compiled for the CPU, and a stand-in for the part of cuda.core that the package uses.

It runs the real launchers and the real kernels, thread by thread, so wrong indices, sizes, arguments and barriers are
found without a GPU. A stream does nothing until somebody waits for it, so memory that is written or read too early
shows; a graph repeats what was captured at the same addresses with the same arguments. It is no GPU test: memory
model, intrinsics, real concurrency and speed are a card's own.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import subprocess
import sys
import tempfile
import threading
import types
import weakref
from pathlib import Path
from typing import ClassVar

import numpy as np

from immunecam.kernels.cuda import Card, Programs, source
from immunecam.kernels.cuda.sources import KERNELS, SOURCES

HEADER = Path(__file__).with_name("cuda_on_cpu.hpp")
STREAMS = weakref.WeakValueDictionary()
"""Those that are alive by handle, for libraries that are given nothing else."""
_SCALARS = {
    "int": (np.int32, "int"),
    "uint32": (np.uint32, "unsigned"),
    "uint64": (np.uint64, "unsigned long long"),
}

# PTX of the functions that wrap one instruction each, and what stands for it.
INSTRUCTIONS = {
    "cvt.f32.f16 ": "result = cpu::from_half(value.bits);",
    "cvt.rn.f16.f32 ": "bits = cpu::to_half(value);",
    "sub.f16x2 ": "result = cpu::minus_halves(a, b);",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 ": "cpu::load_matrices(found, row, false);",
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 ": "cpu::load_matrices(found, row, true);",
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 ": "cpu::multiply_add(sum, a, b0, b1);",
    "cp.async.cg.shared.global [%0], [%1], 16, %2;": "cpu::copy_later(shared, global, wanted ? 16 : 0);",
    "cp.async.commit_group;": "cpu::commit_copies();",
    "cp.async.wait_group %0;": "cpu::wait_for_copies(kPending);",
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
    for instruction, stand_in in INSTRUCTIONS.items():
        text = re.sub(rf'asm(?: volatile)?\("{re.escape(instruction)}[^"]*"[^;]*\);', stand_in, text)
    # A block that waits for others leaves them the core.
    text = text.replace("while (*generation == mine) {", "while (*generation == mine) {\n std::this_thread::yield();")
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
    command = [
        "g++",
        "-std=c++17",
        "-O2",
        "-fPIC",
        "-shared",
        "-pthread",
        "-U_FORTIFY_SOURCE",
        "-Wno-unknown-pragmas",
        "-o",
        library,
        file,
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[:3000]
    return ctypes.CDLL(str(library))


class Buffer:
    """Host memory with a guard behind it, aligned as a card's, poisoned as fresh memory of one is, and again when it
    is given back."""

    def __init__(self, size, memory=None):
        room = np.full(size + 320, 0xA5, np.uint8)
        self.bytes = room[-room.ctypes.data % 256 :][: size + 64]
        self.size, self.handle, self.owner, self.memory = size, self.bytes.ctypes.data, None, memory
        self.closed = False

    @staticmethod
    def from_handle(address, size, *, owner=None):
        assert type(address) is int
        view = object.__new__(Buffer)
        view.bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        view.size, view.handle, view.owner, view.memory, view.closed = size, address, owner, None, False
        return view

    def view(self, dtype, *shape):
        return self.bytes[: self.size].view(dtype)[: int(np.prod(shape))].reshape(shape)

    def __dlpack__(self, **_):
        return self.bytes[: self.size].__dlpack__()

    def __dlpack_device__(self):
        return (1, 0)

    def copy_to(self, other, *, stream):
        assert other.size == self.size, "cuda.core copies whole buffers of one size"
        assert not self.closed
        assert not other.closed
        stream.enqueue(lambda: ctypes.memmove(other.handle, self.handle, self.size), keep=(self, other))

    def fill(self, value, *, stream):
        assert not self.closed
        stream.enqueue(lambda: ctypes.memset(self.handle, value, self.size), keep=(self,))

    def close(self):
        if self.closed or self.owner is not None:
            return
        self.closed = True
        assert (self.bytes[self.size :] == 0xA5).all(), "a kernel wrote beyond its buffer"
        if self.memory is not None:
            self.memory.free(self)
            self.bytes[: self.size] = 0xDD

    def __del__(self):
        if not self.closed and self.owner is None and self.memory is not None:
            self.memory.free(self)


class Memory:
    """A memory resource; `limit` bytes (a number, or who tells it) may be taken at a time. Nothing goes back to the
    system before it does itself, so that a stale address finds poison."""

    def __init__(self, limit=None, core=None):
        self.limit, self.used, self._kept, self._core = limit, 0, [], core

    def allocate(self, size, *, stream=None):
        assert stream is None or getattr(stream, "capturing", None) is None
        for owner in (stream, self._core):
            if owner is not None and owner.device is not None:
                owner.device.check_current()
        limit = self.limit() if callable(self.limit) else self.limit
        if limit is not None and self.used + size > limit:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: the API call failed")
        self.used += size
        buffer = Buffer(size, self)
        self._kept.append(buffer.bytes)
        return buffer

    def free(self, buffer):
        self.used -= buffer.size


class Event:
    """Done once the stream has come to it."""

    def __init__(self):
        self.stream, self.mark = None, 0

    def sync(self):
        if self.stream is not None:
            self.stream.run(self.mark)


class Stream:
    """Work in order. It is done at once, or, of a lazy stream, when somebody waits."""

    _handles = itertools.count(1000)

    def __init__(self, device=None, *, lazy=False):
        self.device, self.lazy, self.closed = device, lazy, False
        self.capturing, self.invalidated = None, False
        self.handle = next(Stream._handles)
        STREAMS[self.handle] = self
        self._waiting, self._done, self._asked, self._lock = [], 0, 0, threading.RLock()

    def enqueue(self, work, *, keep=()):
        assert not self.closed
        if self.device is not None:
            self.device.check_current()
        with self._lock:
            if self.capturing is not None:
                if self.invalidated:
                    raise RuntimeError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: a previous error invalidated it")
                self.capturing.graph.nodes.append((work, keep))
                return
            self._waiting.append((work, keep))
            self._asked += 1
            if not self.lazy:
                self.run(self._asked)

    def run(self, until):
        with self._lock:
            while self._done < until:
                work, _ = self._waiting.pop(0)
                self._done += 1
                work()

    def sync(self):
        if self.capturing is not None:
            self.invalidated = True
            raise RuntimeError(
                "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: operation not permitted when stream is capturing"
            )
        self.run(self._asked)

    def wait(self, other):
        until = other._asked
        self.enqueue(lambda: other.run(until))

    def record(self, event=None, options=None):
        assert self.capturing is None
        event = Event() if event is None else event
        event.stream, event.mark = self, self._asked
        return event

    def end_capture(self):
        """As the driver does it: the result's number and the graph, which is destroyed where a call has invalidated
        the capture."""
        if self.capturing is None:
            return 401, None  # CUDA_ERROR_ILLEGAL_STATE
        graph, spoiled = self.capturing.graph, self.invalidated
        self.capturing, self.invalidated = None, False
        graph.destroyed = spoiled
        return (901, None) if spoiled else (0, graph)  # CUDA_ERROR_STREAM_CAPTURE_INVALIDATED

    def create_graph_builder(self):
        return GraphBuilder(self)

    def close(self):
        if not self.closed:
            self.sync()
        self.closed = True


class GraphBuilder:
    """Records what is asked of its stream.

    It fails as cuda.core 1.2 does: the end of an invalidated capture raises and leaves it open, and closing or
    collecting the builder afterwards destroys a graph that the driver has destroyed.
    """

    crashes: ClassVar = []  # where a process would have died

    def __init__(self, stream):
        self.stream, self.graph, self._open = stream, None, False

    def begin_building(self, mode="relaxed"):
        assert mode == "thread_local", "any other mode breaks other pipelines of the process"
        assert self.stream.capturing is None
        self.graph, self._open = types.SimpleNamespace(nodes=[], destroyed=False), True
        self.stream.capturing = self
        return self

    def enqueue(self, work, *, keep=()):
        self.stream.enqueue(work, keep=keep)

    def end_building(self):
        if self.stream.capturing is None:
            raise RuntimeError("Graph builder is not building.")
        assert self.stream.capturing is self
        if self.stream.invalidated:
            raise RuntimeError("Build process encountered an error and has been invalidated.")
        assert self.stream.end_capture()[0] == 0
        self._open = False
        return self

    def complete(self, options=None):
        assert not self._open
        return Graph(self.graph.nodes)

    def close(self):
        if self._open:
            error, _ = self.stream.end_capture()
            if error:
                raise RuntimeError(f"CUDA error {error}")
        self._open = False
        self._destroy()

    def __del__(self):
        if self._open:
            self.stream.end_capture()
        self._destroy()

    def _destroy(self):
        if self.graph is not None and self.graph.destroyed:
            self.crashes.append("cuGraphDestroy of a graph that is gone")
        self.graph = None


class Graph:
    """Repeats what was recorded."""

    def __init__(self, nodes):
        self.nodes, self.closed = list(nodes), False

    def launch(self, stream):
        assert not self.closed
        for work, keep in self.nodes:
            stream.enqueue(work, keep=keep)

    def close(self):
        self.closed = True


class Device:
    """In place of a `cuda.core.Device`, made of a card."""

    def __init__(self, card, limit=None):
        self.name, self.compute_capability, self.device_id = card.name, card.compute_capability, 0
        self.properties = types.SimpleNamespace(
            multiprocessor_count=card.multiprocessors,
            max_shared_memory_per_block_optin=card.shared_memory,
            cooperative_launch=card.cooperative,
            integrated=card.integrated,
            l2_cache_size=1 << 20,
        )
        self.memory_resource, self.current, self.streams = Memory(limit), set(), []

    def set_current(self):
        self.current.add(threading.get_ident())

    def check_current(self):
        assert threading.get_ident() in self.current, "no CUDA context is current in this thread"

    def create_event(self, options=None):
        return Event()

    def create_stream(self, *, options=None):
        self.streams.append(Stream(self, lazy=True))
        return self.streams[-1]


class StridedMemoryView:
    """In place of `cuda.core.utils.StridedMemoryView`: what lies at an address."""

    def __init__(self, ptr, shape, strides, dtype, owner):
        self.ptr, self.shape, self.strides, self.dtype, self.exporting_obj = ptr, shape, strides, dtype, owner
        self.device_id, self.is_device_accessible, self.readonly = 0, True, False

    @classmethod
    def from_any_interface(cls, obj, stream_ptr=None):
        assert type(stream_ptr) is int, "a stream of the consumer is needed for the order"
        if hasattr(obj, "__dlpack__"):
            array = np.from_dlpack(_OnHost(obj.__dlpack__(stream=stream_ptr)))
            given = array.__array_interface__
        else:
            given = obj.__cuda_array_interface__
        dtype = np.dtype(given["typestr"])
        strides = given.get("strides")
        if strides is not None:
            strides = tuple(step // dtype.itemsize for step in strides)
        return cls(given["data"][0], tuple(given["shape"]), strides, dtype, obj)

    @classmethod
    def from_buffer(cls, buffer, shape, strides=None, *, itemsize=None, dtype=None, is_readonly=False):
        assert buffer.size >= int(np.prod(shape)) * np.dtype(dtype).itemsize
        return cls(int(buffer.handle), shape, strides, np.dtype(dtype), buffer)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        memory = (ctypes.c_uint8 * size).from_address(self.ptr)
        memory.owner = self
        return np.ctypeslib.as_array(memory).view(self.dtype).reshape(self.shape).__dlpack__()

    def __dlpack_device__(self):
        return (2, 0)


class _OnHost:
    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack__(self, **_):
        return self.capsule

    def __dlpack_device__(self):
        return (1, 0)


class _Kernel:
    def __init__(self, name):
        self.name = self.handle = name
        self.attributes = types.SimpleNamespace(shared_size_bytes=0)


class _Code:
    """In place of `ObjectCode`: a kernel is its own name."""

    @staticmethod
    def from_fatbin(code, *, name):
        return _Code()

    def get_kernel(self, name):
        return _Kernel(name)


def _is_capturing(handle):
    stream = STREAMS[handle]
    return 0, 0 if stream.capturing is None else 2 if stream.invalidated else 1


class _Program:
    def __init__(self, code, kind, options):
        assert kind == "c++"

    def compile(self, target, *, cache):
        return _Code()


def card(multiprocessors=4, shared_memory=100_000, *, cooperative=True, integrated=False, name="a CPU", sm=(9, 0)):
    return Card(name, sm, multiprocessors, shared_memory, cooperative, integrated)


def programs(on, limit=None):
    """The package's own `Programs`, of a device made of that card."""
    return Programs(Device(on, limit), cache=Path(tempfile.gettempdir()) / "immunecam-no-cache")


class Core(types.ModuleType):
    """In place of `cuda.core`, with the members that the package uses; every launch is checked against the source.

    Parameters
    ----------
    folder : path
        For compiled libraries.
    libraries : dict, optional
        Those that an earlier one compiled.
    """

    Buffer, GraphBuilder, ObjectCode, Program, Stream = Buffer, GraphBuilder, _Code, _Program, Stream

    def __init__(self, folder, libraries=None):
        super().__init__("cuda.core")
        self.__version__ = "1.2.2"
        self.device = None
        self._libraries, self._folder, self.launched = {} if libraries is None else libraries, folder, []
        self._compiling = threading.Lock()
        self.pinned = Memory(core=self)
        self.LegacyPinnedMemoryResource = lambda: self.pinned
        self.EventOptions = self.ProgramOptions = types.SimpleNamespace
        self.utils = types.ModuleType("cuda.core.utils")
        self.utils.StridedMemoryView = StridedMemoryView
        self.utils.FileStreamProgramCache = lambda folder: None
        self.driver = types.ModuleType("cuda.bindings.driver")
        self.driver.CUfunction_attribute = types.SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)
        self.driver.CUresult = types.SimpleNamespace(CUDA_SUCCESS=0)
        self.driver.cuKernelSetAttribute = lambda *_: (0,)
        self.driver.cuDriverGetVersion = lambda: (0, 13000)
        names = "NONE", "ACTIVE", "INVALIDATED"
        status = {f"CU_STREAM_CAPTURE_STATUS_{name}": number for number, name in enumerate(names)}
        self.driver.CUstreamCaptureStatus = types.SimpleNamespace(**status)
        self.driver.cuStreamIsCapturing = _is_capturing
        self.driver.cuStreamEndCapture = lambda handle: STREAMS[handle].end_capture()

    def install(self, patch):
        """Put it where the package imports it from, until the patch is undone."""
        package, bindings = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
        package.core, package.bindings, bindings.driver = self, bindings, self.driver
        for name, module in (
            ("cuda", package), ("cuda.core", self), ("cuda.core.utils", self.utils), ("cuda.bindings", bindings),
            ("cuda.bindings.driver", self.driver),
        ):  # fmt: skip
            patch.setitem(sys.modules, name, module)

    def Device(self, number):
        if self.device is None:
            raise RuntimeError("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected")
        return self.device

    class LaunchConfig:
        def __init__(self, *, grid, block, shmem_size=0, is_cooperative=False):
            assert all(x >= 1 for x in grid)
            assert grid[1] <= 65535
            assert 1 <= block <= 1024
            self.grid, self.block, self.shmem_size, self.is_cooperative = grid, block, shmem_size, is_cooperative

    def launch(self, stream, config, kernel, *arguments):
        kernel = kernel.name
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
        with self._compiling:
            name = KERNELS[kernel]
            if name not in self._libraries:
                self._libraries[name] = compiled(name, self._folder)
        run = getattr(self._libraries[name], f"run_{kernel}")
        pointers = (ctypes.c_void_p * len(cells))(*(ctypes.addressof(cell) for cell in cells))
        self.launched.append((kernel, config))
        stream.enqueue(
            lambda: run(
                ctypes.c_uint(config.grid[0]), ctypes.c_uint(config.grid[1]), ctypes.c_uint(config.block),
                ctypes.c_size_t(config.shmem_size), ctypes.c_int(config.is_cooperative), pointers,
            ),
            keep=(cells, pointers),
        )  # fmt: skip
