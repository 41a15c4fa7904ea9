"""From the bytes of a picture to an answer: what is done before and after the engine that all requests share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from immunecam.kernels import dequantize_faces, quantize_faces
from immunecam.runtime.faces import AlignedFaces, ColourMode, Face, FaceFinder, align, paste
from immunecam.runtime.frames.picture import decode_picture
from immunecam.runtime.frames.picture_header import read_header
from immunecam.runtime.gate.embedder import FaceEmbedder
from immunecam.runtime.gate.evidence import Evidence, residual_energy
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.results import PurifiedFaces, Stopwatch

__all__ = ["Prepared", "Purification"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture whose faces have been found.

    Attributes
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
        BGR.
    faces : list of Face
    aligned : AlignedFaces
    grey : ndarray of uint8, shape (N, 112, 112)
        What is purified: the aligned faces as pixels, as the gate has them.
    timings_ms : dict of str to float
        "decode", "find" and "align".
    """

    frame: NDArray[np.uint8] = field(repr=False)
    faces: list[Face]
    aligned: AlignedFaces = field(repr=False)
    grey: NDArray[np.uint8] = field(repr=False)
    timings_ms: dict[str, float]


class Purification:
    """The steps of a request that are its own. Safe to use from several threads.

    Parameters
    ----------
    purifier : Purifier
    finder : FaceFinder
    embedder : FaceEmbedder, optional
        Without one there are no embeddings, and no cosine in the evidence.
    max_pixels : int
        Of a picture.
    """

    def __init__(
        self, purifier: Purifier, finder: FaceFinder, embedder: FaceEmbedder | None = None, *, max_pixels: int
    ) -> None:
        self.purifier, self.embedder = purifier, embedder
        self.finder, self._max_pixels = finder, max_pixels

    def with_mutation(self, mutation: str) -> Purification:
        """The same steps in another mutation mode, on the same engine; raises as :meth:`Purifier.with_mutation`."""
        other = self.purifier if mutation == self.purifier.mutation else self.purifier.with_mutation(mutation)
        return Purification(other, self.finder, self.embedder, max_pixels=self._max_pixels)

    def decode(self, data: bytes, name: str) -> NDArray[np.uint8]:
        """A picture as (H, W, 3) uint8 BGR; raises InputError as :func:`decode_picture`."""
        return decode_picture(data, max_pixels=self._max_pixels, name=name)

    def pixels(self, data: bytes, name: str) -> int:
        """Pixels of a picture by its head; raises InputError if it has too many, or is none."""
        header = read_header(data, name)
        pixels = header.width * header.height
        return pixels if pixels <= self._max_pixels else self.decode(data, name).size // 3  # which says what is wrong

    def prepare(self, data: bytes, name: str) -> Prepared:
        """Decode a picture, and find and align its faces.

        Raises
        ------
        InputError
            If it cannot be used.
        """
        timings: dict[str, float] = {}
        watch = Stopwatch(timings)
        frame = self.decode(data, name)
        watch.lap("decode")
        return self.look(frame, timings)

    def look(
        self, frame: NDArray[np.uint8], timings: dict[str, float] | None = None, finder: FaceFinder | None = None
    ) -> Prepared:
        """Find and align the faces of a frame, (H, W, 3) uint8 BGR; `finder` in place of the own one."""
        timings = {} if timings is None else timings
        watch = Stopwatch(timings)
        faces = (finder or self.finder).find(frame)
        watch.lap("find")
        aligned = align(frame, faces)
        watch.lap("align")
        return Prepared(frame, faces, aligned, quantize_faces(aligned.grey), timings)

    def picture(self, prepared: Prepared, batch: PurifiedFaces | None, colour: ColourMode) -> NDArray[np.uint8]:
        """The frame with its purified faces in place; the frame itself where it has none."""
        if batch is None:
            return prepared.frame
        return paste(prepared.frame, batch.purified, prepared.aligned.matrices, colour=colour)

    def active(self, batch: PurifiedFaces) -> NDArray[np.float64]:
        """Active eigenfaces of each face's antibody, the sum of its weights where none is drawn; shape (N,)."""
        return np.asarray(self.purifier.antibodies(batch).sum(1), np.float64)

    def evidence(self, prepared: Prepared, batch: PurifiedFaces) -> tuple[list[Evidence], NDArray[np.float32] | None]:
        """Traces of an attack in each face, and the embeddings of the purified ones.

        Returns
        -------
        list of Evidence
            The cosine is NaN without a recogniser.
        ndarray of float32, shape (N, E), or None
            Of unit length; None without a recogniser.
        """
        antibodies = self.purifier.antibodies(batch)
        residual = residual_energy(dequantize_faces(prepared.grey), antibodies, self.purifier.bundle.subspace)
        after, cosine = None, np.full(len(residual), np.nan)
        if self.embedder is not None:
            both = self.embedder.embed(np.concatenate([batch.purified, prepared.grey]))
            after, before = both[: len(residual)], both[len(residual) :]
            cosine = (after * before).sum(1).astype(np.float64)
        evidence = [
            Evidence(float(r), float(c), float(a)) for r, c, a in zip(residual, cosine, antibodies.sum(1), strict=True)
        ]
        return evidence, after
