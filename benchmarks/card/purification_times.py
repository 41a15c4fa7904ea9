"""Whole purifications on a card: analysis, mutation, projection, restoration, with and without a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from immunecam.benchmarks.card import forms
from immunecam.benchmarks.card.torch_timing import time_calls
from immunecam.kernels.cuda import Programs, SubspaceKernels
from immunecam.models import Purification
from immunecam.runtime.bundle import Bundle
from immunecam.training.deployed import purification_from_bundle

__all__ = ["CardPurification", "purification_times"]


class CardPurification:
    """A bundle on a card: its networks by PyTorch, mutation and projection by the kernels, on one stream.

    Parameters
    ----------
    bundle : Bundle
        Verified.
    programs : Programs
        Of the card.
    batch : int
        Faces of a call.
    seed : int
        Of the antibodies.
    """

    def __init__(self, bundle: Bundle, programs: Programs, batch: int, seed: int = 0) -> None:
        from cuda.core import Stream

        self.batch = batch
        self.stream = torch.cuda.Stream()
        self._core = Stream.from_handle(self.stream.cuda_stream)
        self.networks: Purification = purification_from_bundle(bundle, device="cuda")
        self.kernels = SubspaceKernels(bundle.subspace, programs, stream=self._core, max_batch=batch)
        k, side = self.kernels.k, (112, 112)
        self.faces = _view(self.kernels.faces, torch.float32, batch, *side)
        self.numbers = _view(self.kernels.numbers, torch.int64, 1 + batch)  # the seed, then the faces'
        self._p = _view(self.kernels.probabilities, torch.float32, batch, k)
        self._projected = _view(self.kernels.projected, torch.float32, batch, *side)
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
        self._p.copy_(self.networks.analyze(self.faces))
        self.kernels.mutate(self.batch, mode="sample", stream=self._core)
        self.kernels.project(self.batch, stream=self._core)
        if self.networks.restore is None:
            self.purified.copy_(self._pixels)
            return
        restored = self.networks.restore(self.faces, self._projected)
        self.purified.copy_(((restored.clamp(-1, 1) + 1) * 127.5).round())


def purification_times(
    bundle: Bundle,
    programs: Programs,
    faces: NDArray[np.float32],
    *,
    batches: Sequence[int] = (1, 8, 32, 128),
    repeats: int = 100,
) -> Iterator[dict[str, Any]]:
    """Times of whole purifications by a bundle, and how far they are from the runtime on the CPU.

    Yields
    ------
    dict
        "form" ("launches", "graph", or "paper, eager": the same networks, and the published projection), batch, times;
        of the graph also the mean and largest difference from ONNX Runtime on the CPU, in grey levels.
    """
    from immunecam.runtime.purifier import Purifier

    reference = Purifier.load(bundle, provider="cpu", seed=7)
    for n in batches:
        made = CardPurification(bundle, programs, n, seed=7)
        batch = np.resize(faces, (n, 112, 112)).astype(np.float32)
        made.faces.copy_(torch.from_numpy(batch))
        torch.cuda.synchronize()
        common = {"bundle": bundle.name, "batch": n, "k": made.kernels.k, "networks": "PyTorch, float32"}
        yield common | {"form": "launches", **time_calls(made.run, repeats=repeats, stream=made.stream).to_dict()}
        timing = time_calls(made.replay, repeats=repeats, stream=made.stream)
        torch.cuda.synchronize()
        wanted = reference.purify_batch(batch, first_image=0).purified
        difference = np.abs(made.purified.cpu().numpy().astype(int) - wanted)
        yield common | {
            "form": "graph", **timing.to_dict(), "mean_difference_grey": round(float(difference.mean()), 4),
            "largest_difference_grey": int(difference.max()),
        }  # fmt: skip

        @torch.no_grad()
        def published(networks: Purification = made.networks, x: Tensor = made.faces) -> None:
            space = networks.eigenspace
            projected = forms.paper(x.flatten(1), networks.analyze(x), space.mean, space.basis).reshape(x.shape)
            if networks.restore is not None:
                networks.restore(x, projected.clamp(-1, 1)).clamp(-1, 1)

        yield common | {"form": "paper, eager", **time_calls(published, repeats=max(5, repeats // n)).to_dict()}
        made.close()


def _view(buffer: Any, dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor over a buffer of cuda.core."""
    flat: Tensor = torch.from_dlpack(buffer)
    return flat.view(torch.uint8).view(dtype).reshape(shape)
