"""One analysis for the frames of a followed face, in place of one a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import UsageError
from immunecam.runtime.faces.face import Face

__all__ = ["SharedAnalysis"]

_BLOCK = 8  # pixels on each side of the blocks whose means are compared


class SharedAnalysis:
    """Probabilities of the faces that a :class:`immunecam.runtime.faces.FollowingFinder` follows, for one stream.

    The analyzer looks at a followed face again when it has changed, and at the latest after some frames. Every frame
    still draws an antibody of its own: it is the distribution that is shared, not the bits. Whoever begins an attack
    between two analyses meets the probabilities of the face before it; what that costs is measured by
    ``python -m immunecam.benchmarks.shared_analysis``.

    Parameters
    ----------
    change : float
        Mean absolute difference, in grey levels, of the means of 8x8 blocks to those of the face that was analysed;
        beyond it the face has changed.
    longest : int
        Frames that one analysis serves at most, its own counted.

    Raises
    ------
    UsageError
        If an argument is out of its range.
    """

    def __init__(self, *, change: float = 6.0, longest: int = 30) -> None:
        if not 0 <= change <= 255:
            raise UsageError(f"change is {change!r}, wanted 0 to 255 grey levels")
        if longest < 1:
            raise UsageError(f"longest is {longest}, wanted 1 frame or more")
        self.change, self.longest = change, longest
        self._analyses: dict[int, _Analysis] = {}
        self._shared = 0

    @property
    def shared(self) -> int:
        """Faces so far that were not analysed."""
        return self._shared

    def known(self, found: Sequence[Face], grey: NDArray[np.float32], k: int) -> NDArray[np.float32]:
        """Probabilities of the faces of the stream's next frame, as far as they are known.

        Parameters
        ----------
        found : sequence of Face
            All of the frame, N; those without a track are never known.
        grey : ndarray of float32, shape (N, 112, 112)
            Aligned, in [-1, 1].
        k : int
            Number of eigenfaces.

        Returns
        -------
        ndarray of float32, shape (N, K)
            NaN where a face must be analysed.
        """
        p = np.full((len(found), k), np.nan, np.float32)
        looks = _looks(grey)
        # Of a face that has gone, nothing is kept.
        still = {face.track for face in found}
        self._analyses = {track: one for track, one in self._analyses.items() if track in still}
        for row, (face, look) in enumerate(zip(found, looks, strict=True)):
            one = None if face.track is None else self._analyses.get(face.track)
            if one is None:
                continue
            if one.served < self.longest and np.abs(look - one.look).mean() <= self.change:
                one.served += 1
                self._shared += 1
                p[row] = one.probabilities
        return p

    def learn(
        self, found: Sequence[Face], grey: NDArray[np.float32], known: NDArray[np.float32], p: NDArray[np.float32]
    ) -> None:
        """Keep what the analyzer found, (N, K), of faces that were not :meth:`known`."""
        anew = np.isnan(known).any(1)
        for row, look in zip(np.flatnonzero(anew), _looks(grey[anew]), strict=True):
            track = found[int(row)].track
            if track is not None:
                # A copy: the caller hands the frame's probabilities on.
                self._analyses[track] = _Analysis(look, p[row].copy(), 1)


@dataclass
class _Analysis:
    look: NDArray[np.float32]  # (14, 14), means of blocks of the face that was analysed, in grey levels
    probabilities: NDArray[np.float32]  # (K,)
    served: int  # frames


def _looks(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    side = grey.shape[-1] // _BLOCK
    blocks = grey.reshape(len(grey), side, _BLOCK, side, _BLOCK)
    means: NDArray[np.float32] = 127.5 * blocks.mean((2, 4))
    return means
