"""The kernels against a float64 reference, on fresh random and real faces, with poisoned outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.kernels import MUTATION_MODES, Subspace, mutate
from immunecam.kernels.cuda import FORMS, Fault, Programs, SubspaceKernels, possible_forms
from immunecam.kernels.cuda.staging import Staging

__all__ = ["BASES", "check_kernels", "failures", "random_subspace"]

BASES = ("float32", "float16", "int8")

# ||out - reference|| / ||reference||: the reference has the stored basis and the same antibody, so what is left is
# float32 rounding.
_RELATIVE = 2e-5
_POISON = 0xA5


def random_subspace(k: int, d: int, basis: str, rng: np.random.Generator) -> Subspace:
    """Random rows of unit length; nearly orthogonal, and as good as eigenfaces for arithmetic and time."""
    rows = rng.standard_normal((k, d)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    mean = rng.uniform(-0.4, 0.4, d).astype(np.float32)
    if basis != "int8":
        return Subspace(mean, rows.astype(basis))
    scale = (np.abs(rows).max(1) / 127).astype(np.float32)
    return Subspace(mean, np.rint(rows / scale[:, None]).astype(np.int8), scale)


def check_kernels(
    programs: Programs,
    stream: Any,
    faces: NDArray[np.float32],
    *,
    k: int = 1500,
    batches: Sequence[int] = (1, 3, 8, 32, 33, 128),
    bases: Sequence[str] = BASES,
    forms: Sequence[str] = FORMS,
    seed: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Every mode, basis format, form and batch, each compared once and run twice.

    Parameters
    ----------
    programs : Programs
        Of the card.
    stream : cuda.core.Stream
        Of the launches.
    faces : ndarray of float32, shape (M, H, W)
        Real ones in [-1, 1], M may be 0; half of each batch is of them, the rest is random.
    k : int
        Eigenfaces.
    batches, bases, forms : sequence
        Which; a form that the card cannot do is passed over.
    seed : int, optional
        None takes fresh numbers.

    Yields
    ------
    dict
        The case, "bits_equal", "relative_error", "largest_grey_difference", "differing_pixels_percent" and
        "bit_equal_runs".
    """
    rng = np.random.default_rng(seed)
    height, width = faces.shape[1:]
    d = height * width
    for basis in bases:
        space = random_subspace(k, d, basis, rng)
        rows = space.basis.astype(np.float64) * (
            1.0 if space.scale is None else space.scale[:, None].astype(np.float64)
        )
        possible = possible_forms(programs.card, k, d, basis)
        for form in (form for form in forms if form in possible):
            for n in batches:
                case = {"basis": basis, "form": form, "batch": n, "k": k}
                try:
                    yield from _cases(space, rows, programs, stream, faces, n, form, case, rng)
                except Exception as error:  # whatever a driver raises: the other cases are still worth their time
                    yield case | {"mode": "any", "error": " ".join(str(error).split())[:300]}


