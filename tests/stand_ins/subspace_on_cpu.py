"""Mutation and projection by the launchers and the kernels' own sources on a CPU, and what they must give."""

from __future__ import annotations

import types

import cuda_on_cpu as on_cpu
import numpy as np

from immunecam.kernels import Subspace, mutate, project, project_float
from immunecam.kernels.cuda import SubspaceKernels

STREAM = on_cpu.Stream()


def subspace(k, d, dtype, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.linalg.qr(rng.standard_normal((d, k)))[0].T.astype(np.float32)
    mean = rng.uniform(-0.4, 0.4, d).astype(np.float32)
    if dtype != "int8":
        return Subspace(mean, rows.astype(dtype))
    scale = (np.abs(rows).max(1) / 127).astype(np.float32)
    return Subspace(mean, np.rint(rows / scale[:, None]).astype(np.int8), scale)


def run(
    space, p, images, faces, *, mode="sample", seed=1, form=None, card=None, max_batch=None, dtype="float32", clone=0
):
    """Everything that the kernels write for these faces."""
    n, k = p.shape
    room = n if max_batch is None else max_batch
    kernels = SubspaceKernels(
        space, on_cpu.programs(card or on_cpu.card()), stream=STREAM, max_batch=room, form=form, probabilities=dtype
    )
    kernels.probabilities.view(dtype, room, k)[:n] = p
    kernels.numbers.view(np.uint64, 1 + room)[: 1 + n] = [np.uint64(seed), *images]
    kernels.faces.view(np.float32, room, space.d)[:n] = faces.reshape(n, -1)
    kernels.mutate(n, mode=mode, clone=clone, stream=STREAM)
    kernels.project(n, stream=STREAM)
    words = (k + 31) // 32
    packed = kernels.bits.view(np.uint8, room, 4 * words)[:n]
    found = types.SimpleNamespace(
        bits=np.unpackbits(packed, axis=1, bitorder="little"),
        rows=kernels.rows.view(np.uint16, room, k)[:n].copy(),
        weights=kernels.weights.view(np.float32, room, k)[:n].copy(),
        counts=kernels.counts.view(np.uint32, room)[:n].copy(),
        faults=int(kernels.faults.view(np.uint32, 1)[0]),
        projected=kernels.projected.view(np.float32, room, *faces.shape[1:])[:n].copy(),
        pixels=kernels.pixels.view(np.uint8, room, *faces.shape[1:])[:n].copy(),
        untouched=kernels.pixels.view(np.uint8, room, space.d)[n:].copy(),
    )
    kernels.close()  # which looks at the guards, too
    return found


def check(found, space, p, images, faces, *, mode="sample", seed=1):
    antibody = mutate(p.astype(np.float32), mode=mode, seed=seed, images=images)
    k = space.k
    assert np.array_equal(found.bits[:, :k], antibody > 0)
    assert not found.bits[:, k:].any()
    for n, count in enumerate(found.counts):
        active = np.flatnonzero(antibody[n])
        assert np.array_equal(found.rows[n, :count], active)
        assert np.array_equal(found.weights[n, :count], antibody[n, active].astype(np.float32))
    wanted = np.clip(project_float(faces, antibody, space), -1, 1)
    np.testing.assert_allclose(found.projected, wanted, atol=2e-5)
    assert np.abs(found.pixels.astype(int) - project(faces, antibody, space)).max() <= 1
    assert (found.untouched == 0xA5).all()
