"""Launch plans, and the launchers with the kernels' own sources on a CPU (see `cuda_on_cpu`): no GPU is tested here."""

from __future__ import annotations

import re
import sys
import types

import cuda_on_cpu as on_cpu
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from subspace_on_cpu import STREAM, check, run, subspace

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.kernels import mutate
from immunecam.kernels.cuda import (
    FORMS,
    MAX_BATCH,
    Card,
    Fault,
    FrameKernels,
    FrameOnCard,
    SubspaceKernels,
    check_two_pass,
    coefficients_launch,
    mutate_launch,
    one_pass,
    open_device,
    paste_launch,
    possible_forms,
    reconstruct_launch,
)
from immunecam.kernels.cuda.card import require_core
from immunecam.kernels.cuda.frame_kernels import paste_region
from immunecam.kernels.cuda.programs import compiled
from immunecam.kernels.cuda.sources import KERNELS, source
from immunecam.runtime.faces import align, paste
from immunecam.runtime.faces.align import SIDE, TEMPLATE
from immunecam.runtime.faces.face import Face

H200 = Card("H200", (9, 0), 132, 232_448, True, False)
ORIN = Card("Orin", (8, 7), 8, 166_912, True, True)

# -- plans -----------------------------------------------------------------------------------------------------------


@given(
    n=st.integers(1, MAX_BATCH),
    k=st.integers(1, 3000),
    pieces=st.integers(1, 1000),
    basis=st.sampled_from(["float32", "float16", "int8"]),
    multiprocessors=st.integers(1, 200),
    shared=st.sampled_from([65_536, 101_376, 166_912, 232_448]),
)
def test_plans_keep_the_limits_of_cards(n, k, pieces, basis, multiprocessors, shared):
    d = 16 * pieces
    first, second = coefficients_launch(n, k, d, basis), reconstruct_launch(n, k, d, basis)
    values = {"float32": 4, "float16": 8, "int8": 16}[basis]
    assert first.grid == (-(-k // 32), n)
    assert second.grid[0] * 16 * values >= d > (second.grid[0] - 1) * 16 * values
    assert mutate_launch(n, k, "float16").grid == (n, 1)
    plan = one_pass(Card("", (8, 0), multiprocessors, shared, True, False), k, d, basis)
    if plan is None:
        return
    blocks = plan.launch.grid[0]
    assert blocks <= multiprocessors
    assert (blocks - 1) * plan.strip < d // values <= blocks * plan.strip  # every piece has an owner, every block work
    assert k / 2 <= plan.capacity <= k
    assert plan.launch.shared <= shared
    assert plan.launch.shared % 16 == 0
    assert plan.strip <= plan.launch.block
    assert plan.partial == k * blocks


def test_the_one_pass_form_is_for_cards_that_hold_half_of_the_basis():
    half = one_pass(H200, 1500, 12544, "float16")
    assert 750 <= half.capacity < 1500
    assert one_pass(H200, 1500, 12544, "int8").capacity == 1500
    assert one_pass(ORIN, 1500, 12544, "int8") is None
    assert one_pass(H200, 1500, 12544, "float32") is None
    assert one_pass(Card("", (9, 0), 132, 232_448, False, False), 1500, 12544, "int8") is None


@pytest.mark.parametrize("basis", ["float32", "float16", "int8"])
@pytest.mark.parametrize("shared", [65_536, 101_376, 166_912, 232_448])
def test_two_passes_want_what_a_block_may_have(shared, basis):
    """What a block of the second pass takes besides is what its source declares."""
    card = Card("a card", (7, 5), 40, shared, True, False)
    declared = re.search(r"__shared__ float partial\[kGroups\]\[kLanes \* kValues\]", source("project"))
    constants = dict(re.findall(r"constexpr int (k\w+) = (\d+);", source("project")))
    assert declared
    static = 4 * int(constants["kThreads"]) * {"float32": 4, "float16": 8, "int8": 16}[basis]
    most = min((shared - static) // 6, 1 << 16)
    check_two_pass(card, most, 12544, basis)
    if most < 1 << 16:
        found = 6 * (most + 1) + static
        with pytest.raises(
            UsageError, match=rf"wants {found} bytes .*reconstruct_{basis}., but a card gives one {shared}"
        ):
            check_two_pass(card, most + 1, 12544, basis)
    wide = shared // 4 // 16 * 16 + 16
    with pytest.raises(UsageError, match=rf"wants {4 * wide} bytes .*coefficients_{basis}"):
        check_two_pass(card, 10, wide, basis)


def test_a_subspace_that_no_block_can_hold_is_refused_before_anything_is_taken(core):
    programs = on_cpu.programs(on_cpu.card(shared_memory=16_384 + 6 * 99))
    with pytest.raises(UsageError, match="K = 100 eigenfaces of 112 pixels, int8"):
        SubspaceKernels(subspace(100, 112, "int8"), programs, stream=STREAM)
    assert programs.device.memory_resource.used == 0
    SubspaceKernels(subspace(99, 112, "int8"), programs, stream=STREAM).close()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mutate_launch(0, 10, "float32"), "1 to 128"),
        (lambda: mutate_launch(129, 10, "float32"), "129 faces"),
        (lambda: mutate_launch(1, 70_000, "float32"), "16 bits"),
        (lambda: coefficients_launch(1, 10, 100, "float16"), "multiple of 16"),
        (lambda: coefficients_launch(1, 10, 112, "float64"), "float64"),
        (lambda: paste_launch(0, 10, "bgr"), "0x10"),
        (lambda: SubspaceKernels(subspace(4, 16, "float32"), None, stream=None, max_batch=200), "max_batch is 200"),
        (lambda: SubspaceKernels(subspace(4, 16, "float32"), None, stream=None, form="three-pass"), "three-pass"),
        (lambda: SubspaceKernels(subspace(4, 16, "float32"), None, stream=None, probabilities="int8"), "int8"),
        (lambda: FrameKernels(None, stream=None, max_faces=0), "max_faces is 0"),
        (lambda: FrameOnCard(0, 4, 4, 12, "rgba"), "rgba"),
        (lambda: open_device(-1), "-1"),
    ],
)
def test_wrong_calls(call, words):
    with pytest.raises(UsageError, match=words):
        call()


