"""One picture with the decision on it: the face, its score on a scale, and what the gate would say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.reports.style import INK, MUTED, PAPER, RIGHT, WRONG

__all__ = ["NOISE_GAIN", "Panel", "noise"]

NOISE_GAIN = 10
"""How much stronger the noise is shown than it is."""

_LOWEST, _HIGHEST = -0.4, 1.0  # of the scale, in cosine; lower ones are drawn at its end


def noise(clean: NDArray[np.uint8], attacked: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What was added to a face, ten times as strong, around the middle grey."""
    return np.clip(128 + NOISE_GAIN * (attacked.astype(np.float32) - clean), 0, 255).astype(np.uint8)


class Panel:
    """Axes with a picture, and below it axes with a scale and words; to be shown anew as often as one likes.

    Parameters
    ----------
    picture, scale : Axes
        Of matplotlib.
    """

    def __init__(self, picture: Any, scale: Any) -> None:
        empty = np.zeros((112, 112), np.uint8)
        self._picture, self._scale = picture, scale
        self._image = picture.imshow(empty, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
        picture.set(xticks=[], yticks=[])
        for side in picture.spines.values():
            side.set_visible(True)
            side.set_linewidth(3)
        scale.set(xlim=(_LOWEST, _HIGHEST), ylim=(0, 1))
        scale.axis("off")
        words = {"transform": scale.transAxes, "ha": "center", "va": "top"}
        self._word = scale.text(0.5, 0.64, "", weight="bold", **words)
        self._name = scale.text(0.5, 0.42, "", **words)
        self._score = scale.text(0.5, 0.18, "", fontsize=8, **words)
        (self._line,) = scale.plot([_LOWEST, _HIGHEST], [0.82, 0.82], color=MUTED, linewidth=1.5, alpha=0.6)
        (self._limit,) = scale.plot([], [], color=INK, linewidth=1.5)
        (self._dot,) = scale.plot([], [], "o", markersize=8, clip_on=False)

    def say(self, face: NDArray[np.uint8], *words: str) -> None:
        """A picture that nothing is decided about, (112, 112) grey, with up to three lines below it."""
        self._image.set_data(face)
        self._paint(MUTED)
        for part in (self._line, self._limit, self._dot):
            part.set_visible(False)
        for text, word in zip((self._word, self._name, self._score), words, strict=False):
            text.set_text(word)

    def decide(self, face: NDArray[np.uint8], aim: str, cosine: float, threshold: float, *, right: bool) -> None:
        """A picture that is compared with the enrolled face of `aim`; `right` is whether the decision should be so."""
        self._image.set_data(face)
        self._paint(RIGHT if right else WRONG)
        # A sign, words and a place on the scale say what the colour does.
        said = "accepted as" if cosine >= threshold else "not taken for"
        self._word.set(text=f"{'✓' if right else '✗'} {said}", color=RIGHT if right else WRONG)
        self._name.set_text(aim)
        self._score.set_text(f"score {round(cosine, 2) + 0.0:.2f}, threshold {threshold:.2f}")
        self._limit.set_data([threshold, threshold], [0.74, 0.94])
        self._dot.set(color=RIGHT if right else WRONG, markeredgecolor=PAPER)
        self._dot.set_data([min(max(cosine, _LOWEST), _HIGHEST)], [0.82])

    def _paint(self, colour: str) -> None:
        for side in self._picture.spines.values():
            side.set_edgecolor(colour)
