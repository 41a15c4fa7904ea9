"""The engine on ONNX Runtime between buffers of a card: its CUDA provider, by I/O binding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from immunecam.errors import UsageError
from immunecam.kernels.cuda import MAX_BATCH
from immunecam.runtime.engines.onnxruntime_session import FACES, FLOAT, check_tensors, check_threads, open_session
from immunecam.runtime.engines.providers import import_onnxruntime

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["OnnxRuntimeCardEngine"]

_SIDE = 112


class OnnxRuntimeCardEngine:
    """Runs a bundle's ``analyzer`` and ``restorer`` on a stream, from addresses to addresses: a :class:`CardEngine`.

    ONNX Runtime ties a session to its stream, so every stream that is used gets sessions of its own, weights included.

    Parameters
    ----------
    bundle : Bundle
        A loaded, hence verified, bundle.
    stream : cuda.core.Stream
        Whose sessions are opened now, so that what is missing shows here.
    device_id : int
        Number of the card.
    threads : int, optional
        For what ONNX Runtime leaves to the CPU.

    Raises
    ------
    BackendMissingError
        If the CUDA provider does not start.
    InputError
        If a graph does not have the inputs, outputs and K of the manifest.
    """

    # What a subclass that runs elsewhere changes.
    _execution_provider = "CUDAExecutionProvider"
    _memory = "cuda"

    def __init__(self, bundle: Bundle, *, stream: Any, device_id: int = 0, threads: int | None = None) -> None:
        self._bundle, self._device_id, self._threads = bundle, device_id, check_threads(threads)
        self._sessions: dict[int, tuple[Any, Any, Any]] = {}  # the stream, which they must not outlive; both graphs
        self._bindings: dict[tuple[int, ...], Any] = {}
        self._options = import_onnxruntime().RunOptions()
        # The stream keeps the order, so nobody has to wait at the end of a run.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._of(stream)

    @property
    def provider(self) -> str:
        """The backend in use: "cuda"."""
        return "cuda"

    @property
    def k(self) -> int:
        """Number of eigenfaces, K."""
        return self._bundle.k

    @property
    def max_batch(self) -> int:
        """Faces of a call at most."""
        return MAX_BATCH

    @property
    def capturable(self) -> bool:
        """Whether its launches may stand in a CUDA graph.

        No: a run may take memory from the card and wait for it, and ONNX Runtime offers a capture of its own only,
        which cannot hold our kernels.
        """
        return False

    def analyze_on(self, n: int, *, faces: int, probabilities: int, stream: Any) -> None:
        """Probabilities, float32 (n, K), of faces, float32 (n, 112, 112) in [-1, 1]; both by address on the card."""
        _, analyzer, _ = self._of(stream)
        face = (n, _SIDE, _SIDE)
        self._run(analyzer, {"faces": (faces, face)}, {"probabilities": (probabilities, (n, self.k))}, stream)

    def restore_on(self, n: int, *, faces: int, projected: int, restored: int, stream: Any) -> None:
        """Restored faces of faces and projected ones, float32 (n, 112, 112) each, by address on the card."""
        _, _, restorer = self._of(stream)
        face = (n, _SIDE, _SIDE)
        given = {"faces": (faces, face), "projected": (projected, face)}
        self._run(restorer, given, {"restored": (restored, face)}, stream)

    def close(self) -> None:
        """Give the sessions back; calling it again does nothing."""
        self._bindings.clear()
        self._sessions.clear()

    def _of(self, stream: Any) -> tuple[Any, Any, Any]:
        handle = int(stream.handle)
        if handle not in self._sessions:
            if handle == 0:
                raise UsageError("The stream is the default one, which ONNX Runtime takes for none: create a stream.")
            options = self._provider_options(handle)

            def opened(role: str) -> Any:
                return open_session(self._bundle, role, self._execution_provider, self._threads, options)

            analyzer, restorer, face = opened("analyzer"), None, (FLOAT, FACES)
            check_tensors(analyzer, self._bundle, {"faces": face}, {"probabilities": (FLOAT, (None, self.k))})
            if self._bundle.graph("restorer"):
                restorer = opened("restorer")
                check_tensors(restorer, self._bundle, {"faces": face, "projected": face}, {"restored": face})
            self._sessions[handle] = (stream, analyzer, restorer)
        return self._sessions[handle]

    def _provider_options(self, handle: int) -> dict[str, str] | None:
        return {
            "device_id": str(self._device_id),
            "user_compute_stream": str(handle),
            # The default tries every algorithm at every new number of faces, while a camera waits.
            "cudnn_conv_algo_search": "HEURISTIC",
            # Probabilities are to agree with a CPU's to the rounding of float32, or antibodies would differ.
            "use_tf32": "0",
        }

    def _run(
        self,
        session: Any,
        given: Mapping[str, tuple[int, tuple[int, ...]]],
        wanted: Mapping[str, tuple[int, tuple[int, ...]]],
        stream: Any,
    ) -> None:
        """Run a session from addresses of float32 to others, each with its shape."""
        places = [place for tensors in (given, wanted) for place, _ in tensors.values()]
        (_, shape), *_ = given.values()
        key = (id(session), shape[0], *places)
        if key not in self._bindings:
            binding = session.io_binding()
            for tensors, bind in ((given, binding.bind_input), (wanted, binding.bind_output)):
                for name, (place, size) in tensors.items():
                    bind(name, self._memory, self._device_id, np.float32, size, place)
            self._bindings[key] = binding
        self._launch(session, self._bindings[key], stream)

    def _launch(self, session: Any, binding: Any, stream: Any) -> None:
        session.run_with_iobinding(binding, self._options)
