"""The runtime's own purifier on a card: times as a caller sees them, and how far it is from the CPU."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.card.frame_checks import random_faces
from immunecam.benchmarks.card.timing import WARM_SECONDS, timing_of
from immunecam.benchmarks.card.torch_engine import open_torch
from immunecam.errors import ImmuneCamError
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.card import CardPurifier, open_card
from immunecam.runtime.purifier import Purifier

if TYPE_CHECKING:
    from immunecam.runtime.faces import Face

__all__ = ["PROVIDERS", "runtime_failures", "runtime_times"]

PROVIDERS = ("cuda", "tensorrt", "torch")
"""Who may run the networks; the last is the benchmark's own, for a machine that has neither of the others."""

_SIDE = 112
_SEED = 7
# Grey levels on average: probabilities differ by rounding, which now and then tips a bit of an antibody.
_MEAN = 1.0


def runtime_times(
    bundle: Bundle,
    faces: NDArray[np.float32],
    *,
    frame: NDArray[np.uint8] | None = None,
    device: int = 0,
    prebuilt: Path | None = None,
    batches: Sequence[int] = (1, 8, 32, 128),
    repeats: int = 100,
    providers: Sequence[str] = PROVIDERS,
    to_card: Callable[[NDArray[Any]], Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """The purifier that keeps faces on a card, with its networks by every provider, or why one is not there.

    Parameters
    ----------
    faces : ndarray of float32, shape (M, 112, 112)
        In [-1, 1], one at least; repeated to fill a batch.
    frame : ndarray of uint8, shape (H, W, 3), optional
        BGR; four faces at random places of it go through `purify_frame`, where OpenCV is installed.
    device : int
        Number of the card.
    prebuilt : path, optional
        Folder of kernels that were built ahead of time.
    providers : sequence of str
        Which of :data:`PROVIDERS`.
    to_card : callable, optional
        From an array of the host to one on the card; None takes PyTorch's.

    Yields
    ------
    dict
        "provider", "bundle", and either "missing", or "batch", "path" ("host to host", "card to card", "networks and
        kernels", which leaves out the way in and out, or "frame"), "graph" (whether it is one), times by the host's
        clock, and, where there are pixels, the difference from the CPU in grey levels.
    """
    place = _torch_to_card if to_card is None else to_card
    reference = Purifier.load(bundle, provider="cpu", seed=_SEED)
    for provider in providers:
        common: dict[str, Any] = {"provider": provider, "bundle": bundle.name}
        try:
            if provider == "torch":
                card = open_torch(bundle, device=device, prebuilt=prebuilt, max_batch=max(batches))
            else:
                card = open_card(bundle, provider, device=device, prebuilt=prebuilt, max_batch=max(batches))
        except (ImmuneCamError, ImportError) as error:
            yield common | {"missing": str(error)}
            continue
        with card:
            for n in batches:
                yield from _batch(card, reference, np.resize(faces, (n, _SIDE, _SIDE)), common, repeats, place)
            if frame is not None and importlib.util.find_spec("cv2") is not None:
                yield _frame(card, reference, frame, common, repeats)


def runtime_failures(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row, if anything."""
    if row.get("mean_difference_grey", 0.0) > _MEAN:
        return [f"{row['mean_difference_grey']:.2f} grey levels from the CPU on average, above {_MEAN}"]
    return []


def _batch(
    card: CardPurifier,
    reference: Purifier,
    faces: NDArray[np.float32],
    common: dict[str, Any],
    repeats: int,
    place: Callable[[NDArray[Any]], Any],
) -> Iterator[dict[str, Any]]:
    n = len(faces)
    wanted = reference.purify_batch(faces, first_image=0).purified
    given = place(faces)
    calls: dict[str, Callable[[], NDArray[np.uint8]]] = {
        "host to host": lambda: card.purify(faces, seed=_SEED, first_image=0)[0],
        "card to card": lambda: card.purify_on_card(given, seed=_SEED, first_image=0).to_numpy(),
    }
    timed: dict[str, Callable[[], Any]] = {
        "host to host": calls["host to host"],
        "card to card": lambda: card.purify_on_card(given, seed=_SEED, first_image=0),
        "networks and kernels": lambda: _networks(card, n),
    }
    for path, call in timed.items():
        for _ in range(3):
            call()
        row = common | {"batch": n, "path": path, "graph": card.pipeline.has_graph(n), **_time(call, repeats)}
        if path in calls:
            row |= _difference(calls[path]().astype(int) - wanted)
        yield row


class _Places:
    """A finder that knows where the faces are."""

    def __init__(self, found: list[Face]) -> None:
        self._found = found

    def find(self, frame: NDArray[np.uint8]) -> list[Face]:
        return self._found


def _frame(
    card: CardPurifier, reference: Purifier, frame: NDArray[np.uint8], common: dict[str, Any], repeats: int
) -> dict[str, Any]:
    purifier = Purifier(reference.bundle, card, seed=_SEED)
    finder = _Places(random_faces(*frame.shape[:2], 4, np.random.default_rng()))
    # Both give their first face the number 0, so that antibodies are the same.
    reference = Purifier.load(reference.bundle, provider="cpu", seed=_SEED)
    found, wanted = purifier.purify_frame(frame, finder), reference.purify_frame(frame, finder)
    timing = _time(lambda: purifier.purify_frame(frame, finder), repeats)
    difference = _difference(found.frame.astype(int) - wanted.frame)
    return common | {
        "batch": 4,
        "path": "frame",
        "graph": card.pipeline.has_graph(min(4, card.max_batch)),
        **timing,
        **difference,
    }


def _difference(values: NDArray[np.integer]) -> dict[str, Any]:
    size = np.abs(values)
    return {
        "mean_difference_grey": round(float(size.mean()), 4),
        "largest_difference_grey": int(size.max()),
        "differing_pixels_percent": round(100 * float((size > 0).mean()), 4),
    }


def _networks(card: CardPurifier, n: int) -> None:
    with card.launching(n):
        card.pipeline.run(n)
        card.stream.sync()


def _time(call: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Every call waits for its results, so the host's clock tells; after a warm-up."""
    warm = time.monotonic() + WARM_SECONDS
    while time.monotonic() < warm:
        call()
    measured = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        measured.append(1e6 * (time.perf_counter() - began))
    return timing_of(measured, together=1).to_dict()


def _torch_to_card(array: NDArray[Any]) -> Any:
    """With rows that lie apart, as those of pitched memory do; what lies between is no face."""
    import torch

    room = torch.full((*array.shape[:2], 128), torch.nan, device="cuda")
    room[:, :, :_SIDE] = torch.from_numpy(array)
    return room[:, :, :_SIDE]
