"""The engine on ONNX Runtime: CPU everywhere, CUDA where the installed release has it."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import BackendMissingError, InputError
from immunecam.runtime.engines.onnxruntime_session import (
    FACES,
    FLOAT,
    check_tensors,
    check_threads,
    open_session,
    without_rounding,
)
from immunecam.runtime.engines.providers import ProviderChoice, choose_provider

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["OnnxRuntimeEngine", "OnnxRuntimePurifier"]

_PIXEL, _BOOL = "tensor(uint8)", "tensor(bool)"

_log = logging.getLogger(__name__)


class OnnxRuntimeEngine:
    """Runs a bundle's ``analyzer`` and ``restorer`` graphs. Made by :meth:`from_bundle`.

    Safe to call from several threads.
    """

    def __init__(self, bundle: Bundle, choice: ProviderChoice, threads: int | None) -> None:
        """Open the graph; use :meth:`from_bundle`, which chooses the backend and the class."""
        self._bundle = bundle
        self._choice = choice
        self._threads = threads
        self._analyzer: Any = None
        self._restorer: Any = None
        self._opening = threading.Lock()
        self._open()

    @staticmethod
    def from_bundle(
        bundle: Bundle, *, provider: str | ProviderChoice = "auto", threads: int | None = None, whole: bool = True
    ) -> OnnxRuntimeEngine:
        """Engine for a bundle.

        Parameters
        ----------
        bundle : Bundle
            A loaded, hence verified, bundle: its bytes are run, its files are not opened again.
        provider : {"auto", "cpu", "cuda", "tensorrt"}, or ProviderChoice
            See :func:`immunecam.runtime.engines.providers.choose_provider`.
        threads : int, optional
            Threads an operator may use; None leaves it to ONNX Runtime (one a physical core).
        whole : bool
            Prefer the whole-purifier graph where the bundle has one.

        Returns
        -------
        OnnxRuntimeEngine
            An :class:`OnnxRuntimePurifier` if the bundle has a whole-purifier graph and ``whole`` is true.

        Raises
        ------
        UsageError
            If the provider is unknown or ``threads`` is not a positive integer.
        BackendMissingError
            If the provider asked for is not installed or does not start.
        InputError
            If a graph cannot be run or does not have the inputs, outputs and K of the manifest.
        """
        threads = check_threads(threads)
        choice = choose_provider(provider, bundle) if isinstance(provider, str) else provider
        engine = OnnxRuntimePurifier if whole and bundle.graph("purifier") else OnnxRuntimeEngine
        try:
            return engine(bundle, choice, threads)
        except BackendMissingError as error:
            if not choice.automatic:
                raise
            _log.warning("Provider cpu in place of %s, which nobody asked for by name: %s", choice.name, error)
            return engine(bundle, choose_provider("cpu", bundle), threads)

    @property
    def provider(self) -> str:
        """The backend in use: "cpu" or "cuda"."""
        return self._choice.name

    @property
    def k(self) -> int:
        """Number of eigenfaces, K."""
        return self._bundle.k

    def analyze(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
        """Activation probabilities, float32 (N, K), of faces, float32 (N, 112, 112) in [-1, 1]."""
        (p,) = self._analyzer_session().run(["probabilities"], {"faces": faces})
        return self._probabilities(p)

    def restore(self, faces: NDArray[np.float32], projected: NDArray[np.float32]) -> NDArray[np.float32]:
        """Restored faces, float32 (N, 112, 112), not clipped, of faces and projected faces in [-1, 1]."""
        (restored,) = self._restorer_session().run(["restored"], {"faces": faces, "projected": projected})
        shaped: NDArray[np.float32] = restored
        return shaped

    def _open(self) -> None:
        self._analyzer_session()
        if self._bundle.graph("restorer"):
            self._restorer_session()

    def _analyzer_session(self) -> Any:
        # Locked, because the purifier opens it at the first call of analyze, from whatever thread.
        with self._opening:
            if self._analyzer is None:
                session = self._session("analyzer")
                k = (None, self.k)
                check_tensors(session, self._bundle, {"faces": (FLOAT, FACES)}, {"probabilities": (FLOAT, k)})
                self._analyzer = session
            return self._analyzer

    def _restorer_session(self) -> Any:
        with self._opening:
            if self._restorer is None:
                session = self._session("restorer")
                face = (FLOAT, FACES)
                check_tensors(session, self._bundle, {"faces": face, "projected": face}, {"restored": face})
                self._restorer = session
            return self._restorer

    def _probabilities(self, p: NDArray[np.float32]) -> NDArray[np.float32]:
        """Check what a graph with unnamed dimensions could not promise when it was opened."""
        if p.shape[1:] != (self.k,):
            raise InputError(
                f"The bundle {self._bundle.path}: the analyzer gives K = {p.shape[-1]} probabilities, but "
                f"the manifest says K = {self.k}: export the bundle again."
            )
        return without_rounding(p)

    def _session(self, role: str) -> Any:
        return open_session(self._bundle, role, self._choice.execution_provider, self._threads)


class OnnxRuntimePurifier(OnnxRuntimeEngine):
    """Runs a bundle's ``purifier`` graph: analysis, mutation, projection and restoration in one session."""

    _purifier: Any

    def purify(
        self, faces: NDArray[np.float32], uniforms: NDArray[np.float32], expected: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Purified faces, uint8 (N, 112, 112), and probabilities, float32 (N, K).

        Parameters
        ----------
        faces : ndarray of float32, shape (N, 112, 112)
            In [-1, 1].
        uniforms : ndarray of float32, shape (N, K)
            In [0, 1); bit k of the antibody is ``uniforms < p``. Not used if ``expected``.
        expected : bool
            Weigh the eigenfaces by p instead of drawing bits.
        """
        inputs = {"faces": faces, "uniforms": uniforms, "expected": np.array(expected)}
        purified, p = self._purifier.run(["purified", "probabilities"], inputs)
        return purified, self._probabilities(p)

    def _open(self) -> None:
        # The other graphs are opened at the first call of analyze or restore, which many users never make.
        session = self._session("purifier")
        k = (None, self.k)
        check_tensors(
            session,
            self._bundle,
            {"faces": (FLOAT, FACES), "uniforms": (FLOAT, k), "expected": (_BOOL, ())},
            {"purified": (_PIXEL, FACES), "probabilities": (FLOAT, k)},
        )
        self._purifier = session
