"""Liveness pictures as they would be behind a purifier, and what that does to attacks and to clean faces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.liveness.attacked import PURIFIED_ATTACK, AttackedFaces, LivenessJob
from immunecam.benchmarks.liveness.figures import DIRECTIONS, rate
from immunecam.benchmarks.liveness.victim import LivenessVictim
from immunecam.kernels import quantize_faces
from immunecam.models.liveness_loss import LIVE
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.faces import TEMPLATE, Face, align, face_finder
from immunecam.runtime.faces.liveness_crop import with_purified
from immunecam.runtime.purifier import Purifier
from immunecam.training.spoof.maker import BELOW_EYES, EYES

__all__ = ["PurifiedPictures", "purified_rows"]

_LARGER = 2  # a finder likes faces that do not fill their picture to the last pixel


class PurifiedPictures:
    """Purifies the faces in liveness pictures: found, aligned, purified and put back, as `immunecam purify` does.

    Parameters
    ----------
    bundle : Bundle
    pictures : ndarray
        (N, 3, side, side) uint8 RGB, clean; faces are looked for in these, and taken to be there in attacked ones.
    seed : int
        Of the antibodies.
    """

    def __init__(self, bundle: Bundle, pictures: NDArray[np.uint8], *, seed: int = 0) -> None:
        self._purifier = Purifier.load(bundle, provider="cpu", seed=seed)
        finder = face_finder()
        self._faces = []
        self.found = 0
        for picture in _frames(pictures):
            side = len(picture)
            larger = cv2.resize(picture, None, fx=_LARGER, fy=_LARGER, interpolation=cv2.INTER_LINEAR)
            faces = finder.find(np.asarray(larger, np.uint8))
            self.found += bool(faces)
            largest = max(faces, key=lambda face: float(face.box[2]), default=None)
            points = _usual(side) if largest is None else (largest.landmarks + 0.5) / _LARGER - 0.5
            self._faces.append(Face(np.array([0, 0, side, side], np.float32), points.astype(np.float32), 1.0))

    def of(self, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same pictures (N, 3, side, side), attacked or not, with purified faces in place."""
        frames = _frames(pictures)
        aligned = [align(frame, [face]).grey[0] for frame, face in zip(frames, self._faces, strict=True)]
        purified = self._purifier.purify_batch(quantize_faces(np.stack(aligned)), first_image=0).purified
        rows = zip(frames, self._faces, purified, strict=True)
        changed = np.stack([with_purified(frame, face.landmarks, grey) for frame, face, grey in rows])
        return np.ascontiguousarray(changed[..., ::-1].transpose(0, 3, 1, 2))


def _frames(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, side, side, 3) BGR."""
    return np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)[..., ::-1])


def _usual(side: int) -> NDArray[np.float64]:
    """Five points where synthetic faces have them on average."""
    template = np.asarray(TEMPLATE, np.float64)
    apart = side * sum(EYES) / 2
    eyes = template[:2].mean(0)
    return (template - eyes) * apart / float(np.linalg.norm(template[1] - template[0])) + [
        side / 2,
        side / 2 - BELOW_EYES * apart,
    ]


def purified_rows(
    attacked: AttackedFaces, victims: Sequence[LivenessVictim], bundle: Bundle
) -> tuple[list[dict[str, Any]], int]:
    """Wrong decisions with purification before the network and without, of clean and of attacked faces.

    The attacker does not know of the purifier. Rates are of faces that the network judges rightly when they are clean
    and not purified; the purifier's own harm to clean faces is the rows of budget 0.

    Returns
    -------
    rows : list of dict
    found : int
        Faces that the finder found; for the others the usual place was taken.
    """
    clean = attacked.faces.pixels.numpy()
    purifier = PurifiedPictures(bundle, clean, seed=attacked.protocol.seed)
    live = (attacked.faces.labels.live == LIVE).numpy()
    rows = []
    for victim in victims:
        right = victim.passes(attacked.judged(victim, clean)) == live
        shown: list[tuple[str, bool, float, NDArray[np.uint8]]] = [("none", False, 0.0, clean)]
        for level in attacked.protocol.purified_levels:
            for sfa in (False, True):
                attack = attacked.protocol.attack(PURIFIED_ATTACK, sfa=sfa)
                job = LivenessJob(victim, "live", PURIFIED_ATTACK, attack, sfa, level)
                shown.append((PURIFIED_ATTACK, sfa, level, attacked.pixels(job)))
        for name, sfa, level, pictures in shown:
            wrong = {
                where: victim.passes(attacked.judged(victim, seen)) != live
                for where, seen in (("without", pictures), ("with", purifier.of(pictures)))
            }
            for direction, which in zip(DIRECTIONS, (~live & right, live & right), strict=True):
                row: dict[str, Any] = {
                    "run": victim.name,
                    "attack": name,
                    "sfa": sfa,
                    "level": level,
                    "budget": f"{level:g}/255" if level else "0",
                    "direction": direction,
                    "faces": int(which.sum()),
                }
                for where, found in wrong.items():
                    share = rate(int(found[which].sum()), int(which.sum()))
                    names = ("percent", "low_percent", "high_percent")
                    row |= {f"{where}_{key}": share[key] for key in names}
                rows.append(row)
    return rows, purifier.found
