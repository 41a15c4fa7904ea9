"""From a frame to embeddings: finding, alignment, purification, the recogniser, and the evidence on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.kernels import dequantize_faces, quantize_faces
from immunecam.runtime.bundle_manifest import SUBSPACE
from immunecam.runtime.faces import AlignedFaces, Face, FaceFinder, align
from immunecam.runtime.gate.embedder import FaceEmbedder
from immunecam.runtime.gate.evidence import Evidence, residual_energy
from immunecam.runtime.gate.store_header import Setting
from immunecam.runtime.gate.track import Sighting
from immunecam.runtime.liveness import LivenessDetector, check_view

if TYPE_CHECKING:
    from immunecam.runtime.purifier import Purifier

__all__ = ["FaceObserver", "Observed"]


@dataclass(frozen=True, eq=False)
class Observed:
    """Embeddings of faces, and what purification showed.

    Attributes
    ----------
    embeddings : ndarray of float32, shape (N, E)
        Of unit length.
    evidence : list of Evidence
        One a face; empty without purification.
    first_image : int or None
        The purifier's number of the first face.
    purified : ndarray of uint8, shape (N, 112, 112), or None
        Aligned faces after purification; None without.
    liveness : ndarray of float32, shape (N,), or None
        Scores of the liveness network; None where none is asked.
    """

    embeddings: NDArray[np.float32] = field(repr=False)
    evidence: list[Evidence]
    first_image: int | None
    purified: NDArray[np.uint8] | None = field(default=None, repr=False)
    liveness: NDArray[np.float32] | None = None


class FaceObserver:
    """The way of a face, the same for gallery and probe.

    Parameters
    ----------
    embedder : FaceEmbedder
    finder : FaceFinder
    purifier : Purifier, optional
        None leaves purification out, and with it all evidence.
    liveness : LivenessDetector, optional
        Judges whether faces are live.
    liveness_view : str
        What it is shown: "camera", faces as they came, or "purified".

    Raises
    ------
    UsageError
        If it is to be shown purified faces, and there is no purifier; or another word is given.
    """

    def __init__(
        self,
        embedder: FaceEmbedder,
        finder: FaceFinder,
        purifier: Purifier | None,
        *,
        liveness: LivenessDetector | None = None,
        liveness_view: str = "camera",
    ) -> None:
        check_view(liveness_view)
        if liveness is not None and liveness_view == "purified" and purifier is None:
            raise UsageError("liveness is to be judged on purified faces, but nothing is purified: use the view camera")
        self.embedder, self.finder, self.purifier = embedder, finder, purifier
        self.liveness, self.liveness_view = liveness, liveness_view

    @property
    def setting(self) -> Setting:
        """What embeddings are made with: scores of two settings cannot be compared."""
        spec = self.embedder.spec
        identity, name = "none", "no purification"
        if self.purifier is not None:
            # The files that compute: a manifest also says what was measured, and plans are made on the device.
            manifest = self.purifier.bundle.manifest
            names = sorted({SUBSPACE, *manifest.graphs.values()})
            files = {name: manifest.files[name].sha256 for name in names}
            mode = {"mutation": self.purifier.mutation, "files": files}
            identity = hashlib.sha256(json.dumps(mode, sort_keys=True).encode()).hexdigest()
            name = f"purification by {self.purifier.bundle.name} ({self.purifier.mutation})"
        return Setting(spec.identity, identity, self.embedder.size, spec.name, name)

    def sightings(self, frame: NDArray[np.uint8], finder: FaceFinder | None = None) -> list[Sighting]:
        """Faces of an (H, W, 3) uint8 BGR frame, aligned; `finder` in place of the own one."""
        faces = (finder or self.finder).find(frame)
        return self.aligned_sightings(frame, faces, align(frame, faces))

    def aligned_sightings(
        self, frame: NDArray[np.uint8], faces: Sequence[Face], aligned: AlignedFaces
    ) -> list[Sighting]:
        """The same of faces that were found and aligned already."""
        wide = [None] * len(faces) if self.liveness is None else list(self.liveness.crops(frame, faces))
        rows = zip(faces, aligned.crops, aligned.grey, wide, strict=True)
        return [Sighting(face, crop, grey, around) for face, crop, grey, around in rows]

    def observe_sightings(self, sightings: Sequence[Sighting]) -> Observed:
        """Embed the faces of :meth:`sightings`, one or more, and judge whether they are live."""
        grey = quantize_faces(np.stack([seen.grey for seen in sightings]))
        observed = self.observe(np.stack([seen.crop for seen in sightings]), grey)
        if self.liveness is None:
            return observed
        wide = [seen.wide for seen in sightings if seen.wide is not None]
        if len(wide) != len(sightings):  # nobody may pass because he was not looked at
            raise InputError("a face was seen without what liveness is judged by: take sightings of this observer")
        crops = np.stack(wide)
        if self.liveness_view == "purified" and observed.purified is not None:
            crops = self.liveness.purified_crops(crops, [seen.face for seen in sightings], observed.purified)
        return replace(observed, liveness=self.liveness.scores(crops))

    def observe(self, crops: NDArray[np.uint8], grey: NDArray[np.uint8]) -> Observed:
        """Embed aligned faces.

        Parameters
        ----------
        crops : ndarray of uint8, shape (N, 112, 112, 3)
            BGR: what the recogniser is given without purification.
        grey : ndarray of uint8, shape (N, 112, 112)
            The same in grey: what is purified. A purified face is grey, so colour carries nothing past the purifier.
        """
        if self.purifier is None:
            return Observed(self.embedder.embed(crops), [], None)
        batch = self.purifier.purify_batch(grey)
        both = self.embedder.embed(np.concatenate([batch.purified, grey]))
        after, before = both[: len(grey)], both[len(grey) :]
        antibodies = self.purifier.antibodies(batch)
        residual = residual_energy(dequantize_faces(grey), antibodies, self.purifier.bundle.subspace)
        evidence = [
            Evidence(float(r), float(c), float(a))
            for r, c, a in zip(residual, (before * after).sum(1), antibodies.sum(1), strict=True)
        ]
        return Observed(after, evidence, batch.first_image, batch.purified)
