"""Grids, blocks and shared memory of every launch, and the limits that they keep: arithmetic, without a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from immunecam.errors import UsageError
from immunecam.kernels.cuda.card import Card

__all__ = [
    "BATCHED_FROM",
    "BATCHED_FROM_WITHOUT_ONE_PASS",
    "MAX_BATCH",
    "ONE_PASS_UP_TO",
    "PIECE",
    "Batched",
    "Launch",
    "OnePass",
    "align_launch",
    "batched",
    "check_two_pass",
    "coefficients_launch",
    "mutate_launch",
    "one_pass",
    "paste_launch",
    "quantize_launch",
    "reconstruct_launch",
    "take_launch",
]

MAX_BATCH = 128
"""Faces of one launch at most."""

PIECE = 16
"""Bytes that a thread reads of a row at a time."""

# By the bytes that each form moves; not measured yet.
BATCHED_FROM = 3
"""Faces from which two passes that all faces share are expected to beat one pass a face, one face after another."""

BATCHED_FROM_WITHOUT_ONE_PASS = 2
"""The same where the other form is two passes a face."""

ONE_PASS_UP_TO = 8
"""Faces up to which the one-pass form is expected to beat two passes a face, where no passes can be shared."""

_ITEM = {"float32": 4, "float16": 2, "int8": 1}
_SIDE = 112
_FLOAT = 4

# Numbers that stand in the sources under the same names.
_THREADS = 256
_ONCE_THREADS = 512
_ROWS_A_BLOCK = 8 * 4  # warps times rows of a warp, of the first pass
_LANES = 16
_TILE = (32, 8)  # pixels of the frame that a block of the paste owns


@dataclass(frozen=True)
class _Shape:
    """`Shape` of batch_product.cuh: what a block works on."""

    faces: int
    columns: int
    depth: int
    stages: int
    blocks: int  # that a multiprocessor is meant to have at a time


_FEW = _Shape(32, 96, 64, 4, 2)
_MANY_FIRST, _MANY_SECOND = _Shape(128, 192, 32, 3, 1), _Shape(128, 96, 32, 4, 1)

# Of D, that one sum of the tensor cores may take in the first pass of many faces: such sums are truncated.
_LONGEST_SUM = 1024

_TENSOR_CORES = (8, 0)  # of the instructions that the batched form uses


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes
    ----------
    kernel : str
        Its name in the program.
    grid : (int, int)
        Blocks.
    block : int
        Threads of a block.
    shared : int
        Bytes of dynamic shared memory of a block.
    cooperative : bool
        Whether all blocks must be on the card at once.
    """

    kernel: str
    grid: tuple[int, int]
    block: int
    shared: int = 0
    cooperative: bool = False


@dataclass(frozen=True)
class OnePass:
    """The projection that reads the basis once, laid over a card.

    Attributes
    ----------
    launch : Launch
        The same for every batch.
    strip : int
        Pieces of every row that a block owns.
    capacity : int
        Active rows that fit in shared memory; what is beyond them is read twice.
    partial : int
        Floats of scratch for the blocks' shares of the coefficients.
    """

    launch: Launch
    strip: int
    capacity: int
    partial: int


@dataclass(frozen=True)
class Batched:
    """The projection whose passes all faces share, for one number of faces.

    Attributes
    ----------
    centre, coefficients, weigh, reconstruct : Launch
        In this order.
    steps : int
        Steps of D that a block of the second launch takes.
    splits : int
        Parts of D, each summed by its own blocks.
    pitch : int
        Coefficients of a face, with padding.
    """

    centre: Launch
    coefficients: Launch
    weigh: Launch
    reconstruct: Launch
    steps: int
    splits: int
    pitch: int


def mutate_launch(n: int, k: int, dtype: str) -> Launch:
    """Mutation of n faces with probabilities in float32 or float16."""
    _check(n, k)
    return Launch(f"mutate_{dtype}", (n, 1), _THREADS)


def coefficients_launch(n: int, k: int, d: int, basis: str) -> Launch:
    """First pass: the coefficients of the active rows of n faces; blocks beyond a face's active rows end at once."""
    _check(n, k)
    _check_row(d, basis)
    return Launch(f"coefficients_{basis}", (_blocks(k, _ROWS_A_BLOCK), n), _THREADS, shared=d * _FLOAT)


def reconstruct_launch(n: int, k: int, d: int, basis: str) -> Launch:
    """Second pass: the faces from their coefficients."""
    _check(n, k)
    pieces = _check_row(d, basis)
    return Launch(f"reconstruct_{basis}", (_blocks(pieces, _LANES), n), _THREADS, shared=k * (_FLOAT + 2))


