"""Mutation: from activation probabilities to the antibody, which decides what eigenfaces stay."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from immunecam.errors import InputError, UsageError
from immunecam.kernels.philox import uniforms

__all__ = [
    "INVALID_PROBABILITIES",
    "MUTATION_MODES",
    "MutationMode",
    "check_mutation_mode",
    "check_probabilities",
    "mutate",
]

MutationMode: TypeAlias = Literal["sample", "threshold", "expected"]
"""``sample``: a Bernoulli draw (the papers). ``threshold``: p > 0.5. ``expected``: p itself as weights."""

MUTATION_MODES: tuple[MutationMode, ...] = get_args(MutationMode)

INVALID_PROBABILITIES = "The probabilities hold a value outside [0, 1] or NaN: check the analyzer."
"""What is said of them, wherever they are looked at."""


def mutate(
    p: NDArray[np.float32],
    *,
    mode: MutationMode,
    seed: int | None = None,
    images: ArrayLike | None = None,
    clones: int | None = None,
) -> NDArray[np.bool_] | NDArray[np.float32]:
    """Antibody of each face.

    Parameters
    ----------
    p : ndarray of float32, shape (N, K)
        Activation probability of each eigenface, in [0, 1].
    mode : {"sample", "threshold", "expected"}
        ``sample``: bit k is ``u_k < p_k`` with the uniforms of :func:`immunecam.kernels.philox.uniforms`.
        ``threshold``: bit k is ``p_k > 0.5``. ``expected``: the weights p, without randomness.
    seed : int, optional
        64-bit key of the random numbers; needed by ``sample`` only.
    images : array_like of int, shape (N,), optional
        Running number of each face; needed by ``sample`` only.
    clones : int, optional
        S independent antibodies of each face (``sample`` only). None gives one, without a clone axis,
        equal to clone 0.

    Returns
    -------
    ndarray, shape (N, K), or (N, S, K) when ``clones`` is given
        bool in the modes ``sample`` and ``threshold``, float32 in ``expected``.

    Raises
    ------
    InputError
        If ``p`` has a wrong shape or dtype or a value outside [0, 1].
    UsageError
        If the mode is unknown, or ``sample`` lacks its seed or one image number a face, or clones
        are asked of a mode that draws none.
    """
    mode = check_mutation_mode(mode)
    check_probabilities(p)
    if mode != "sample":
        if clones is not None:
            raise UsageError(f"clones={clones} was given with the mode {mode!r}, but only 'sample' draws clones.")
        above: NDArray[np.bool_] = p > np.float32(0.5)
        return above if mode == "threshold" else p.copy()
    if seed is None or images is None:
        missing = "seed" if seed is None else "images"
        raise UsageError(f"The mode 'sample' needs {missing}=, but it was not given.")
    u = uniforms(seed, images, 1 if clones is None else clones, p.shape[1])
    if u.shape[0] != p.shape[0]:
        raise UsageError(f"There are {u.shape[0]} image numbers for {p.shape[0]} faces, but each face needs one.")
    bits: NDArray[np.bool_] = u < p[:, None, :]
    return bits[:, 0] if clones is None else bits


def check_mutation_mode(mode: str) -> MutationMode:
    """The mode itself if it is one of :data:`MUTATION_MODES`; a UsageError otherwise."""
    for known in MUTATION_MODES:
        if mode == known:
            return known
    raise UsageError(f"The mutation mode is {mode!r}, but it must be one of {', '.join(MUTATION_MODES)}.")


def check_probabilities(p: Any) -> None:
    """Raise an InputError unless ``p`` is a float32 array (N, K) of values in [0, 1]."""
    if not isinstance(p, np.ndarray) or p.dtype != np.float32:
        found = p.dtype if isinstance(p, np.ndarray) else type(p).__name__
        raise InputError(f"The probabilities are {found}, but they must be a float32 array.")
    if p.ndim != 2 or p.shape[1] < 1:
        raise InputError(f"The probabilities have the shape {p.shape}, but it must be (N, K).")
    if p.size and not (p.min() >= 0.0 and p.max() <= 1.0):  # so that NaN fails too
        raise InputError(INVALID_PROBABILITIES)
