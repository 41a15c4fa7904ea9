"""Faces in and out, and pinned memory, on `cuda.core` of a CPU (see `cuda_on_cpu`): no GPU is tested here."""

from __future__ import annotations

import re

import cuda_on_cpu as on_cpu
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from immunecam.errors import InputError, UsageError
from immunecam.kernels import dequantize_faces, quantize_faces
from immunecam.kernels.cuda import Fault, PixelKernels, quantize_launch, source, take_launch
from immunecam.kernels.cuda.memory import allocate, part
from immunecam.kernels.cuda.staging import Staging, StagingRing

STREAM = on_cpu.Stream()


class Faces:
    """Memory for n faces of d values, and what the kernels make of it."""

    def __init__(self, n, d, width=None):
        self.n, self.d, self.kernels = n, d, PixelKernels(on_cpu.programs(on_cpu.card()), d, width or d)
        self.faces, self.pixels, self.faults = on_cpu.Buffer(4 * n * d), on_cpu.Buffer(n * d), on_cpu.Buffer(4)
        self.faults.view(np.uint32, 1)[:] = 0

    def take(self, given, steps=None):
        self.kernels.take(self.n, given.ctypes.data, given.dtype.name, self.faces.handle, steps=steps,
                          faults=self.faults, stream=STREAM)  # fmt: skip
        return self.faces.view(np.float32, self.n, self.d)

    def quantize(self, given):
        self.kernels.quantize(self.n, given.ctypes.data, self.pixels.handle, faults=self.faults, stream=STREAM)
        return self.pixels.view(np.uint8, self.n, self.d)

    def fault(self):
        for buffer in (self.faces, self.pixels, self.faults):
            buffer.close()  # which looks at the guards
        return Fault(int(self.faults.bytes[:4].view(np.uint32)[0]))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 3), d=st.integers(1, 600), seed=st.integers(0, 100), offset=st.integers(0, 3))
def test_faces_in_and_out_are_the_references(core, n, d, seed, offset):
    rng, faces = np.random.default_rng(seed), Faces(n, d)
    # Callers' arrays begin anywhere.
    pixels = rng.integers(0, 256, n * d + offset, dtype=np.uint8)[offset:].reshape(n, d)
    assert np.array_equal(faces.take(pixels), dequantize_faces(pixels))
    values = rng.uniform(-1, 1, (n, d)).astype(np.float32)
    assert np.array_equal(faces.take(values), values)
    restored = rng.uniform(-1.3, 1.3, (n, d)).astype(np.float32)
    assert np.array_equal(faces.quantize(restored), quantize_faces(restored))
    assert faces.fault() == 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 3),
    rows=st.integers(1, 30),
    width=st.integers(1, 30),
    gap=st.integers(0, 9),
    apart=st.integers(0, 3),
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_rows_and_faces_may_lie_apart(core, dtype, n, rows, width, gap, apart):
    """What lies between is NaN, which would be reported."""
    faces, drawn = Faces(n, rows * width, width), np.random.default_rng(n)
    room = np.full((n, rows + apart, width + gap), 255 if dtype == np.uint8 else np.nan, dtype)
    given = room[:, :rows, :width]
    given[...] = drawn.integers(0, 255, given.shape) if dtype == np.uint8 else drawn.uniform(-1, 1, given.shape)
    steps = ((rows + apart) * (width + gap), width + gap)
    taken = faces.take(given, steps).reshape(given.shape)
    assert np.array_equal(taken, dequantize_faces(given) if dtype == np.uint8 else given)
    assert faces.fault() == 0


def test_every_pixel_comes_back_and_halves_go_to_even(core):
    faces = Faces(1, 256)
    every = np.arange(256, dtype=np.uint8)[None]
    assert np.array_equal(faces.quantize(faces.take(every).copy()), every)
    halves = ((np.arange(256) + 0.5) / 127.5 - 1).astype(np.float32)[None]
    assert np.array_equal(faces.quantize(halves), quantize_faces(halves))
    wild = np.resize(np.array([np.inf, -np.inf, 1e30, -7], np.float32), (1, 256))
    assert np.array_equal(faces.quantize(wild), quantize_faces(wild))
    assert faces.fault() == 0


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (np.nan, Fault.FACE_NOT_FINITE),
        (np.inf, Fault.FACE_NOT_FINITE),
        (-np.inf, Fault.FACE_NOT_FINITE),
        (1.0011, Fault.FACE_OUT_OF_RANGE),
        (-255, Fault.FACE_OUT_OF_RANGE),
        (1.0009, Fault(0)),
    ],
)
def test_wrong_faces_are_reported(core, value, fault):
    faces, given = Faces(2, 300), np.zeros((2, 300), np.float32)
    given[1, 299] = value
    faces.take(given)
    assert faces.fault() == fault


def test_reports_add_up(core):
    faces, given = Faces(2, 300), np.zeros((2, 300), np.float32)
    given[0, 0], given[1, 7] = 5, np.nan
    faces.take(given)
    assert faces.quantize(given)[1, 7] == 0
    assert faces.fault() == Fault.FACE_OUT_OF_RANGE | Fault.FACE_NOT_FINITE | Fault.RESTORED_NAN


def test_faults_are_the_same_in_both_languages():
    text = re.search(r"enum Fault \{(.*?)\}", source("pixels"))[1]
    named = {
        re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper(): int(value) for name, value in re.findall(r"k(\w+) = (\d+)", text)
    }
    assert named == {fault.name: fault.value for fault in Fault}


def test_wrong_calls(core):
    with pytest.raises(UsageError, match="int8"):
        Faces(1, 16).take(np.zeros((1, 16), np.int8))
    with pytest.raises(UsageError, match="1 to 128"):
        take_launch(129, 16, "uint8")
    assert quantize_launch(3, 12544).grid == (49, 3)


# -- pinned memory -----------------------------------------------------------------------------------------------------


def test_two_buffers_in_turn_never_overwrite_what_is_not_yet_copied(core):
    """The stream does nothing until somebody waits: the third array must not be written before the first is copied."""
    stream = on_cpu.Device(on_cpu.card()).create_stream()
    stream.device.set_current()
    ring, targets = StagingRing(64), [on_cpu.Buffer(64) for _ in range(5)]
    arrays = [np.full(16, number, np.float32) for number in range(5)]
    for array, target in zip(arrays, targets, strict=True):
        ring.put(array, target, stream=stream)
    assert stream._done == 3  # the two last ones are under way
    stream.sync()
    for array, target in zip(arrays, targets, strict=True):
        assert np.array_equal(target.view(np.float32, 16), array)
    ring.put(arrays[1][:4], targets[0], stream=stream)
    ring.close()  # waits, too
    assert np.array_equal(targets[0].view(np.float32, 16), np.r_[arrays[1][:4], arrays[0][4:]])
    assert core.pinned.used == 0


def test_parts_and_memory_that_is_not_there(core):
    buffer = on_cpu.Buffer(64)
    assert part(buffer, 64) is buffer
    some = part(buffer, 8, 16)
    assert (some.handle, some.size, some.owner) == (buffer.handle + 16, 8, buffer)
    core.pinned.limit = 100
    with pytest.raises(InputError, match="no 200 bytes of pinned memory"):
        Staging(200)
    with pytest.raises(InputError, match=r"no 200 bytes left .*: go away\."):
        allocate(on_cpu.Device(on_cpu.card(), limit=100), 200, stream=STREAM, advice="go away")
