"""Mutation and projection: time, bytes, and the fraction of the card's copy bandwidth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from immunecam.benchmarks.card.checks import random_subspace
from immunecam.benchmarks.card.timing import time_replays
from immunecam.kernels.cuda import FORMS, Programs, SubspaceKernels, possible_forms
from immunecam.kernels.cuda.staging import Staging

__all__ = ["kernel_times"]

# What is rotated through has this many times the size of the L2 cache, so that no launch finds its rows there.
_COLD = 3
_MOST_SETS = 24

# One face after another, so that more of them tell nothing new.
_ONE_PASS_UP_TO = 16


def kernel_times(
    programs: Programs,
    stream: Any,
    copy_bytes_per_second: float,
    *,
    k: int = 1500,
    d: int = 12544,
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 128),
    bases: Sequence[str] = ("float16", "int8", "float32"),
    forms: Sequence[str] = FORMS,
) -> Iterator[dict[str, Any]]:
    """Times of every kernel with half of the rows active; the basis of the project's goals comes first.

    Yields
    ------
    dict
        "kernel" ("mutate", "project", or "mutate + project"), basis, form, batch, "cache" ("cold": inputs are rotated
        through more memory than the L2 cache has; "warm": always the same), times, "bytes" (each row that is active in
        some face once, faces, probabilities and results) and "fraction_of_copy".
    """
    rng = np.random.default_rng()
    cache = int(programs.device.properties.l2_cache_size)
    for basis in bases:
        space = random_subspace(k, d, basis, rng)
        possible = possible_forms(programs.card, k, d, basis)
        for form in (form for form in forms if form in possible):
            for n in batches:
                if form == "one-pass" and n > _ONE_PASS_UP_TO:
                    continue
                moved = _bytes_moved(n, k, d, space.basis.itemsize)
                copies = min(_MOST_SETS, max(2, -(-_COLD * cache // moved)))
                sets = [_filled(SubspaceKernels(space, programs, stream=stream, max_batch=n, form=form), n, rng, stream)
                        for _ in range(copies)]  # fmt: skip
                antibodies = n * (4 * k + 6 * k // 2 + k // 8)
                cases = (
                    ("mutate", sets[:1], antibodies),
                    ("project", sets, moved),
                    ("project", sets[:1], moved),
                    ("mutate + project", sets, moved + 4 * n * k),
                    ("mutate + project", sets[:1], moved + 4 * n * k),
                )
                for name, used, size in cases if form == possible[0] else cases[1:]:  # mutation is the same in all
                    together = max(len(used), 48 if n <= 8 else 8)
                    timing = time_replays(stream, partial(_launch, name, used, n), together=together)
                    rotated = round((antibodies if name == "mutate" else moved) * len(used) / 1e6)
                    yield {
                        "kernel": name, "basis": basis, "form": form, "batch": n, "k": k,
                        "cache": "cold" if len(used) > 1 else "warm", "rotated_megabytes": rotated,
                        **timing.to_dict(), "bytes": size,
                        "fraction_of_copy": round(size / (1e-6 * timing.p50) / copy_bytes_per_second, 4),
                    }  # fmt: skip
                for kernels in sets:
                    kernels.close()


def _launch(name: str, sets: Sequence[SubspaceKernels], n: int, i: int, target: Any) -> None:
    kernels = sets[i % len(sets)]
    if "mutate" in name:
        kernels.mutate(n, mode="sample", stream=target)
    if "project" in name:
        kernels.project(n, stream=target)


def _filled(kernels: SubspaceKernels, n: int, rng: np.random.Generator, stream: Any) -> SubspaceKernels:
    """Random faces, and probabilities of a half."""
    for array, buffer in (
        (np.full((n, kernels.k), 0.5, np.float32), kernels.probabilities),
        (np.arange(1 + n, dtype=np.uint64), kernels.numbers),
        (rng.uniform(-1, 1, (n, kernels.d)).astype(np.float32), kernels.faces),
    ):
        staging = Staging(array.nbytes)
        staging.put(array, buffer, stream=stream)
        stream.sync()
        staging.close()
    kernels.mutate(n, mode="sample", stream=stream)
    return kernels


def _bytes_moved(n: int, k: int, d: int, itemsize: int) -> int:
    """Of a projection: rows that some face uses once, faces in, pixels and floats out, antibodies."""
    rows = k * (1 - 0.5**n)
    return int(rows * d * itemsize + n * d * (4 + 1 + 4) + 6 * n * k / 2)
