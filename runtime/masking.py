"""Faces masked, and recognised masked, by the masking part of a bundle, on ONNX Runtime or TensorRT plans.

A mask hides a face from who sees masked faces alone. It is no encryption: whoever has one face together with its
masked form, or the recogniser, can undo it.
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
from immunecam.runtime.masking_record import MaskingRecord
from immunecam.runtime.part_network import PartNetwork
from immunecam.runtime.plan_record import MASK, MASKED_RECOGNIZER
from immunecam.runtime.trust import Trust, TrustedKeys

__all__ = ["FaceMask", "MaskedEmbedder", "MaskedRecognizerName"]


class FaceMask:
    """Aligned faces to masked channels, by a key.

    Parameters
    ----------
    bundle : Bundle
        With the optional part "masking".
    key : MaskKey
    threads : int, optional
        Threads an operator may use; None leaves it to ONNX Runtime.
    provider : str
        "cpu", or "tensorrt", which runs plans of the bundle; see :mod:`immunecam.runtime.part_network`. Pictures of
        channels, which no gate needs, are always made on the CPU.

    Raises
    ------
    InputError
        If the bundle has no such part, its graphs are not what the manifest says, there is no plan for this machine, or
        the key is another.
    UsageError
        If there is no such provider, or the number of threads is out of its range.
    BackendMissingError
        If TensorRT or a card is missing that was asked for.
    """

    def __init__(self, bundle: Bundle, key: MaskKey, *, threads: int | None = None, provider: str = "cpu") -> None:
        record = bundle.manifest.masking
        if record is None:
            raise InputError(
                f"the bundle {bundle.path} has no mask: put one in by `immunecam masking export RUN --into BUNDLE`, or "
                "leave --masked out"
            )
        key.verify(record.key_check, f"the mask of the bundle {bundle.path}")
        self.bundle, self.record, self.provider = bundle, record, provider
        faces, channels = ("faces", (None, 112, 112)), _channels(record)
        self._picture = PartNetwork(bundle, "picture", channels, faces, threads=threads)
        self._mask = PartNetwork(bundle, MASK, faces, channels, provider=provider, threads=threads)
        self._matrix = key_matrix(key, record.channels).astype(np.float32)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None,
        key: MaskKey,
        *,
        threads: int | None = None,
        provider: str = "cpu",
        trust: TrustedKeys | None = None,
    ) -> FaceMask:
        """The mask of a bundle that is read and verified; None takes the installed one.

        Raises
        ------
        InputError, UsageError, BackendMissingError
            As :meth:`Bundle.load`, and as this class.
        """
        return cls(_loaded(bundle, trust), key, threads=threads, provider=provider)

    def close(self) -> None:
        """Give a card's memory back; without a card there is nothing to give. It masks no more then."""
        self._mask.close()

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
        Where it runs this does, too; closed with this.
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
        If the recogniser's graph is not what the manifest says, or there is no plan for this machine.
    """

    def __init__(self, mask: FaceMask, *, threads: int | None = None) -> None:
        bundle, record = mask.bundle, mask.record
        self.mask, self.size = mask, record.size
        gives = "embedding", (None, record.size)
        self._recognizer = PartNetwork(
            bundle, MASKED_RECOGNIZER, _channels(record), gives, provider=mask.provider, threads=threads
        )
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
        provider: str = "cpu",
        trust: TrustedKeys | None = None,
    ) -> MaskedEmbedder:
        """As :meth:`FaceMask.load`."""
        return cls(FaceMask.load(bundle, key, threads=threads, provider=provider, trust=trust), threads=threads)

    def close(self) -> None:
        """As :meth:`FaceMask.close`, mask and recogniser."""
        self.mask.close()
        self._recognizer.close()

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


def _channels(record: MaskingRecord) -> tuple[str, tuple[Any, ...]]:
    return "channels", (None, record.channels, record.positions, record.positions)


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
