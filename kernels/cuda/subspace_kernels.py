"""Mutation and projection of a batch on a card, between buffers that stay where they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from immunecam.errors import UsageError
from immunecam.kernels.cuda.batched_projection import BatchedProjection
from immunecam.kernels.cuda.card import Card
from immunecam.kernels.cuda.launch_plan import (
    BATCHED_FROM,
    BATCHED_FROM_WITHOUT_ONE_PASS,
    MAX_BATCH,
    ONE_PASS_UP_TO,
    batched,
    check_two_pass,
    coefficients_launch,
    mutate_launch,
    one_pass,
    reconstruct_launch,
)
from immunecam.kernels.cuda.launching import launch
from immunecam.kernels.cuda.memory import allocate
from immunecam.kernels.cuda.programs import Programs
from immunecam.kernels.cuda.staging import Staging
from immunecam.kernels.mutation import check_mutation_mode
from immunecam.kernels.subspace import Subspace

__all__ = ["FORMS", "SubspaceKernels", "possible_forms"]

FORMS = ("two-pass", "batched", "one-pass")
"""Forms of the projection, the plainest first. The first runs everywhere; the second reads the basis twice for all
faces, and wants tensor cores; the third reads it once for each face, and wants cooperative launches and much shared
memory."""

_MODES = {"sample": 0, "threshold": 1, "expected": 2}


def possible_forms(card: Card, k: int, d: int, basis: str) -> tuple[str, ...]:
    """Those of :data:`FORMS` that a card can do of that subspace."""
    refused = {
        "one-pass": one_pass(card, k, d, basis) is None,
        "batched": any(batched(card, n, k, d, basis) is None for n in (1, MAX_BATCH)),
    }
    return tuple(form for form in FORMS if not refused.get(form, False))


class SubspaceKernels:
    """Launches mutation and projection for one subspace; for one thread and one stream at a time.

    Everything is allocated here, so that launches have fixed addresses and may be captured in a CUDA graph.

    Parameters
    ----------
    subspace : Subspace
        Copied to the card as it is stored.
    programs : Programs
        Of the card.
    stream : cuda.core.Stream
        Of the allocations and first copies.
    max_batch : int
        Faces of a call at most, 1 to 128.
    form : str, optional
        Of the projection; None chooses for each batch.
    batched_from : int, optional
        Faces from which None chooses the batched form, where the card can do it; None takes the launch plan's.
    probabilities : {"float32", "float16"}
        What the analyzer writes.

    Attributes
    ----------
    probabilities, numbers, faces : cuda.core.Buffer
        Inputs: p (N, K); the seed and the faces' running numbers (1 + N,) uint64, which only the mode "sample" reads;
        faces (N, D) float32 in [-1, 1].
    bits, rows, weights, counts : cuda.core.Buffer
        Antibodies as packed bits (N, ceil(K / 32)) uint32, and as the active rows (N, K) uint16 with their weights
        (N, K) float32, of which the first counts (N,) uint32 are there.
    faults : cuda.core.Buffer
        One uint32, a :class:`Fault`: what was wrong with values. Launches set bits, and clear none.
    pixels, projected : cuda.core.Buffer
        Outputs: projected faces (N, D) uint8, and float32 in [-1, 1] for a restorer.

    Raises
    ------
    UsageError
        If an argument is out of its range, or the card or the basis cannot do the form that is asked for, or any.
    InputError
        If the card has not the memory.
    """

    def __init__(
        self,
        subspace: Subspace,
        programs: Programs,
        *,
        stream: Any,
        max_batch: int = MAX_BATCH,
        form: str | None = None,
        batched_from: int | None = None,
        probabilities: str = "float32",
    ) -> None:
        if not 1 <= max_batch <= MAX_BATCH:
            raise UsageError(f"max_batch is {max_batch}, but it must be from 1 to {MAX_BATCH}.")
        if form is not None and form not in FORMS:
            raise UsageError(f"The form of the projection is {form!r}, but it must be one of {', '.join(FORMS)}.")
        if probabilities not in ("float32", "float16"):
            raise UsageError(f"The probabilities are {probabilities!r}, but they must be float32 or float16.")
        self.k, self.d, self.basis = subspace.k, subspace.d, subspace.basis.dtype.name
        self.max_batch, self.form, self.probability_dtype = max_batch, form, probabilities
        self._programs = programs
        if batched_from is not None and batched_from < 1:
            raise UsageError(f"batched_from is {batched_from}, but it must be 1 or above.")
        self._possible = possible_forms(programs.card, self.k, self.d, self.basis)
        usual = BATCHED_FROM if "one-pass" in self._possible else BATCHED_FROM_WITHOUT_ONE_PASS
        self._batched_from = usual if batched_from is None else batched_from
        self._once = one_pass(programs.card, self.k, self.d, self.basis)
        if form == "batched" and form not in self._possible:
            raise UsageError(
                f"The batched projection of K = {self.k}, {self.basis}, was asked for, but it needs rows in float16 or "
                f"int8 and a card from sm_80 on with 99 KiB of shared memory a block, and {programs.card.name} is "
                f"{programs.card.architecture} with {programs.card.shared_memory} bytes: use the two-pass form."
            )
        if form == "one-pass" and self._once is None:
            raise UsageError(
                f"The one-pass projection of K = {self.k}, {self.basis}, was asked for, but {programs.card.name} with "
                f"{programs.card.multiprocessors} multiprocessors of {programs.card.shared_memory} bytes cannot hold "
                "half of the rows: use the two-pass form."
            )
        if form != "one-pass":
            check_two_pass(programs.card, self.k, self.d, self.basis)
        self._stream, self._buffers = stream, list[Any]()
        try:
            self._allocate(subspace)
        except BaseException:
            self.close()
            raise

    def _allocate(self, subspace: Subspace) -> None:
        n, k, d = self.max_batch, self.k, self.d
        self.mean, self.rows_of_basis = self._copy(subspace.mean), self._copy(subspace.basis)
        self.scale = None if subspace.scale is None else self._copy(subspace.scale)
        self.probabilities = self._room(n * k * np.dtype(self.probability_dtype).itemsize)
        self.numbers, self.faces = self._room(8 * (1 + n)), self._room(4 * n * d)
        self.bits, self.counts, self.faults = self._room(4 * n * ((k + 31) // 32)), self._room(4 * n), self._room(4)
        self.rows, self.weights, self._found = self._room(2 * n * k), self._room(4 * n * k), self._room(4 * n * k)
        self.pixels, self.projected = self._room(n * d), self._room(4 * n * d)
        forms = {self._form(m) for m in range(1, n + 1)}
        self._partial = self._room(4 * self._once.partial) if self._once and "one-pass" in forms else None
        self._batched = None
        if "batched" in forms:
            self._batched = BatchedProjection(subspace, self._programs, self._room, max_batch=n)
        self._barrier = self._room(8)
        self.clear(stream=self._stream)
        self._stream.sync()  # memory of a stream's pool is there for other streams only now

    @property
    def written(self) -> tuple[Any, ...]:
        """Buffers that launches write before anything reads them: poisoned by whoever checks."""
        scratch = (() if self._partial is None else (self._partial,)) + (self._batched.written if self._batched else ())
        antibodies = (self.bits, self.rows, self.weights, self.counts)
        return (*antibodies, self._found, *scratch, self.projected, self.pixels)

    def clear(self, *, stream: Any) -> None:
        """Forget the faults, and set the barrier of the one-pass form anew."""
        self.faults.fill(0, stream=stream)
        self._barrier.fill(0, stream=stream)

    def mutate(self, n: int, *, mode: str, clone: int = 0, stream: Any) -> None:
        """Antibodies of the first n faces from `probabilities` and, in the mode "sample", `numbers`."""
        mode = check_mutation_mode(mode)
        plan = mutate_launch(self._within(n), self.k, self.probability_dtype)
        launch(
            self._programs, plan, stream, self.probabilities, self.numbers, np.uint32(clone), np.int32(self.k),
            np.int32(_MODES[mode]), self.bits, self.rows, self.weights, self.counts, self.faults,
        )  # fmt: skip

    def project(self, n: int, *, stream: Any) -> None:
        """The first n `faces` onto their active rows, to `pixels` and `projected`."""
        form, once = self._form(self._within(n)), self._once
        if form == "batched" and self._batched is not None:
            self._batched.project(
                n, faces=self.faces, mean=self.mean, basis=self.rows_of_basis, scale=self.scale, bits=self.bits,
                rows=self.rows, weights=self.weights, counts=self.counts, pixels=self.pixels, projected=self.projected,
                stream=stream,
            )  # fmt: skip
            return
        if form == "one-pass" and once is not None:
            launch(
                self._programs, once.launch, stream, self.faces, self.mean, self.rows_of_basis, self.scale,
                self.rows, self.weights, self.counts, np.int32(n), np.int32(self.k), np.int32(self.d),
                np.int32(once.strip), np.int32(once.capacity), self._partial, self._found, self._barrier,
                self.pixels, self.projected,
            )  # fmt: skip
            return
        size = np.int32(self.k), np.int32(self.d)
        launch(
            self._programs, coefficients_launch(n, self.k, self.d, self.basis), stream, self.faces,
            self.mean, self.rows_of_basis, self.scale, self.rows, self.weights, self.counts, *size, self._found,
        )  # fmt: skip
        launch(
            self._programs, reconstruct_launch(n, self.k, self.d, self.basis), stream, self.mean, self.rows_of_basis,
            self.rows, self._found, self.counts, *size, self.pixels, self.projected,
        )  # fmt: skip

    def close(self) -> None:
        """Give the card's memory back."""
        while self._buffers:
            self._buffers.pop().close()

    def _form(self, n: int) -> str:
        """What n faces are projected by."""
        if self.form is not None:
            return self.form
        if "batched" in self._possible and n >= self._batched_from:
            return "batched"
        return "one-pass" if "one-pass" in self._possible and n <= ONE_PASS_UP_TO else "two-pass"

    def _within(self, n: int) -> int:
        if not 1 <= n <= self.max_batch:
            raise UsageError(f"There are {n} faces, but these kernels were made for 1 to {self.max_batch}.")
        return n

    def _room(self, size: int) -> Any:
        advice = f"close another user of it, or make max_batch = {self.max_batch} smaller"
        self._buffers.append(allocate(self._programs.device, size, stream=self._stream, advice=advice))
        return self._buffers[-1]

    def _copy(self, array: Any) -> Any:
        staging, buffer = Staging(array.nbytes), self._room(array.nbytes)
        staging.put(array, buffer, stream=self._stream)
        self._stream.sync()
        staging.close()
        return buffer
