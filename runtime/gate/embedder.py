"""A recogniser in a session of ONNX Runtime: aligned faces in, unit embeddings out."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.runtime.engines.external_data import inline_external_data
from immunecam.runtime.engines.onnxruntime_session import FLOAT, check_threads, open_model
from immunecam.runtime.gate.recognizer import RecognizerSpec

__all__ = ["Embedder", "FaceEmbedder", "RecognizerName"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_BATCH = 8  # as the purifier's: a larger one takes more memory, and the same time for a face
# How far from 1 the length of an embedding may be that the description calls normalised.
_UNIT = 1e-2


class RecognizerName(Protocol):
    """What store and audit trail say of a recogniser: its name, its file's hash, and what embeddings depend on."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def identity(self) -> str: ...


class FaceEmbedder(Protocol):
    """What a gate recognises faces by: `Embedder`, or `immunecam.runtime.masking.MaskedEmbedder`."""

    @property
    def spec(self) -> RecognizerName:
        """Of the recogniser."""

    @property
    def size(self) -> int:
        """Length of an embedding, E."""

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, E) of unit length for aligned faces (N, 112, 112) grey or (N, 112, 112, 3) BGR."""

    def close(self) -> None:
        """Give back what it holds of a card."""


class Embedder:
    """Runs a recogniser, from the very bytes whose hash was checked. Safe to call from several threads.

    Parameters
    ----------
    spec : RecognizerSpec
    provider : {"cpu", "cuda"}
        Of ONNX Runtime; one that is missing is an error.
    threads : int, optional
        Threads an operator may use; None leaves it to ONNX Runtime.

    Attributes
    ----------
    spec : RecognizerSpec
    size : int
        Length of an embedding, E.

    Raises
    ------
    InputError
        If the file's hash is another, it is no model that can be run, or its tensors are not those of the description.
    BackendMissingError
        If the provider does not start.
    UsageError
        If an argument is out of its range.
    """

    def __init__(self, spec: RecognizerSpec, *, provider: str = "cpu", threads: int | None = None) -> None:
        if provider not in _PROVIDERS:
            raise UsageError(f"the recogniser's provider is {provider!r}, but it must be cpu or cuda")
        self.spec = spec
        name = f"the recogniser {str(spec.path)!r}"
        data = spec.read_model()
        try:
            model = inline_external_data(data, {}, name=name)
        except InputError as error:
            raise InputError(f"{name} cannot be used ({error}): give one ONNX file that holds its weights") from None
        self._session = open_model(
            model,
            _PROVIDERS[provider],
            check_threads(threads),
            name=name,
            remedy="give an ONNX recogniser that this version can run",
        )
        self._input, self._fixed = self._find_input(name)
        self._output = self._find_output(name)
        self.size = self._try(name)

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings of unit length.

        Parameters
        ----------
        crops : ndarray of uint8, shape (N, 112, 112) or (N, 112, 112, 3)
            Aligned faces, grey or BGR.

        Returns
        -------
        ndarray of float32, shape (N, E)

        Raises
        ------
        InputError
            If the faces have another shape or dtype, or the recogniser gives NaN, infinity or a vector of no length.
        """
        batch = self.spec.prepare(crops)
        out = np.empty((len(batch), self.size), np.float32)
        step = self._fixed or _BATCH
        for start in range(0, len(batch), step):
            part = batch[start : start + step]
            missing = self._fixed - len(part) if self._fixed else 0
            if missing:  # a graph with a fixed batch takes no fewer
                part = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)])
            found = self._run(part)
            out[start : start + step] = found[: len(found) - missing] if missing else found
        lengths = np.linalg.norm(out, axis=1, keepdims=True)
        if not np.isfinite(out).all() or (lengths < 1e-6).any():
            raise InputError(f"the recogniser {self.spec.name} gives NaN, infinity or zeros: check its description")
        out /= lengths
        return out

    def close(self) -> None:
        """Nothing: a session goes with its last user."""

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        (found,) = self._session.run([self._output], {self._input: batch})
        return np.asarray(found, np.float32).reshape(len(batch), -1)

    def _find_input(self, name: str) -> tuple[str, int]:
        spec, inputs = self.spec, self._session.get_inputs()
        chosen = [tensor for tensor in inputs if spec.input_name in (None, tensor.name)]
        if len(inputs) != 1 or len(chosen) != 1:
            raise InputError(
                f"{name} has the inputs {[tensor.name for tensor in inputs]}, but it must have one"
                f"{'' if spec.input_name is None else f', {spec.input_name!r}'}: correct the description"
            )
        (tensor,) = chosen
        image = [spec.height, spec.width]
        wanted = [spec.channels, *image] if spec.layout == "NCHW" else [*image, spec.channels]
        shape = list(tensor.shape)
        fits = len(shape) == 4 and all(
            have == want or not isinstance(have, int) for have, want in zip(shape[1:], wanted, strict=True)
        )
        if tensor.type != FLOAT or not fits:
            raise InputError(
                f"{name} takes {tensor.type} {shape}, but its description says tensor(float) {['N', *wanted]}: "
                "correct size, layout or colour"
            )
        return tensor.name, shape[0] if isinstance(shape[0], int) and shape[0] > 0 else 0

    def _find_output(self, name: str) -> str:
        names = [tensor.name for tensor in self._session.get_outputs()]
        wanted = self.spec.output_name
        if wanted is None and len(names) != 1:
            raise InputError(f"{name} has the outputs {names}: name the embedding's in [output] of its description")
        if wanted is not None and wanted not in names:
            raise InputError(f"{name} has the outputs {names}, but its description names {wanted!r}: correct it")
        return str(wanted or names[0])

    def _try(self, name: str) -> int:
        """Length of an embedding, from two grey faces."""
        spec, count = self.spec, self._fixed or 2
        faces = np.full((count, spec.height, spec.width), 128, np.uint8)
        faces[:, : spec.height // 2] = 64
        try:
            (found,) = self._session.run([self._output], {self._input: spec.prepare(faces)})
        except Exception as error:  # the library's exceptions have no common base of their own
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"{name} fails on a grey face ({reason}): check its description") from None
        found = np.asarray(found)
        size = found.size // count if found.size % count == 0 else 0
        if found.ndim < 2 or found.shape[0] != count or not 8 <= size <= 8192 or found.dtype.kind != "f":
            raise InputError(
                f"{name} gives {found.dtype} {list(found.shape)} for {count} faces, but it must be float [N, E]: name "
                "the embedding's output in its description"
            )
        lengths = np.linalg.norm(found.reshape(count, -1).astype(np.float64), axis=1)
        if not spec.normalise and not (np.abs(lengths - 1) < _UNIT).all():
            raise InputError(
                f"{name} gives embeddings of length {lengths[0]:.3g}, but its description says normalise = false, "
                "which wants 1: set it to true"
            )
        return int(size)