def test_wrong_frames():
    with pytest.raises(InputError, match="12 bytes"):
        FrameOnCard(0, 4, 4, 11)
    with pytest.raises(InputError, match="even"):
        FrameOnCard(0, 4, 3, 4, "nv12")
    assert FrameOnCard(1000, 4, 2, 8, "nv12").chroma == 1016


def test_a_machine_without_a_card_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(BackendMissingError, match=r"immunecam\[cuda12\]") as missing:
        open_device()
    assert missing.value.exit_code == 4

    def device(number):
        raise RuntimeError("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected")

    stand_in = types.ModuleType("cuda.core")
    stand_in.Device, stand_in.__version__ = device, "1.2.2"
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.core", stand_in)
    with pytest.raises(BackendMissingError, match="nvidia-smi"):
        open_device()
    stand_in.Device = lambda number: types.SimpleNamespace(
        set_current=lambda: None, compute_capability=(6, 1), name="Old"
    )
    with pytest.raises(BackendMissingError, match=r"6\.1"):
        open_device()


@pytest.mark.parametrize("found", ["0.3.2", "1.0.1", "1.0.0rc1", "unknown"])
def test_a_cuda_core_that_is_too_old(monkeypatch, tmp_path, found):
    """It may have other members, or none of ours; it is not asked."""
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.core", old := types.ModuleType("cuda.core"))
    old.__version__ = found
    for call in (open_device, lambda: compiled("mutate", "sm_90", tmp_path)):
        with pytest.raises(BackendMissingError, match=rf"cuda\.core {found} is installed, but 1\.1 or newer") as told:
            call()
        assert "immunecam[cuda13]" in str(told.value)
        assert told.value.exit_code == 4


@pytest.mark.parametrize("found", ["1.1.0", "1.2.0", "1.10.1", "2.0"])
def test_newer_ones_are_taken(monkeypatch, found):
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.core", types.ModuleType("cuda.core"))
    sys.modules["cuda.core"].__version__ = found
    require_core()


# -- kernels ---------------------------------------------------------------------------------------------------------


