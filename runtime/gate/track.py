"""Which faces of following frames are one face."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from immunecam.runtime.faces import Face
from immunecam.runtime.faces.overlap import overlap

__all__ = ["FaceTracker", "Sighting", "Track"]


@dataclass(frozen=True, eq=False)
class Sighting:
    """A face in one frame.

    Attributes
    ----------
    face : Face
    crop : ndarray of uint8, shape (112, 112, 3)
        Aligned, BGR.
    grey : ndarray of float32, shape (112, 112)
        The same in [-1, 1].
    wide : ndarray of uint8, shape (side, side, 3), or None
        What a liveness network looks at; None where none is asked.
    """

    face: Face
    crop: NDArray[np.uint8] = field(repr=False)
    grey: NDArray[np.float32] = field(repr=False)
    wide: NDArray[np.uint8] | None = field(default=None, repr=False)


@dataclass(eq=False)
class Track:
    """One face over several frames.

    Attributes
    ----------
    number : int
        From 1, in the order of appearance.
    sightings : list of Sighting
        The newest at the end; a long track forgets its oldest.
    frames : int
        In which it was seen.
    missed : int
        Frames since it was seen.
    """

    number: int
    sightings: list[Sighting] = field(default_factory=list)
    frames: int = 0
    missed: int = 0

    @property
    def area(self) -> float:
        """Of the newest box, in pixels."""
        box = self.sightings[-1].face.box
        return float(box[2] * box[3])


class FaceTracker:
    """Follows faces by the overlap of their boxes from frame to frame, the largest overlap first.

    Who takes another's place in one frame's time gets that one's track; a track's score is therefore the mean over its
    frames, which two people together do not reach.

    Parameters
    ----------
    min_overlap : float
        Intersection over union from which a box is the same face.
    max_missed : int
        Frames without the face after which its track ends.
    max_sightings : int
        Kept of a track.
    """

    def __init__(self, *, min_overlap: float = 0.3, max_missed: int = 5, max_sightings: int = 32) -> None:
        self.min_overlap, self.max_missed, self.max_sightings = min_overlap, max_missed, max_sightings
        self._tracks: list[Track] = []
        self._count = 0

    @property
    def tracks(self) -> list[Track]:
        """Those that go on."""
        return list(self._tracks)

    def update(self, sightings: list[Sighting]) -> list[Track]:
        """Take the faces of the next frame; returns the tracks that ended."""
        pairs = sorted(
            (
                (overlap(track.sightings[-1].face.box, seen.face.box), t, s)
                for t, track in enumerate(self._tracks)
                for s, seen in enumerate(sightings)
            ),
            key=lambda pair: -pair[0],
        )
        continued: dict[int, int] = {}
        for common, t, s in pairs:
            if common >= self.min_overlap and t not in continued and s not in continued.values():
                continued[t] = s
        ended = []
        for t, track in enumerate(self._tracks):
            if t in continued:
                self._add(track, sightings[continued[t]])
            else:
                track.missed += 1
                if track.missed > self.max_missed:
                    ended.append(track)
        self._tracks = [track for track in self._tracks if track not in ended]
        for s, seen in enumerate(sightings):
            if s not in continued.values():
                self._count += 1
                track = Track(self._count)
                self._add(track, seen)
                self._tracks.append(track)
        return ended

    def _add(self, track: Track, seen: Sighting) -> None:
        track.sightings = [*track.sightings, seen][-self.max_sightings :]
        track.frames += 1
        track.missed = 0
