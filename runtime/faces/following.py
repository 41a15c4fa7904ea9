"""Faces of a stream: searched for now and then, followed from frame to frame in between."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import UsageError
from immunecam.runtime.faces.align import check_frame
from immunecam.runtime.faces.cascade import CascadeFinder
from immunecam.runtime.faces.crop import box_from_landmarks
from immunecam.runtime.faces.face import Face
from immunecam.runtime.faces.finder import FaceFinder, face_finder
from immunecam.runtime.faces.landmarks import LandmarkModel
from immunecam.runtime.faces.overlap import overlap, without_doubles

__all__ = ["FollowingFinder"]

_Places: TypeAlias = list[tuple[int, NDArray[np.float32]]]  # numbers of faces, and their boxes

_SAME = 0.3  # overlap from which a found box and a followed one are the same face
_DRIFTED = 0.5  # overlap below which the followed one is put where it was found
_UNCONFIRMED = 5  # searches in a row that do not see a followed face, after which it is none
_FASTEST = 0.5  # of its side that a face may move between two frames


class FollowingFinder:
    """Finds the faces of one stream at a fraction of what searching every frame costs.

    The landmark model looks where each face was, and tells by its score whether it still is there; that takes 0.3 ms a
    face, where searching a whole frame takes tens. Frames in which no face is followed are searched before they are
    given back, and so is a frame in which one was lost. While faces are followed, others are searched for in a thread
    of its own: in the next frame as long as searches bring news, and at intervals that double, up to `longest`, while
    they bring none.

    So a face that joins another is seen some frames late: by up to `longest` frames and the time of a search. Where
    every face must be purified in its first frame, search every frame.

    Parameters
    ----------
    finder : FaceFinder, optional
        Searches. None takes the bundled one.
    longest : int
        Frames between the beginnings of two searches while nothing changes; 1 searches all the time.
    background : bool
        False searches in the calling thread, in the frame in which a search is due: nothing runs beside it, and the
        same frames give the same faces.
    min_score : float
        Score of the landmark model below which a face is lost, 0 to 1.

    Raises
    ------
    UsageError
        If an argument is out of its range.
    """

    def __init__(
        self,
        finder: FaceFinder | None = None,
        *,
        longest: int = 8,
        background: bool = True,
        min_score: float = 0.5,
    ) -> None:
        if longest < 1:
            raise UsageError(f"longest is {longest}, wanted 1 frame or more")
        if not 0 <= min_score <= 1:
            raise UsageError(f"min_score is {min_score!r}, wanted 0 to 1")
        self.finder = face_finder() if finder is None else finder
        self.longest, self.min_score = longest, min_score
        # The bundled finder's own, which several threads may use: a session for each stream would take 15 MiB.
        self._landmarks = self.finder.landmarks if isinstance(self.finder, CascadeFinder) else LandmarkModel()
        self._followed: list[_Followed] = []
        self._count = self._since = 0
        self._interval = 1
        self._shape: tuple[int, ...] = ()
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="face search") if background else None
        self._search: Future[list[Face]] | None = None  # that goes on beside, or whose result was not looked at yet
        self._then: _Places = []  # what was followed in its frame
        self._outdated = False  # whether nobody wants its result any more
        self._searched = 0

    @property
    def interval(self) -> int:
        """Frames from the beginning of one search to the next, now."""
        return self._interval

    @property
    def searches(self) -> int:
        """How many frames were searched so far."""
        return self._searched

    def find(self, frame: NDArray[np.uint8]) -> list[Face]:
        """Faces of the stream's next frame, (H, W, 3) uint8 BGR, largest first; frames of one stream, in order."""
        check_frame(frame)
        if frame.shape != self._shape:  # another picture: nothing is where it was
            self._forget()
            self._shape = frame.shape
        grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)
        lost = self._follow(grey)
        self._since += 1
        self._take_up(grey)
        if not self._followed or lost:
            self._search_now(frame)
        elif self._since >= self._interval and self._search is None:
            if self._beside is None:
                self._search_now(frame)
            else:
                self._search_beside(frame)
        faces = (replace(one.face, track=one.number) for one in self._followed)
        return sorted(faces, key=lambda face: -float(face.box[2]))

    def close(self) -> None:
        """End the thread, after the search that it is at."""
        if self._beside is not None:
            self._beside.shutdown()

    def __enter__(self) -> FollowingFinder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self, grey: NDArray[np.uint8]) -> bool:
        """Look where the faces must be by now; whether one was lost."""
        before = self._followed
        expected = [one.face.landmarks + one.step for one in before]
        self._followed = []
        for one, face in zip(before, self._located(grey, expected), strict=True):
            if face is None:
                continue
            step = (face.landmarks - one.face.landmarks).mean(0)
            if np.hypot(*step) <= _FASTEST * face.box[2]:
                self._followed.append(_Followed(one.number, face, step, one.unconfirmed))
        # Two that have come to one place are one face.
        kept = without_doubles([one.face for one in self._followed])
        self._followed = [one for one in self._followed if any(one.face is face for face in kept)]
        return len(self._followed) < len(before)

    def _located(self, grey: NDArray[np.uint8], points: list[NDArray[np.float32]]) -> list[Face | None]:
        """Faces near where their five points were, in one look."""
        squares = [box_from_landmarks(p) for p in points]
        centres, sides = np.array([s[0] for s in squares]), np.array([max(s[1], 4.0) for s in squares])
        found: list[Face | None] = []
        for p, score in zip(*self._landmarks.locate(grey, centres, sides), strict=True):
            if score < self.min_score or not np.isfinite(p).all():
                found.append(None)
                continue
            centre, side = box_from_landmarks(p)
            found.append(Face(np.array([*(centre - side / 2), side, side], np.float32), p, float(score)))
        return found

    def _search_now(self, frame: NDArray[np.uint8]) -> None:
        """Search this frame before it is given back."""
        self._outdated = True
        self._searched, self._since = self._searched + 1, 0
        self._learn(None, self._places(), self.finder.find(frame))

    def _search_beside(self, frame: NDArray[np.uint8]) -> None:
        assert self._beside is not None
        self._searched, self._since = self._searched + 1, 0
        self._then, self._outdated = self._places(), False
        # Copied, because it is the caller's again as soon as he has his faces.
        self._search = self._beside.submit(self.finder.find, frame.copy())

    def _take_up(self, grey: NDArray[np.uint8]) -> None:
        """Learn from the search beside, if it has ended."""
        if self._search is None or not self._search.done():
            return
        search, self._search = self._search, None
        if not self._outdated:
            self._learn(grey, self._then, search.result())

    def _places(self) -> _Places:
        return [(one.number, one.face.box) for one in self._followed]

    def _learn(self, grey: NDArray[np.uint8] | None, then: _Places, faces: list[Face]) -> None:
        """Compare what a search found with what was followed in its frame; `grey` is a later frame, None the same."""
        news, seen = False, set[int]()
        anew: list[Face] = []
        for face in faces:
            number, common = max(
                ((n, overlap(face.box, box)) for n, box in then), key=lambda x: x[1], default=(-1, 0.0)
            )
            if common >= _SAME and number not in seen:
                seen.add(number)
            if common < _DRIFTED:
                news = True
                anew.append(face)
                if common >= _SAME:  # it is followed, but not where it is
                    self._followed = [one for one in self._followed if one.number != number]
        followed = []
        for one in self._followed:
            missed = 0 if one.number in seen else one.unconfirmed + (one.number in {n for n, _ in then})
            if missed < _UNCONFIRMED:
                followed.append(_Followed(one.number, one.face, one.step, missed))
            else:
                news = True
        self._followed = followed
        located = anew if grey is None else self._located(grey, [face.landmarks for face in anew])
        for found in located:
            if found is not None and all(overlap(found.box, one.face.box) < _SAME for one in self._followed):
                self._count += 1
                self._followed.append(_Followed(self._count, found, np.zeros(2, np.float32), 0))
        self._interval = 1 if news else min(2 * self._interval, self.longest)

    def _forget(self) -> None:
        self._followed, self._interval, self._since = [], 1, 0
        self._outdated = True


@dataclass(frozen=True, eq=False)
class _Followed:
    number: int
    face: Face
    step: NDArray[np.float32]  # (2,) pixels that it moved from the frame before
    unconfirmed: int  # searches in a row that did not see it