def test_every_kernel_has_a_signature():
    assert set(on_cpu.SIGNATURES) == set(KERNELS)
    assert len(KERNELS) == 28


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", ["float32", "float16", "int8"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutation_and_projection(core, basis, form, data):
    d = 16 * data.draw(st.integers(2, 20))
    k = data.draw(st.integers(1, min(d, 90)))
    n = data.draw(st.integers(1, 3))
    mode = data.draw(st.sampled_from(["sample", "threshold", "expected"]))
    seed = data.draw(st.integers(0, 2**64 - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    space = subspace(k, d, basis)
    p = rng.choice([0.0, 0.2, 0.5, 0.9, 1.0], (n, k)).astype(np.float32)
    images = rng.integers(0, 2**63, n, dtype=np.uint64)
    faces = rng.uniform(-1, 1, (n, 1, d)).astype(np.float32)
    # A card whose shared memory holds a part of the rows, or all.
    card = on_cpu.card(data.draw(st.integers(1, 5)), 101_376 if form == "batched" else 60_000)
    if form not in possible_forms(card, k, d, basis):
        with pytest.raises(UsageError, match="use the two-pass form"):
            run(space, p, images, faces, form=form, card=card)
        return
    found = run(space, p, images, faces, mode=mode, seed=seed, form=form, card=card, max_batch=n + 1)
    check(found, space, p, images, faces, mode=mode, seed=seed)
    assert found.faults == 0


def test_rows_beyond_the_shared_memory(core):
    space, rng = subspace(96, 256, "float16"), np.random.default_rng(0)
    card = next(
        card
        for size in range(20_000, 60_000, 500)
        if (plan := one_pass(card := on_cpu.card(2, size), 96, 256, "float16")) and plan.capacity < 60
    )
    p = np.full((2, 96), 0.9, np.float32)
    images, faces = np.array([1, 2], np.uint64), rng.uniform(-1, 1, (2, 16, 16)).astype(np.float32)
    found = run(space, p, images, faces, form="one-pass", card=card)
    assert found.counts.min() > 60
    check(found, space, p, images, faces)


@pytest.mark.parametrize("basis", ["float16", "int8"])
def test_a_whole_face(core, basis):
    """As large as the shipped models are, in the form that is chosen."""
    rng = np.random.default_rng(0)
    space = subspace(300, 12544, basis)
    p = rng.random((2, 300)).astype(np.float32)
    images, faces = np.array([7, 8], np.uint64), rng.uniform(-1, 1, (2, 112, 112)).astype(np.float32)
    check(run(space, p, images, faces, card=on_cpu.card(24, 232_448)), space, p, images, faces)
    assert core.launched[-1][0] == f"project_once_{basis}"
    check(run(space, p, images, faces, card=on_cpu.card(cooperative=False)), space, p, images, faces)
    assert core.launched[-1][0] == f"few_reconstruct_{basis}"
    turing = on_cpu.card(cooperative=False, sm=(7, 5))
    check(run(space, p, images, faces, card=turing), space, p, images, faces)
    assert core.launched[-1][0] == f"reconstruct_{basis}"


def test_nothing_active_leaves_the_mean(core):
    space = subspace(20, 64, "float16")
    faces, images = np.zeros((2, 8, 8), np.float32), np.array([1, 2], np.uint64)
    for form in FORMS:
        found = run(space, np.zeros((2, 20), np.float32), images, faces, form=form, card=on_cpu.card(4, 101_376))
        np.testing.assert_allclose(found.projected[1].ravel(), space.mean, atol=1e-6)


def test_equal_runs_are_bit_equal(core):
    space, rng = subspace(50, 512, "int8"), np.random.default_rng(3)
    p, images = rng.random((3, 50)).astype(np.float32), np.arange(3, dtype=np.uint64)
    faces = rng.uniform(-1, 1, (3, 16, 32)).astype(np.float32)
    card = on_cpu.card(4, 101_376)
    for form in FORMS:
        one, other = (run(space, p, images, faces, form=form, card=card) for _ in range(2))
        assert one.projected.tobytes() == other.projected.tobytes()


def test_clones_and_half_probabilities(core):
    space, rng = subspace(70, 96, "float32"), np.random.default_rng(0)
    p, images = rng.random((2, 70)).astype(np.float16), np.array([3, 2**50], np.uint64)
    faces = np.zeros((2, 8, 12), np.float32)
    clones = mutate(p.astype(np.float32), mode="sample", seed=9, images=images, clones=4)
    for clone in range(4):
        found = run(space, p, images, faces, seed=9, clone=clone, dtype="float16")
        assert np.array_equal(found.bits[:, :70], clones[:, clone])


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.5])
def test_an_invalid_probability_is_told(core, wrong):
    p = np.full((2, 40), 0.5, np.float32)
    p[1, 37] = wrong
    faces, images = np.zeros((2, 8, 8), np.float32), np.array([1, 2], np.uint64)
    assert run(subspace(40, 64, "float32"), p, images, faces).faults == Fault.PROBABILITY