def failures(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row, if anything."""
    if "error" in row:
        return [row["error"]]
    found = []
    if not row["bits_equal"]:
        found.append("the antibody differs from the reference")
    if not row["relative_error"] <= _RELATIVE:  # so that NaN fails, too
        found.append(f"the relative error is {row['relative_error']:.1e}, above {_RELATIVE:.0e}")
    if row["largest_grey_difference"] > 1:
        found.append(f"a pixel differs by {row['largest_grey_difference']} grey levels")
    if not row["bit_equal_runs"]:
        found.append("two equal runs differ")
    if row["invalid"] != row["invalid_expected"]:
        found.append(f"the faults that kernels report are {row['invalid']}")
    return found


def _cases(
    space: Subspace,
    rows: NDArray[np.float64],
    programs: Programs,
    stream: Any,
    faces: NDArray[np.float32],
    n: int,
    form: str,
    case: dict[str, Any],
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """Every mode; then half probabilities with a later clone, and one that is no number."""
    for probabilities in ("float32", "float16"):
        kernels = SubspaceKernels(space, programs, stream=stream, max_batch=n, form=form, probabilities=probabilities)
        batch = _batch(faces, n, rng)
        if probabilities == "float32":
            for mode in MUTATION_MODES:
                yield case | {"mode": mode} | _one(kernels, space, rows, batch, mode, rng, stream)
            more = {"mode": "sample, one p is NaN"}
            yield case | more | _one(kernels, space, rows, batch, "sample", rng, stream, broken=True)
        else:
            more = {"mode": "sample, float16 p, clone 3"}
            yield case | more | _one(kernels, space, rows, batch, "sample", rng, stream, clone=3)
        kernels.close()


def _batch(faces: NDArray[np.float32], n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    batch = rng.uniform(-1, 1, (n, *faces.shape[1:])).astype(np.float32)
    if len(faces):
        real = rng.permutation(n)[: (n + 1) // 2]
        batch[real] = faces[rng.integers(0, len(faces), len(real))]
    return batch


def _one(
    kernels: SubspaceKernels,
    space: Subspace,
    rows: NDArray[np.float64],
    faces: NDArray[np.float32],
    mode: str,
    rng: np.random.Generator,
    stream: Any,
    *,
    clone: int = 0,
    broken: bool = False,
) -> dict[str, Any]:
    n, k = len(faces), space.k
    p = rng.random((n, k)).astype(kernels.probability_dtype)
    p.reshape(-1)[rng.integers(0, p.size, 20)] = rng.choice([0.0, 0.5, 1.0], 20)
    images = rng.integers(0, 2**64, n, dtype=np.uint64)
    key = int(rng.integers(0, 2**64, dtype=np.uint64))
    given = p.copy()
    if broken:
        given[-1, -1] = np.nan
        p[-1, -1] = 0.0  # which leaves its row inactive, as no number does
    numbers = np.concatenate([np.array([key], np.uint64), images])
    for array, buffer in ((given, kernels.probabilities), (numbers, kernels.numbers), (faces, kernels.faces)):
        staging = Staging(array.nbytes)
        staging.put(array, buffer, stream=stream)
        stream.sync()
        staging.close()
    kernels.clear(stream=stream)
    outputs, runs = (kernels.bits, kernels.projected, kernels.pixels), []
    for _ in range(2):
        for buffer in kernels.written:
            buffer.fill(_POISON, stream=stream)
        kernels.mutate(n, mode=mode, clone=clone, stream=stream)
        kernels.project(n, stream=stream)
        runs.append([_bytes(buffer, stream) for buffer in outputs])
    bits, projected, pixels = runs[0]
    p = p.astype(np.float32)
    antibody = mutate(p, mode=mode, seed=key, images=images, clones=clone + 1 if clone else None)
    antibody = antibody[:, clone] if clone else antibody
    mean = space.mean.astype(np.float64)
    flat = faces.reshape(n, -1).astype(np.float64)
    wanted = np.clip(mean + (((flat - mean) @ rows.T) * antibody.astype(np.float64)) @ rows, -1, 1)
    found = projected.view(np.float32).reshape(n, -1).astype(np.float64)
    grey = np.abs(pixels.reshape(n, -1).astype(int) - np.rint((wanted + 1) * 127.5).astype(int))
    unpacked = np.unpackbits(bits.reshape(n, -1), axis=1, bitorder="little")
    relative = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    return {
        "bits_equal": bool(np.array_equal(unpacked[:, :k], antibody > 0) and not unpacked[:, k:].any()),
        "relative_error": relative if np.isfinite(relative) else 1e30,  # JSON knows no NaN
        "largest_grey_difference": int(grey.max()),
        "differing_pixels_percent": round(100 * float((grey > 0).mean()), 4),
        "bit_equal_runs": all(np.array_equal(a, b) for a, b in zip(*runs, strict=True)),
        "invalid": int(_bytes(kernels.faults, stream).view(np.uint32)[0]),
        "invalid_expected": int(Fault.PROBABILITY) if broken else 0,
    }


def _bytes(buffer: Any, stream: Any) -> NDArray[np.uint8]:
    staging = Staging(buffer.size)
    found = staging.get(buffer, stream=stream)
    staging.close()
    return found
