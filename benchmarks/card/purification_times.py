"""Whole purifications on a card: analysis, mutation, projection, restoration, with and without a CUDA graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from immunecam.benchmarks.card import forms
from immunecam.benchmarks.card.checks import random_subspace
from immunecam.benchmarks.card.torch_timing import time_calls
from immunecam.kernels import Subspace
from immunecam.kernels.cuda import Programs, SubspaceKernels
from immunecam.models import Eigenspace, Purification, build_model

if TYPE_CHECKING:
    from immunecam.runtime.purifier import Purifier

__all__ = ["CardPurification", "Purified", "drawn_networks", "purification_times"]


@dataclass(frozen=True)
class Purified:
    """What purifies.

    Attributes
    ----------
    name : str
        In the table.
    networks : Purification
        On the card, in float32.
    subspace : Subspace
        The same eigenfaces, as the kernels take them.
    reference : Purifier, optional
        The same on the CPU, with the seed 7.
    """

    name: str
    networks: Purification
    subspace: Subspace
    reference: Purifier | None = None


def drawn_networks(name: str, kind: str, k: int, options: dict[str, Any]) -> Purified:
    """A network of that kind and those options with random weights, and random eigenfaces: as good for times."""
    torch.manual_seed(0)
    network = build_model(kind, k, options).eval()
    subspace = random_subspace(k, 112 * 112, "int8", np.random.default_rng(0))
    rows = torch.from_numpy(subspace.dequantized())
    space = Eigenspace(torch.from_numpy(subspace.mean), rows, torch.zeros(k))
    networks = Purification(space, network, network.restorer).cuda().requires_grad_(False)
    return Purified(f"{name}, random weights", networks, subspace)


class CardPurification:
    """Networks by PyTorch, mutation and projection by the kernels, on one stream of a card.

    Parameters
    ----------
    networks : Purification
        On the card; in half precision, they get and give half.
    subspace : Subspace
        Its eigenfaces.
    programs : Programs
        Of the card.
    batch : int
        Faces of a call.
    seed : int
        Of the antibodies.
    """

    def __init__(
        self, networks: Purification, subspace: Subspace, programs: Programs, batch: int, seed: int = 0
    ) -> None:
        from cuda.core import Stream

        self.batch = batch
        self.stream = torch.cuda.Stream()
        self._core = Stream.from_handle(self.stream.cuda_stream)
        self.networks, self._dtype = networks, networks.eigenspace.basis.dtype
        self.kernels = SubspaceKernels(subspace, programs, stream=self._core, max_batch=batch)
        k, side = self.kernels.k, (112, 112)
        self.faces = _view(self.kernels.faces, torch.float32, batch, *side)
        self.numbers = _view(self.kernels.numbers, torch.int64, 1 + batch)  # the seed, then the faces'
        self._p = _view(self.kernels.probabilities, torch.float32, batch, k)
        self._pixels = _view(self.kernels.pixels, torch.uint8, batch, *side)
        self.purified = torch.empty((batch, *side), dtype=torch.uint8, device="cuda")
        self.numbers.copy_(torch.tensor([seed, *range(batch)]))
        self._graph: torch.cuda.CUDAGraph | None = None

    @torch.no_grad()
    def run(self) -> None:
        """`faces` to `purified`, launched one by one."""
        with torch.cuda.stream(self.stream):
            self._launch()

    def replay(self) -> None:
        """The same as one CUDA graph, captured at the first call."""
        if self._graph is None:
            for _ in range(3):
                self.run()
            self.stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.no_grad(), torch.cuda.graph(self._graph, stream=self.stream, capture_error_mode="thread_local"):
                self._launch()
        with torch.cuda.stream(self.stream):
            self._graph.replay()

    def close(self) -> None:
        """Give the card's memory back."""
        self.stream.synchronize()
        self._graph = None
        self.kernels.close()

    def _launch(self) -> None:
        faces = self.faces.to(self._dtype)
        self._p.copy_(self.networks.analyze(faces))
        self.kernels.mutate(self.batch, mode="sample", stream=self._core)
        self.kernels.project(self.batch, stream=self._core)
        if self.networks.restore is None:
            self.purified.copy_(self._pixels)
            return
        # The restorer gets the projected face rounded to 8 bits, as in the product.
        restored = self.networks.restore(faces, self._pixels.to(self._dtype) / 127.5 - 1).float()
        self.purified.copy_(((restored.clamp(-1, 1) + 1) * 127.5).round())


def purification_times(
    purified: Purified,
    programs: Programs,
    faces: NDArray[np.float32],
    *,
    batches: Sequence[int] = (1, 8, 32, 128),
    repeats: int = 100,
) -> Iterator[dict[str, Any]]:
    """Times of whole purifications, and how far they are from the runtime on the CPU.

    Yields
    ------
    dict
        "form" ("launches", "graph", or "paper, eager": the same networks, and the published projection), "networks"
        (their precision), batch, times; of a graph also the mean and largest difference from ONNX Runtime on the CPU,
        in grey levels, where that is there. Half precision tips bits of the antibodies, so it differs by more.
    """
    half = copy.deepcopy(purified.networks).half()
    for n in batches:
        batch = np.resize(faces, (n, 112, 112)).astype(np.float32)
        wanted = None
        if purified.reference is not None:
            wanted = purified.reference.purify_batch(batch, first_image=0).purified
        for precision, networks in (("float32", purified.networks), ("float16", half)):
            common = {"bundle": purified.name, "batch": n, "k": purified.subspace.k, "networks": precision}
            try:
                made = CardPurification(networks, purified.subspace, programs, n, 7)
                try:
                    yield from _forms(made, batch, wanted, common, repeats)
                finally:
                    made.close()
            except Exception as error:  # an operator without half precision, or no memory, leaves the others theirs
                yield common | {"form": "graph", "error": " ".join(str(error).split())[:300]}


def _forms(
    made: CardPurification,
    batch: NDArray[np.float32],
    wanted: NDArray[np.uint8] | None,
    common: dict[str, Any],
    repeats: int,
) -> Iterator[dict[str, Any]]:
    made.faces.copy_(torch.from_numpy(batch))
    torch.cuda.synchronize()
    whole = common["networks"] == "float32"
    if whole:
        yield common | {"form": "launches", **time_calls(made.run, repeats=repeats, stream=made.stream).to_dict()}
    timing = time_calls(made.replay, repeats=repeats, stream=made.stream)
    torch.cuda.synchronize()
    row = common | {"form": "graph", **timing.to_dict()}
    if wanted is not None:
        difference = np.abs(made.purified.cpu().numpy().astype(int) - wanted)
        row |= {
            "mean_difference_grey": round(float(difference.mean()), 4),
            "largest_difference_grey": int(difference.max()),
        }
    yield row
    if whole:
        few = max(5, repeats // len(batch))
        yield common | {"form": "paper, eager", **time_calls(lambda: _published(made), repeats=few).to_dict()}


@torch.no_grad()
def _published(made: CardPurification) -> None:
    networks, x = made.networks, made.faces
    space = networks.eigenspace
    projected = forms.paper(x.flatten(1), networks.analyze(x), space.mean, space.basis).reshape(x.shape)
    if networks.restore is not None:
        networks.restore(x, projected.clamp(-1, 1)).clamp(-1, 1)


def _view(buffer: Any, dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor over a buffer of cuda.core."""
    flat: Tensor = torch.from_dlpack(buffer)
    return flat.view(torch.uint8).view(dtype).reshape(shape)