def test_a_full_card_is_an_error_and_gives_back_what_it_took(core):
    programs = on_cpu.programs(on_cpu.card(), limit=40_000)
    taken = []
    allocate = programs.device.memory_resource.allocate
    programs.device.memory_resource.allocate = lambda size, *, stream: (
        taken.append(allocate(size, stream=stream)) or taken[-1]
    )
    with pytest.raises(InputError, match="make max_batch = 128 smaller"):
        SubspaceKernels(subspace(40, 64, "float32"), programs, stream=STREAM, max_batch=128)
    assert len(taken) > 3
    assert all(buffer.closed for buffer in taken)
    assert programs.device.memory_resource.used == 0
    kernels = SubspaceKernels(subspace(40, 64, "float32"), programs, stream=STREAM, max_batch=2)
    with pytest.raises(UsageError, match="made for 1 to 2"):
        kernels.project(3, stream=STREAM)


# -- frames ----------------------------------------------------------------------------------------------------------


def picture(width=301, height=243, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def faces_at(*places):
    """Faces at (x, y, size, angle), by their landmarks."""
    found = []
    for x, y, size, angle in places:
        turn = size / SIDE * np.exp(1j * angle)
        points = (TEMPLATE[:, 0] - 56 + 1j * (TEMPLATE[:, 1] - 56)) * turn + x + 1j * y
        landmarks = np.stack([points.real, points.imag], 1).astype(np.float32)
        found.append(Face(np.array([x, y, size, size], np.float32), landmarks, 1.0))
    return found


def on_card(array, pad=5):
    """A picture in rows of a larger pitch, and what describes it."""
    height, row = array.shape[0], array[0].size
    buffer = on_cpu.Buffer(height * (row + pad))
    buffer.view(np.uint8, height, row + pad)[:, :row] = array.reshape(height, row)
    return buffer, row + pad


PLACES = [(120, 110, 130, 0.2), (200, 150, 90, -0.4), (20, 230, 100, 0.0), (150, 120, 330, 0.1)]


def test_align(core):
    frame, faces = picture(), faces_at(*PLACES)
    wanted = align(frame, faces)
    buffer, pitch = on_card(frame)
    kernels = FrameKernels(on_cpu.programs(on_cpu.card()), stream=STREAM)
    out = on_cpu.Buffer(4 * len(faces) * SIDE * SIDE)
    back = np.stack([cv2.invertAffineTransform(m) for m in wanted.matrices])
    crops, place = on_cpu.Buffer(3 * len(faces) * SIDE * SIDE), FrameOnCard(buffer.handle, 301, 243, pitch)
    kernels.align(place, back, out.handle, crops=crops.handle, stream=STREAM)
    coloured = np.abs(crops.view(np.uint8, *wanted.crops.shape).astype(int) - wanted.crops)
    assert coloured.mean() < 0.4
    assert coloured.max() < 6
    crops.close()
    found = out.view(np.float32, len(faces), SIDE, SIDE)
    # OpenCV samples at 1/32 of a pixel.
    difference = 127.5 * np.abs(found - wanted.grey)
    assert difference.mean() < 0.4
    assert difference.max() < 6
    luminance = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)[:242, :300]
    nv12 = np.vstack([luminance, np.full((121, 300), 128, np.uint8)])
    buffer, pitch = on_card(nv12)
    kernels.align(FrameOnCard(buffer.handle, 300, 242, pitch, "nv12", full_range=True), back, out.handle, stream=STREAM)
    assert 127.5 * np.abs(out.view(np.float32, len(faces), SIDE, SIDE)[0] - wanted.grey[0]).mean() < 0.6
    with pytest.raises(UsageError, match="only bgr"):
        kernels.launch_align(FrameOnCard(0, 2, 2, 2, "nv12"), 1, 0, crops=1, stream=STREAM)
    out.close()
    kernels.close()


@pytest.mark.parametrize("colour", ["keep", "grey"])
def test_paste(core, colour):
    frame, faces = picture(), faces_at(*PLACES[:3])
    aligned = align(frame, faces)
    purified = np.stack([picture(SIDE, SIDE, seed)[..., 0] for seed in range(3)])
    wanted = paste(frame, purified, aligned.matrices, colour=colour)
    buffer, pitch = on_card(frame)
    crops = on_cpu.Buffer(purified.size)
    crops.view(np.uint8, *purified.shape)[:] = purified
    kernels = FrameKernels(on_cpu.programs(on_cpu.card()), stream=STREAM, max_faces=3)
    place = FrameOnCard(buffer.handle, 301, 243, pitch)
    kernels.paste(place, aligned.matrices, crops.handle, grey=colour == "grey", stream=STREAM)
    rows = buffer.view(np.uint8, 243, pitch)
    assert (rows[:, 903:] == 0xA5).all()
    found = rows[:, :903].reshape(frame.shape)
    difference = np.abs(found.astype(int) - wanted)
    changed = (wanted != frame).any(2)
    assert changed.mean() > 0.2
    assert difference[changed].mean() < 1.0
    assert np.percentile(difference, 99) <= 8
    beyond = ~cv2.dilate(changed.astype(np.uint8), np.ones((9, 9))).astype(bool)
    assert (difference[beyond] == 0).all()
    buffer.close()


