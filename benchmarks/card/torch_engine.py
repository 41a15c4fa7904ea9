"""The runtime's own path over a card with networks by PyTorch, where neither TensorRT nor ONNX Runtime's CUDA is."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from immunecam.kernels.cuda import Programs, open_device
from immunecam.models import Purification
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.card import CardPurifier
from immunecam.training.deployed import purification_from_bundle

__all__ = ["TorchCardEngine", "open_torch"]

_SIDE, _MAX_BATCH = 112, 128


class TorchCardEngine:
    """A `CardEngine` of a bundle's networks in PyTorch; each becomes a graph of PyTorch's own at its second call.

    Parameters
    ----------
    networks : Purification
        On the card.
    k : int
        Eigenfaces.
    """

    provider, max_batch = "torch", _MAX_BATCH
    capturable = False  # PyTorch's allocator would have to know of a capture that it did not begin

    def __init__(self, networks: Purification, k: int) -> None:
        self.k, self._networks = k, networks
        self._graphs: dict[Hashable, Any] = {}

    def analyze_on(self, n: int, *, faces: int, probabilities: int, stream: Any) -> None:
        """As `CardEngine.analyze_on`."""
        given, found = self._tensor(faces, n, _SIDE, _SIDE), self._tensor(probabilities, n, self.k)
        self._run(("analyze", n, faces, probabilities), stream, lambda: found.copy_(self._networks.analyze(given)))

    def restore_on(self, n: int, *, faces: int, projected: int, restored: int, stream: Any) -> None:
        """As `CardEngine.restore_on`."""
        restore = self._networks.restore
        assert restore is not None
        given, cut, found = (self._tensor(address, n, _SIDE, _SIDE) for address in (faces, projected, restored))
        self._run(("restore", n, faces, projected, restored), stream, lambda: found.copy_(restore(given, cut)))

    def close(self) -> None:
        """Give the graphs back."""
        self._graphs.clear()

    def _tensor(self, address: int, *shape: int) -> Tensor:
        from cuda.core import Buffer

        size = 4 * int(torch.Size(shape).numel())
        flat: Tensor = torch.from_dlpack(Buffer.from_handle(address, size, owner=self))
        return flat.view(torch.uint8).view(torch.float32).reshape(shape)

    @torch.no_grad()
    def _run(self, key: Hashable, stream: Any, work: Callable[[], Any]) -> None:
        there = torch.cuda.ExternalStream(int(stream.handle))
        with torch.cuda.stream(there):
            if key not in self._graphs:
                self._graphs[key] = None
                work()
                return
            if self._graphs[key] is None:
                there.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=there, capture_error_mode="thread_local"):
                    work()
                self._graphs[key] = graph
            self._graphs[key].replay()


def open_torch(bundle: Bundle, *, device: int = 0, prebuilt: Path | None = None, max_batch: int) -> CardPurifier:
    """The runtime's purifier on a card, with its networks by PyTorch.

    Raises
    ------
    ImmuneCamError
        As `open_card` does.
    """
    opened = open_device(device)
    torch.cuda.set_device(device)
    stream = opened.create_stream()
    engine = TorchCardEngine(purification_from_bundle(bundle, device="cuda"), bundle.k)
    return CardPurifier(bundle, engine, Programs(opened, prebuilt=prebuilt), stream=stream, max_batch=max_batch)
