"""Live face or a picture of one: the liveness network of a bundle, run by ONNX Runtime or a TensorRT plan.

No certified presentation attack detection: what it was trained and measured on stands in the bundle's manifest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.runtime.bundle import Bundle, check_signer, default_bundle
from immunecam.runtime.part_network import PartNetwork
from immunecam.runtime.plan_record import LIVENESS
from immunecam.runtime.trust import Trust, TrustedKeys

if TYPE_CHECKING:
    from immunecam.runtime.faces import Face

__all__ = ["LIVENESS_VIEWS", "LivenessDetector", "LivenessResult", "check_view"]

LIVENESS_VIEWS = ("camera", "purified")
"""What a detector may be shown: faces as the camera gave them, or with purified faces in place."""

_BATCH = 8  # as the purifier's
_ROUNDING = np.float32(1e-5)  # how far a softmax may leave [0, 1]


@dataclass(frozen=True)
class LivenessResult:
    """What the network says of a face.

    Attributes
    ----------
    score : float
        0 to 1; higher is more live.
    live : bool
        Whether the score reaches the threshold.
    """

    score: float
    live: bool


class LivenessDetector:
    """Tells live faces from pictures of faces. Safe to call from several threads.

    Parameters
    ----------
    bundle : Bundle
        With the optional part "liveness".
    threads : int, optional
        Threads an operator may use; None leaves it to ONNX Runtime.
    threshold : float, optional
        In place of the bundle's own.
    provider : str
        "cpu", or "tensorrt", which runs a plan of the bundle; see :mod:`immunecam.runtime.part_network`.

    Raises
    ------
    InputError
        If the bundle has no such part, its graph is not what the manifest says, or there is no plan for this machine.
    UsageError
        If a number is out of its range, or there is no such provider.
    BackendMissingError
        If TensorRT or a card is missing that was asked for.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        threshold: float | None = None,
        provider: str = "cpu",
    ) -> None:
        record = bundle.manifest.liveness
        if record is None:
            raise InputError(
                f"The bundle {bundle.path} has no liveness network: put one in by `immunecam liveness export RUN "
                "--into BUNDLE`, or leave --liveness out."
            )
        if threshold is not None and not 0 < threshold <= 1:
            raise UsageError(f"the liveness threshold is {threshold!r}, but it must be above 0, and 1 at most")
        self.bundle, self.record, self.provider = bundle, record, provider
        self.threshold = record.threshold if threshold is None else float(threshold)
        takes = "faces", (None, 3, record.side, record.side)
        self._run = PartNetwork(bundle, LIVENESS, takes, ("scores", (None,)), provider=provider, threads=threads)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        threads: int | None = None,
        threshold: float | None = None,
        provider: str = "cpu",
        trust: TrustedKeys | None = None,
    ) -> LivenessDetector:
        """The detector of a bundle that is read and verified; None takes the installed one.

        Raises
        ------
        InputError, UsageError, BackendMissingError
            As :meth:`Bundle.load`, and if the bundle has no liveness network.
        """
        if not isinstance(bundle, Bundle):
            bundle = Bundle.load(default_bundle() if bundle is None else bundle, trust=trust)
        else:
            check_signer(bundle, Trust.in_force(trust))
        return cls(bundle, threads=threads, threshold=threshold, provider=provider)

    def close(self) -> None:
        """Give a card's memory back; without a card there is nothing to give. It judges no more then."""
        self._run.close()

    @property
    def side(self) -> int:
        """Of the pictures that it judges, in pixels."""
        return self.record.side

    @property
    def about(self) -> dict[str, Any]:
        """What a record of a decision has to say of it."""
        sha256 = self.bundle.manifest.files[self.record.file].sha256
        about = {"liveness": self.record.file, "liveness_sha256": sha256, "liveness_synthetic": self.record.synthetic}
        return about | ({} if self.provider == "cpu" else {"liveness_provider": self.provider})

    def crops(self, frame: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.uint8]:
        """What it looks at of the faces of an (H, W, 3) uint8 BGR frame, (N, side, side, 3) uint8 BGR."""
        from immunecam.runtime.faces.liveness_crop import liveness_crops

        return liveness_crops(frame, faces, self.record.crop, self.side)

    def purified_crops(
        self, crops: NDArray[np.uint8], faces: Sequence[Face], purified: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """The same crops with purified faces in place: what it would see behind a purifier.

        Parameters
        ----------
        crops : ndarray
            (N, side, side, 3) uint8 BGR, of :meth:`crops`.
        faces : sequence of Face
            N, in the frame that they were cut out of.
        purified : ndarray
            (N, 112, 112) uint8, aligned.

        Returns
        -------
        ndarray
            (N, side, side, 3) uint8 BGR; chroma is the crop's own, see :func:`immunecam.runtime.faces.paste`.
        """
        from immunecam.runtime.faces.liveness_crop import liveness_matrix, with_purified

        changed = np.empty_like(crops)
        for number, (crop, face) in enumerate(zip(crops, faces, strict=True)):
            matrix = liveness_matrix(face, self.record.crop, self.side)
            points = np.asarray(face.landmarks, np.float64) * matrix[0, 0] + matrix[:, 2]
            changed[number] = with_purified(crop, points, purified[number])
        return changed

    def scores(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probability of a live face.

        Parameters
        ----------
        crops : ndarray
            (N, side, side, 3) uint8 BGR, of :meth:`crops`; N may be 0.

        Returns
        -------
        ndarray
            (N,) float32 in [0, 1].

        Raises
        ------
        InputError
            If shape or dtype is wrong, or the network gives something that is no probability.
        """
        wanted = (self.side, self.side, 3)
        if not isinstance(crops, np.ndarray) or crops.dtype != np.uint8 or crops.shape[1:] != wanted:
            found = f"{crops.dtype} {crops.shape}" if isinstance(crops, np.ndarray) else type(crops).__name__
            raise InputError(f"the faces to judge are {found}, but they must be uint8 (N, {self.side}, {self.side}, 3)")
        scores = np.empty(len(crops), np.float32)
        for start in range(0, len(crops), _BATCH):
            part = np.ascontiguousarray(crops[start : start + _BATCH, :, :, ::-1].transpose(0, 3, 1, 2), np.float32)
            part /= np.float32(127.5)
            part -= np.float32(1)
            scores[start : start + len(part)] = self._run(part)
        # Not a number compares as neither live nor spoof.
        if not np.isfinite(scores).all() or (np.abs(scores - np.float32(0.5)) > np.float32(0.5) + _ROUNDING).any():
            raise InputError(f"the liveness network of {self.bundle.path} gives no probabilities: export it again")
        return np.clip(scores, np.float32(0), np.float32(1))

    def judge(self, frame: NDArray[np.uint8], faces: Sequence[Face]) -> list[LivenessResult]:
        """The faces of an (H, W, 3) uint8 BGR frame, one by one; raises as :meth:`crops` and :meth:`scores`."""
        return [self.result(float(score)) for score in self.scores(self.crops(frame, faces))]

    def result(self, score: float) -> LivenessResult:
        """A score against the threshold."""
        return LivenessResult(score, score >= self.threshold)


def check_view(view: str) -> None:
    """Raise a UsageError unless it is one of :data:`LIVENESS_VIEWS`."""
    if view not in LIVENESS_VIEWS:
        raise UsageError(f"the liveness view is {view!r}, but it must be one of {', '.join(LIVENESS_VIEWS)}")
