"""The engine on ONNX Runtime: CPU everywhere, CUDA where the installed release has it."""

from __future__ import annotations

import logging
import operator
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.runtime.engines.external_data import inline_external_data
from immunecam.runtime.engines.providers import ProviderChoice, choose_provider, import_onnxruntime

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["OnnxRuntimeEngine", "OnnxRuntimePurifier"]

_FLOAT, _PIXEL, _BOOL = "tensor(float)", "tensor(uint8)", "tensor(bool)"
_FACES = (None, 112, 112)
# How far a sigmoid in single precision may leave [0, 1]; ONNX Runtime's gives 1.0000001 for a large logit.
_ROUNDING = np.float32(1e-6)

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
        bundle: Bundle, *, provider: str = "auto", threads: int | None = None, whole: bool = True
    ) -> OnnxRuntimeEngine:
        """Engine for a bundle.

        Parameters
        ----------
        bundle : Bundle
            A loaded, hence verified, bundle: its bytes are run, its files are not opened again.
        provider : {"auto", "cpu", "cuda", "tensorrt"}
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
        threads = _check_threads(threads)
        choice = choose_provider(provider, bundle, tensorrt=False)
        if choice.name == "tensorrt":
            raise BackendMissingError(
                "The provider 'tensorrt' was asked for and is here, but ONNX Runtime's engine does not run it: use "
                "TensorRTEngine, or --provider cuda."
            )
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
                _check_tensors(session, self._bundle, {"faces": (_FLOAT, _FACES)}, {"probabilities": (_FLOAT, k)})
                self._analyzer = session
            return self._analyzer

    def _restorer_session(self) -> Any:
        with self._opening:
            if self._restorer is None:
                session = self._session("restorer")
                face = (_FLOAT, _FACES)
                _check_tensors(session, self._bundle, {"faces": face, "projected": face}, {"restored": face})
                self._restorer = session
            return self._restorer

    def _probabilities(self, p: NDArray[np.float32]) -> NDArray[np.float32]:
        """Check what a graph with unnamed dimensions could not promise when it was opened."""
        if p.shape[1:] != (self.k,):
            raise InputError(
                f"The bundle {self._bundle.path}: the analyzer gives K = {p.shape[-1]} probabilities, but "
                f"the manifest says K = {self.k}: export the bundle again."
            )
        within = np.clip(p, np.float32(0), np.float32(1))
        return within if (np.abs(p - within) <= _ROUNDING).all() else p  # what is really wrong is found by the caller

    def _session(self, role: str) -> Any:
        ort = import_onnxruntime()
        # Warnings of the library go to stderr past Python's logging; errors reach us as exceptions.
        ort.set_default_logger_severity(3)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # The number of faces changes from frame to frame: a pattern kept for each is memory for nothing.
        options.enable_mem_pattern = False
        # A device shares its cores with the recogniser: waiting threads sleep (measured on a busy machine of
        # 2 cores: 32 faces in 16 ms in place of 22, one face the same).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        wanted = self._choice.execution_provider
        if self._choice.name == "cuda" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds the CUDA libraries that pip installed (ONNX Runtime 1.21 and later)
        data = self._bundle.graph(role)
        name = f"{self._bundle.path / self._bundle.manifest.graphs[role]}"
        model = inline_external_data(data or b"", self._bundle.files, name=name)
        try:
            # Without enable_fallback=0 a failing CUDA provider is replaced by the CPU with a mere print.
            session = ort.InferenceSession(model, options, providers=[wanted], enable_fallback=0)
        except Exception as error:  # the library's exceptions have no common base of their own
            reason = _first_line(error)
            if self._choice.name != "cpu":
                raise _not_started(self._choice.name, ort.__version__, reason) from None
            raise InputError(
                f"{name} cannot be run by onnxruntime {ort.__version__} ({reason}): export the bundle again."
            ) from None
        in_use = session.get_providers()
        if wanted not in in_use:
            raise _not_started(self._choice.name, ort.__version__, f"it offers {', '.join(in_use)} only")
        session.disable_fallback()
        return session


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
        _check_tensors(
            session,
            self._bundle,
            {"faces": (_FLOAT, _FACES), "uniforms": (_FLOAT, k), "expected": (_BOOL, ())},
            {"purified": (_PIXEL, _FACES), "probabilities": (_FLOAT, k)},
        )
        self._purifier = session


def _check_threads(threads: int | None) -> int | None:
    if threads is None:
        return None
    try:
        count = operator.index(threads)
    except TypeError:
        raise UsageError(f"threads is a {type(threads).__name__}, but it must be an integer.") from None
    if not 1 <= count <= 1024:
        raise UsageError(f"threads is {count}, but it must be from 1 to 1024.")
    return count


def _check_tensors(
    session: Any,
    bundle: Bundle,
    inputs: dict[str, tuple[str, tuple[int | None, ...]]],
    outputs: dict[str, tuple[str, tuple[int | None, ...]]],
) -> None:
    """Compare a graph's inputs and outputs with what the bundle format says."""
    for side, wanted, found in (
        ("input", inputs, session.get_inputs()),
        ("output", outputs, session.get_outputs()),
    ):
        given = {tensor.name: tensor for tensor in found}
        if set(given) != set(wanted):
            raise InputError(
                f"The bundle {bundle.path}: a graph has the {side}s {sorted(given)}, but it must have "
                f"{sorted(wanted)}: export the bundle again."
            )
        for name, (dtype, shape) in wanted.items():
            tensor = given[name]
            if tensor.type != dtype or not _matches(tensor.shape, shape):
                raise InputError(
                    f"The bundle {bundle.path}: the graph's {side} {name!r} is {tensor.type} "
                    f"{tensor.shape}, but "
                    f"it must be {dtype} {['N' if size is None else size for size in shape]}: export the "
                    "bundle again."
                )


def _matches(found: list[Any], wanted: tuple[int | None, ...]) -> bool:
    """Sizes agree; a symbolic one agrees with everything, a fixed batch with nothing but itself."""
    return len(found) == len(wanted) and all(
        not isinstance(have, int) if want is None else (have == want or not isinstance(have, int))
        for have, want in zip(found, wanted, strict=True)
    )


def _not_started(provider: str, version: str, reason: str) -> BackendMissingError:
    return BackendMissingError(
        f"The provider {provider!r} does not start with the installed onnxruntime {version} ({reason}): "
        "install its CUDA libraries and the GPU's driver, or use --provider cpu."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".") if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