def test_paste_nv12(core):
    frame, faces = picture(300, 242), faces_at(*PLACES[:2])
    aligned = align(frame, faces)
    luminance = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    chroma = np.random.default_rng(0).integers(0, 256, (121, 300), dtype=np.uint8)
    purified = np.stack([picture(SIDE, SIDE, seed)[..., 0] for seed in range(2)])
    grey = np.repeat(luminance[..., None], 3, 2)
    wanted = paste(grey, purified, aligned.matrices, colour="grey")[..., 0]
    crops = on_cpu.Buffer(purified.size)
    crops.view(np.uint8, *purified.shape)[:] = purified
    kernels = FrameKernels(on_cpu.programs(on_cpu.card()), stream=STREAM)
    for fades in (False, True):
        buffer, pitch = on_card(np.vstack([luminance, chroma]))
        place = FrameOnCard(buffer.handle, 300, 242, pitch, "nv12", full_range=True)
        kernels.paste(place, aligned.matrices, crops.handle, grey=fades, stream=STREAM)
        rows = buffer.view(np.uint8, 363, pitch)[:, :300]
        assert np.abs(rows[:242].astype(int) - wanted).mean() < 0.5
        coloured = np.abs(rows[242:].astype(int) - 128).reshape(121, 150, 2).max(2)
        middle = coloured[50:60, 55:65]  # well inside the first face
        assert (middle == 0).all() if fades else np.array_equal(rows[242:], chroma)
        buffer.close()


def test_frames_without_faces_and_faces_beyond_frames(core):
    frame = picture()
    buffer, pitch = on_card(frame)
    before = buffer.bytes.copy()
    place = FrameOnCard(buffer.handle, 301, 243, pitch)
    kernels = FrameKernels(on_cpu.programs(on_cpu.card()), stream=STREAM, max_faces=2)
    count = len(core.launched)
    kernels.align(place, np.empty((0, 2, 3)), 0, stream=STREAM)
    kernels.paste(place, np.empty((0, 2, 3)), 0, stream=STREAM)
    away = np.array([[[1.0, 0, 5000], [0, 1, 5000]]])
    kernels.paste(place, away, 0, stream=STREAM)
    assert len(core.launched) == count
    assert np.array_equal(buffer.bytes, before)
    for matrices, words in (
        (np.zeros((3, 2, 3)), "up to 2"),
        (np.zeros((1, 3, 2)), "shape"),
        (np.full((1, 2, 3), np.nan), "NaN"),
        (np.zeros((1, 2, 3)), "no inverse"),
    ):
        with pytest.raises(InputError, match=words):
            kernels.paste(place, matrices, 0, stream=STREAM)


@given(
    x=st.floats(-200, 500),
    y=st.floats(-200, 500),
    size=st.floats(5, 600),
    angle=st.floats(-3, 3),
    layout=st.sampled_from(["bgr", "nv12"]),
)
def test_the_region_holds_every_pixel_that_a_face_touches(x, y, size, angle, layout):
    frame = FrameOnCard(0, 200, 160, 600, layout)
    turn = SIDE / size * np.exp(-1j * angle)
    shift = 56 + 56j - turn * complex(x, y)
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    region = paste_region(frame, matrix[None])
    v, u = np.mgrid[0:160, 0:200]
    crop = np.einsum("ij,jyx->iyx", matrix[:, :2], np.stack([u, v]).astype(float)) + matrix[:, 2, None, None]
    touched = ((crop > -0.999) & (crop < SIDE - 0.001)).all(0)
    inside = np.zeros_like(touched)
    if region is not None:
        left, top, width, height = region
        assert 0 <= left < left + width <= 200
        assert 0 <= top < top + height <= 160
        assert layout == "bgr" or (left % 2, top % 2) == (0, 0)
        inside[top : top + height, left : left + width] = True
    assert not (touched & ~inside).any()