def check_two_pass(card: Card, k: int, d: int, basis: str) -> None:
    """Raise a UsageError unless a block of either pass finds its shared memory on the card."""
    first, second = coefficients_launch(1, k, d, basis), reconstruct_launch(1, k, d, basis)
    sums = _FLOAT * _THREADS * (PIECE // _ITEM[basis])  # static, beside what the second launch asks for
    for launch, static in ((first, 0), (second, sums)):
        if launch.shared + static > card.shared_memory:
            raise UsageError(
                f"The projection of K = {k} eigenfaces of {d} pixels, {basis}, wants {launch.shared + static} bytes of "
                f"shared memory a block ({launch.kernel}), but {card.name} gives one {card.shared_memory} at most: use "
                "a smaller subspace, or --provider cpu."
            )


def one_pass(card: Card, k: int, d: int, basis: str) -> OnePass | None:
    """The one-pass projection, or None where the card cannot do it or would not gain by it.

    Every multiprocessor has one block, which keeps a strip of the active rows: all rows, a few pieces of each. It gains
    where half of the rows fit, which is as many as an antibody usually leaves active.
    """
    _check(1, k)
    pieces = _check_row(d, basis)
    values = PIECE // _ITEM[basis]
    strip = _blocks(pieces, card.multiprocessors)
    if not card.cooperative or strip > _ONCE_THREADS:
        return None
    blocks = _blocks(pieces, strip)
    groups = _ONCE_THREADS // strip
    # In the order in which the kernel lays them out: face and mean, weights, sums of the groups.
    besides = _FLOAT * (2 * strip * values + _blocks(k, 4) * 4 + groups * strip * values)
    capacity = min(k, (card.shared_memory - besides) // (strip * PIECE))
    if 2 * capacity < k:
        return None
    launch = Launch(
        f"project_once_{basis}", (blocks, 1), _ONCE_THREADS, shared=capacity * strip * PIECE + besides, cooperative=True
    )
    return OnePass(launch, strip, capacity, partial=k * blocks)


def batched(card: Card, n: int, k: int, d: int, basis: str) -> Batched | None:
    """The projection of n faces on tensor cores, or None where the card or the basis does not allow it.

    A float32 row is no sum of two halves that two products would do for, so such a basis is left to the other forms.
    """
    _check(n, k)
    _check_row(d, basis)
    if card.compute_capability < _TENSOR_CORES or basis == "float32":
        return None
    few = n <= _FEW.faces
    first, second = (_FEW, _FEW) if few else (_MANY_FIRST, _MANY_SECOND)
    word = "few" if few else "many"
    shared_first = _stages(first, basis, first.columns, 0) + _FLOAT * (first.columns // 32)
    rows_in_steps = _blocks(k, second.depth) * second.depth
    shared_second = _stages(second, basis, second.depth, 1) + _FLOAT * (rows_in_steps // 32)
    if max(shared_first, shared_second) > card.shared_memory:
        return None
    tiles, all_steps = _blocks(k, first.columns), _blocks(d, first.depth)
    splits = max(1, first.blocks * card.multiprocessors // tiles)
    steps = min(_blocks(all_steps, splits), all_steps if few else _LONGEST_SUM // first.depth)
    splits = _blocks(all_steps, steps)  # every part has work
    pitch = _blocks(k, 8) * 8
    return Batched(
        centre=Launch("centre_halves", (_blocks(d // 8, _THREADS), n), _THREADS),
        coefficients=Launch(f"{word}_coefficients_{basis}", (tiles, splits), _THREADS, shared_first),
        weigh=Launch("weigh_halves", (_blocks(pitch, _THREADS), n), _THREADS),
        reconstruct=Launch(f"{word}_reconstruct_{basis}", (_blocks(d, second.columns), 1), _THREADS, shared_second),
        steps=steps,
        splits=splits,
        pitch=pitch,
    )


def take_launch(n: int, d: int, dtype: str) -> Launch:
    """n faces as they are given, "uint8" or "float32"."""
    _check(n, 1)
    return Launch(f"take_{dtype}", (_blocks(d, _THREADS), n), _THREADS)


def quantize_launch(n: int, d: int) -> Launch:
    """n faces to 8-bit pixels."""
    _check(n, 1)
    return Launch("quantize_float32", (_blocks(d, _THREADS), n), _THREADS)


def align_launch(n: int, layout: str) -> Launch:
    """n faces out of a frame of that layout, "bgr" or "nv12"."""
    _check(n, 1)
    return Launch(f"align_{layout}", (_blocks(_SIDE * _SIDE, _THREADS), n), _THREADS)


def paste_launch(width: int, height: int, layout: str) -> Launch:
    """Faces back into a region of a frame; a thread has a pixel of BGR, or four of NV12, which share their chroma."""
    if width < 1 or height < 1:
        raise UsageError(f"The region to paste into is {width}x{height} pixels, but it must have one at least.")
    across, down = _TILE if layout == "bgr" else (2 * _TILE[0], 2 * _TILE[1])
    return Launch(f"paste_{layout}", (_blocks(width, across), _blocks(height, down)), _THREADS)


def _stages(shape: _Shape, basis: str, rows: int, padding: int) -> int:
    """Bytes of the stages of faces and of a tile of so many rows, and of the tile that int8 is converted to."""
    values = shape.columns * shape.depth // rows
    tile, faces = rows * (values // 8 + padding) * PIECE, 2 * shape.faces * shape.depth * 2
    if basis == "int8":
        return shape.stages * (faces + rows * values) + tile
    return shape.stages * (faces + tile)


def _check(n: int, k: int) -> None:
    if not 1 <= n <= MAX_BATCH:
        raise UsageError(f"There are {n} faces, but a launch takes 1 to {MAX_BATCH}: split the batch.")
    if not 1 <= k <= 1 << 16:
        raise UsageError(f"The subspace has K = {k} eigenfaces, but the kernels number them in 16 bits.")


def _check_row(d: int, basis: str) -> int:
    """Pieces of a row."""
    if basis not in _ITEM:
        raise UsageError(f"The basis is {basis}, but there are kernels for {', '.join(_ITEM)}.")
    if d % PIECE:
        raise UsageError(f"The subspace has D = {d} pixels, but the kernels need a multiple of {PIECE}.")
    return d * _ITEM[basis] // PIECE


def _blocks(count: int, size: int) -> int:
    return -(-count // size)
