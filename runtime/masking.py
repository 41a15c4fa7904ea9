"""Faces masked, and recognised masked, by the masking part of a bundle, run by ONNX Runtime.

A mask hides a face from who sees masked faces alone. It is no encryption: whoever has some hundred faces together with
their masked forms, or the recogniser, can undo it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.mask_key import MaskKey
from immunecam.mask_matrix import key_matrix
from immunecam.runtime.bundle import Bundle, check_signer, default_bundle
from immunecam.runtime.engines.external_data import inline_external_data
from immunecam.runtime.engines.onnxruntime_session import FACES, FLOAT, check_tensors, check_threads, open_model
from immunecam.runtime.trust import Trust, TrustedKeys

__all__ = ["FaceMask", "MaskedEmbedder", "MaskedRecognizerName"]

_BATCH = 8  # as the purifier's


class _Graph:
    """One graph of the part, float32 in and out. Safe to call from several threads."""

    def __init__(self, bundle: Bundle, role: str, takes: Any, gives: Any, threads: int | None) -> None:
        record = bundle.manifest.masking
        assert record is not None
        file = record.graphs[role]
        name = str(bundle.path / file)
        # No external data: nothing outside of the file may be opened.
        model = inline_external_data(bundle.files[file], {}, name=name)
        remedy = "export the masked recogniser again"
        self._session: Any = open_model(model, "CPUExecutionProvider", check_threads(threads), name=name, remedy=remedy)
        ((self._input, _),) = takes.items()
        ((self._output, shape),) = gives.items()
        self._shape = shape[1:]
        check_tensors(
            self._session,
            bundle,
            {key: (FLOAT, shape) for key, shape in takes.items()},
            {key: (FLOAT, shape) for key, shape in gives.items()},
        )

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = [
            self._session.run([self._output], {self._input: batch[start : start + _BATCH]})[0]
            for start in range(0, len(batch), _BATCH)
        ]
        return np.concatenate(parts) if parts else np.empty((0, *self._shape), np.float32)


class FaceMask:
    """Aligned faces to masked channels, by a key.

    Parameters
    ----------
    bundle : Bundle
        With the optional part "masking".
    key : MaskKey
    threads : int, optional
        Threads an operator may use; None leaves it to ONNX Runtime.

    Raises
    ------
    InputError
        If the bundle has no such part, its graphs are not what the manifest says, or the key is another.
    """

    def __init__(self, bundle: Bundle, key: MaskKey, *, threads: int | None = None) -> None:
        record = bundle.manifest.masking
        if record is None:
            raise InputError(
                f"the bundle {bundle.path} has no mask: put one in by `immunecam masking export RUN --into BUNDLE`, or "
                "leave --masked out"
            )
        key.verify(record.key_check, f"the mask of the bundle {bundle.path}")
        self.bundle, self.record = bundle, record
        channels = {"channels": (None, record.channels, record.positions, record.positions)}
        self._mask = _Graph(bundle, "mask", {"faces": FACES}, channels, threads)
        self._picture = _Graph(bundle, "picture", channels, {"faces": FACES}, threads)
        self._matrix = key_matrix(key, record.channels).astype(np.float32)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None,
        key: MaskKey,
        *,
        threads: int | None = None,
        trust: TrustedKeys | None = None,
    ) -> FaceMask:
        """The mask of a bundle that is read and verified; None takes the installed one.

        Raises
        ------
        InputError, UsageError, BackendMissingError
            As :meth:`Bundle.load`, and as this class.
        """
        return cls(_loaded(bundle, trust), key, threads=threads)

    def channels(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Masked faces.

        Parameters
        ----------
        faces : ndarray of uint8, shape (N, 112, 112) or (N, 112, 112, 3)
            Aligned, grey or BGR; colour becomes grey.

        Returns
        -------
        ndarray of float32, shape (N, C, P, P)

        Raises
        ------
        InputError
            If the faces have another shape or dtype.
        """
        open_channels = self.open_channels(faces)
        flat = open_channels.reshape(len(open_channels), self.record.channels, self.record.positions**2)
        return np.asarray(self._matrix @ flat, np.float32).reshape(open_channels.shape)

    def open_channels(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same before the key has mixed and ordered them: who sees these needs no key."""
        grey = _grey(faces).astype(np.float32)
        grey /= np.float32(127.5)
        grey -= np.float32(1)
        return self._mask(grey)

    def picture(self, channels: NDArray[np.float32]) -> NDArray[np.uint8]:
        """What channels show if they are taken for open ones, (N, 112, 112) uint8.

        Of `open_channels` it is the face as far as it is kept, which is what anybody with the key sees at once; of
        `channels` it is what somebody sees who knows how faces are masked and nothing of the key.
        """
        found = self._picture(np.ascontiguousarray(channels, np.float32))
        return np.asarray(((found + 1) * 127.5).round().clip(0, 255), np.uint8)


@dataclass(frozen=True)
class MaskedRecognizerName:
    """What store and audit trail say of a recogniser of masked faces.

    Attributes
    ----------
    name : str
    sha256 : str
        Of its ONNX file.
    identity : str
        Hash of all that an embedding depends on: mask, recogniser and key.
    """

    name: str
    sha256: str
    identity: str


class MaskedEmbedder:
    """Aligned faces in, unit embeddings of their masked forms out; the members of the gate's `Embedder`.

    Parameters
    ----------
    mask : FaceMask
    threads : int, optional
        Threads an operator may use; None leaves it to ONNX Runtime.

    Attributes
    ----------
    spec : MaskedRecognizerName
    size : int
        Length of an embedding, E.

    Raises
    ------
    InputError
        If the recogniser's graph is not what the manifest says.
    """

    def __init__(self, mask: FaceMask, *, threads: int | None = None) -> None:
        bundle, record = mask.bundle, mask.record
        self.mask, self.size = mask, record.size
        shape = (None, record.channels, record.positions, record.positions)
        gives = {"embedding": (None, record.size)}
        self._recognizer = _Graph(bundle, "recognizer", {"channels": shape}, gives, threads)
        files = {role: bundle.manifest.files[record.graphs[role]].sha256 for role in ("mask", "recognizer")}
        depends = json.dumps({"files": files, "key": record.key_check}, sort_keys=True)
        self.spec = MaskedRecognizerName(
            f"masked faces, {record.channels} frequencies at {record.positions} positions",
            files["recognizer"],
            hashlib.sha256(depends.encode()).hexdigest(),
        )

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None,
        key: MaskKey,
        *,
        threads: int | None = None,
        trust: TrustedKeys | None = None,
    ) -> MaskedEmbedder:
        """As :meth:`FaceMask.load`."""
        return cls(FaceMask.load(bundle, key, threads=threads, trust=trust), threads=threads)

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, E) embeddings of unit length for faces as :meth:`FaceMask.channels` takes them.

        Raises
        ------
        InputError
            Likewise, and if the recogniser gives NaN, infinity or a vector of no length.
        """
        return self.embed_channels(self.mask.channels(crops))

    def embed_channels(self, channels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same of faces that were masked already."""
        out = self._recognizer(channels)
        lengths = np.linalg.norm(out, axis=1, keepdims=True)
        if not np.isfinite(out).all() or (lengths < 1e-6).any():
            raise InputError(
                f"the masked recogniser of {self.mask.bundle.path} gives NaN, infinity or zeros: export it again"
            )
        return np.asarray(out / lengths, np.float32)


def _loaded(bundle: str | os.PathLike[str] | Bundle | None, trust: TrustedKeys | None) -> Bundle:
    if not isinstance(bundle, Bundle):
        return Bundle.load(default_bundle() if bundle is None else bundle, trust=trust)
    check_signer(bundle, Trust.in_force(trust))
    return bundle


def _grey(faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luminance, as the training had it."""
    given = faces if isinstance(faces, np.ndarray) else None
    fits = given is not None and given.dtype == np.uint8 and given.shape[1:] in ((112, 112), (112, 112, 3))
    if given is None or not fits:
        found = f"{given.dtype} {given.shape}" if given is not None else type(faces).__name__
        raise InputError(
            f"the faces to mask are {found}, but they must be uint8 (N, 112, 112) grey or (N, 112, 112, 3) BGR"
        )
    if given.ndim == 3:
        return given
    grey = np.empty(given.shape[:3], np.uint8)
    for row, face in zip(grey, given, strict=True):
        row[:] = cv2.cvtColor(face, cv2.COLOR_BGR2GRAY)
    return grey
