"""The projection of batches on tensor cores: plans, and the kernels' own sources on a CPU (see `cuda_on_cpu`).

Matrix instructions are stood in for by their definition in the PTX ISA, with truncated sums; what a card's
own sums are, only a card can tell.
"""

from __future__ import annotations

import cuda_on_cpu as on_cpu
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from subspace_on_cpu import STREAM, run, subspace

from immunecam.errors import UsageError
from immunecam.kernels import Subspace, mutate
from immunecam.kernels.cuda import MAX_BATCH, Card, SubspaceKernels, batched, possible_forms
from immunecam.kernels.cuda.batched_projection import lift_of

CARD = on_cpu.card(6, 101_376)  # as much shared memory as the smallest of cards with the instructions


def rows_of(space):
    return space.basis.astype(np.float64) * (1 if space.scale is None else space.scale[:, None].astype(np.float64))


def batch(space, n, seed=0, share=0.5):
    """Probabilities of which some are 0 for all faces, running numbers, and faces."""
    rng = np.random.default_rng(seed)
    p = rng.random((n, space.k)).astype(np.float32)
    p[:, rng.random(space.k) < 0.2] = 0.0
    p *= share / 0.5
    return np.minimum(p, 1), np.arange(n, dtype=np.uint64), rng.uniform(-1, 1, (n, 1, space.d)).astype(np.float32)


def check_exactly(found, space, p, images, faces, *, mode="sample", percent=0.1):
    """Against float64: a few float32 roundings from it, and pixels that differ by one where those have tipped them."""
    antibody = mutate(p, mode=mode, seed=1, images=images).astype(np.float64)
    rows, mean = rows_of(space), space.mean.astype(np.float64)
    flat = faces.reshape(len(p), -1).astype(np.float64)
    wanted = np.clip(mean + (((flat - mean) @ rows.T) * antibody) @ rows, -1, 1)
    projected = found.projected.reshape(len(p), -1).astype(np.float64)
    assert np.linalg.norm(projected - wanted) <= 4e-6 * np.linalg.norm(wanted)
    grey = np.abs(found.pixels.reshape(len(p), -1).astype(int) - np.rint((wanted + 1) * 127.5).astype(int))
    assert grey.max() <= 1
    assert 100 * (grey > 0).mean() <= percent
    assert (found.untouched == 0xA5).all()


@given(
    n=st.integers(1, MAX_BATCH),
    k=st.integers(1, 12544),
    pieces=st.integers(1, 1000),
    basis=st.sampled_from(["float16", "int8"]),
    multiprocessors=st.integers(1, 200),
    shared=st.sampled_from([101_376, 166_912, 232_448]),
)
def test_plans_keep_the_limits_of_cards(n, k, pieces, basis, multiprocessors, shared):
    d = 16 * pieces
    plan = batched(Card("", (8, 6), multiprocessors, shared, True, False), n, k, d, basis)
    faces, rows, depth, columns = (32, 96, 64, 96) if n <= 32 else (128, 192, 32, 96)
    assert n <= faces
    tiles, splits = plan.coefficients.grid
    assert (tiles - 1) * rows < k <= tiles * rows
    assert splits == plan.splits
    assert (splits - 1) * plan.steps * depth < d <= splits * plan.steps * depth  # every block has work
    assert faces == 32 or plan.steps * depth <= 1024
    assert (plan.reconstruct.grid[0] - 1) * columns < d <= plan.reconstruct.grid[0] * columns
    assert plan.weigh.grid[0] * 256 >= plan.pitch >= k > plan.pitch - 8
    assert plan.pitch % 8 == 0
    assert plan.centre.grid[0] * 256 * 8 >= d
    for launch in (plan.coefficients, plan.reconstruct):
        assert launch.shared <= 101_376
        assert launch.block == 256


def test_the_work_of_a_large_card():
    """Of an H200, nearly every multiprocessor has a block of each product."""
    h200 = Card("H200", (9, 0), 132, 232_448, True, False)
    many, few = (batched(h200, n, 1500, 12544, "float16") for n in (128, 4))
    assert many.coefficients.grid == (8, 16)
    assert few.coefficients.grid == (16, 16)  # two a multiprocessor
    assert many.reconstruct.grid == few.reconstruct.grid == (131, 1)


def test_cards_and_bases_without_it():
    for sm, basis in (((7, 5), "float16"), ((9, 0), "float32")):
        card = on_cpu.card(sm=sm, shared_memory=232_448)
        assert batched(card, 4, 64, 256, basis) is None
        assert "batched" not in possible_forms(card, 64, 256, basis)
        with pytest.raises(UsageError, match="use the two-pass form"):
            SubspaceKernels(subspace(40, 64, basis), on_cpu.programs(card), stream=STREAM, max_batch=2, form="batched")
    assert batched(on_cpu.card(shared_memory=65_536), 4, 64, 256, "int8") is None
    with pytest.raises(UsageError, match="batched_from is 0"):
        SubspaceKernels(subspace(4, 16, "int8"), None, stream=None, batched_from=0)


