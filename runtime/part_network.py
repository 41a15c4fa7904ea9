"""A network of an optional part, run by ONNX Runtime or by a TensorRT plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import UsageError
from immunecam.runtime.engines.external_data import inline_external_data
from immunecam.runtime.engines.onnxruntime_session import FLOAT, check_tensors, check_threads, open_model

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle
    from immunecam.runtime.engines.network_on_card import NetworkOnCard

__all__ = ["PART_PROVIDERS", "PartNetwork", "part_provider"]

PART_PROVIDERS = ("cpu", "tensorrt")

_BATCH = 8  # as the purifier's

Tensor = tuple[str, tuple[Any, ...]]


class PartNetwork:
    """One network, float32 in and out. Safe to call from several threads.

    Parameters
    ----------
    bundle : Bundle
        With the part.
    role : str
        Of the network.
    takes, gives : (str, tuple of int or None)
        Name and shape of its input and of its output, the first of which is the number of faces: None.
    provider : str
        Of `PART_PROVIDERS`: "cpu", or "tensorrt", which runs a plan of the bundle.
    threads : int, optional
        Threads an operator may use on a CPU; None leaves it to ONNX Runtime.

    Raises
    ------
    InputError
        If the graph is not what the manifest says, or there is no plan for this machine.
    UsageError
        If there is no such provider, or the number of threads is out of its range.
    BackendMissingError
        If TensorRT or a card is missing that was asked for.
    """

    def __init__(
        self, bundle: Bundle, role: str, takes: Tensor, gives: Tensor, *, provider: str = "cpu", threads: int | None
    ) -> None:
        if provider not in PART_PROVIDERS:
            wanted = " or ".join(PART_PROVIDERS)
            raise UsageError(f"the {role} runs on {wanted}, but {provider!r} was asked for")
        self._bundle, self._role, self._takes, self._gives = bundle, role, takes, gives
        self._card: NetworkOnCard | None = None
        self._run = self._on_card() if provider == "tensorrt" else self._on_cpu(threads)

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, ...) to (N, ...); N may be 0."""
        parts = [self._run(batch[start : start + _BATCH]) for start in range(0, len(batch), _BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, *self._gives[1][1:]), np.float32)

    def close(self) -> None:
        """Give a card's memory back; without a card there is nothing to give. It runs no more then."""
        if self._card is not None:
            self._card.close()

    def _on_card(self) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        from immunecam.runtime.engines.network_on_card import NetworkOnCard

        self._card = NetworkOnCard(self._bundle, self._role, _BATCH)
        return self._card

    def _on_cpu(self, threads: int | None) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        bundle, (taken, takes), (given, gives) = self._bundle, self._takes, self._gives
        file = bundle.manifest.compiled_file(self._role)
        assert file is not None
        name = str(bundle.path / file)
        # No external data: nothing outside of the file may be opened.
        model = inline_external_data(bundle.files[file], {}, name=name)
        remedy = "export the network again"
        session: Any = open_model(model, "CPUExecutionProvider", check_threads(threads), name=name, remedy=remedy)
        check_tensors(session, bundle, {taken: (FLOAT, takes)}, {given: (FLOAT, gives)}, self._role)

        def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = session.run([given], {taken: batch})[0]
            return found

        return run


def part_provider(asked: str) -> str:
    """Where a part's networks run beside a purifier that was asked for by this name: a plan only for "tensorrt"."""
    return "tensorrt" if asked == "tensorrt" else "cpu"