@pytest.mark.parametrize("basis", ["float16", "int8"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_projection(core, basis, data):
    d = 16 * data.draw(st.integers(2, 16))
    space = subspace(data.draw(st.integers(1, min(d, 230))), d, basis)
    n = data.draw(st.sampled_from([1, 2, 5, 16, 17, 32, 33, 48, 65]))
    mode = data.draw(st.sampled_from(["sample", "threshold", "expected"]))
    given_ = batch(space, n, data.draw(st.integers(0, 1000)), data.draw(st.sampled_from([0.1, 0.5, 1.0])))
    card = on_cpu.card(data.draw(st.integers(1, 9)), 101_376)
    found = run(space, *given_, mode=mode, form="batched", card=card, max_batch=min(n + 1, MAX_BATCH))
    # A pixel in a few hundred may be a large share of a percent.
    check_exactly(found, space, *given_, mode=mode, percent=max(0.1, 100 * 2 / (n * d)))


@pytest.mark.parametrize("basis", ["float16", "int8"])
def test_a_full_batch(core, basis):
    space = subspace(200, 640, basis)
    given_ = batch(space, MAX_BATCH)
    found = run(space, *given_, card=CARD)
    assert [name for name, _ in core.launched[-4:]] == [
        "centre_halves", f"many_coefficients_{basis}", "weigh_halves", f"many_reconstruct_{basis}",
    ]  # fmt: skip
    check_exactly(found, space, *given_)
    again = run(space, *given_, card=CARD)
    assert found.projected.tobytes() == again.projected.tobytes()


def test_the_number_of_faces_decides(core):
    space = subspace(40, 256, "int8")
    names = {}
    for batched_from in (None, 5, MAX_BATCH + 1):
        kernels = SubspaceKernels(space, on_cpu.programs(CARD), stream=STREAM, max_batch=9, batched_from=batched_from)
        kernels.probabilities.view(np.float32, 9, 40)[:] = 0.5
        kernels.faces.view(np.float32, 9, 256)[:] = 0.0
        names[batched_from] = []
        for n in (2, 3, 4, 5, 9):
            kernels.mutate(n, mode="expected", stream=STREAM)
            kernels.project(n, stream=STREAM)
            names[batched_from].append(core.launched[-1][0].partition("_")[0])
        kernels.close()
    assert names == {
        None: ["project"] + 4 * ["few"],
        5: 3 * ["project"] + 2 * ["few"],
        MAX_BATCH + 1: 4 * ["project"] + ["reconstruct"],
    }


@pytest.mark.parametrize("size", [1e-5, 1.0, 300.0])
def test_coefficients_stay_where_halves_are_fine(core, size):
    """Whatever the stored rows are measured in: their scale brings them back to unit length."""
    ordinary = subspace(60, 512, "float32")
    stored = (ordinary.basis * size).astype(np.float16)
    length = np.linalg.norm(stored.astype(np.float64), axis=1)
    space = Subspace(ordinary.mean, stored, (1 / length).astype(np.float32))
    given_ = batch(space, 6)
    check_exactly(run(space, *given_, form="batched", card=CARD), space, *given_)


def test_lift():
    mean = np.zeros(64, np.float32)
    unit = subspace(8, 64, "float16")
    largest = float(np.abs(unit.basis.astype(np.float32)).max())
    assert lift_of(Subspace(mean, unit.basis)) == np.floor(np.log2(60_000 / (64 * largest)))
    eighth = Subspace(mean, unit.basis, np.full(8, 1 / 8, np.float32))
    assert lift_of(eighth) == lift_of(Subspace(mean, unit.basis)) + 6
    assert lift_of(Subspace(mean, np.zeros((8, 64), np.float16))) == 0
    smallest = Subspace(mean, np.full((8, 64), -128, np.int8), np.ones(8, np.float32))
    assert lift_of(smallest) == 2  # 60,000 / (64 * 128) = 7.3


@pytest.mark.parametrize("batch_size", [3, 40])
def test_a_face_that_is_no_number_spoils_no_other(core, batch_size):
    space = subspace(50, 256, "float16")
    p, images, faces = batch(space, batch_size)
    spoiled = faces.copy()
    spoiled[1] = np.nan
    one, other = (run(space, p, images, x, form="batched", card=CARD) for x in (faces, spoiled))
    others = np.arange(batch_size) != 1
    assert np.array_equal(one.projected[others], other.projected[others])
