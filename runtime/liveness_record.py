"""What a manifest says of a bundle's liveness network: its file, what it looks at, and what a live face scores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeGuard

from immunecam.runtime.part_record import PartRecord, Wrong
from immunecam.runtime.plan_record import LIVENESS

__all__ = ["CROPS", "LIVENESS_PRECISIONS", "LivenessCrop", "LivenessRecord"]

CROPS = ("landmarks", "box")
LIVENESS_PRECISIONS = ("fp32", "int8")

_SMALLEST, _LARGEST = 64, 512


@dataclass(frozen=True)
class LivenessCrop:
    """Which upright square of a picture the network looks at, as it was trained.

    Attributes
    ----------
    around : str
        "landmarks": the unit is the distance between the eyes, or that from eyes to mouth divided by 1.15 if it is
        more, so that a turned head keeps its size, and the square hangs on the middle of the eyes. "box": the unit is
        the longer side of the face's box, and the square lies about its centre.
    size : float
        Side of the square in units.
    down : float
        How far its centre is below what it hangs on, in units.
    """

    around: str
    size: float
    down: float = 0.0


@dataclass(frozen=True)
class LivenessRecord(PartRecord):
    """The liveness network of a bundle; what all parts have is told by :class:`PartRecord`.

    Attributes
    ----------
    file : str
        Name of a listed file: ONNX, `faces` (N, 3, side, side) float32 RGB in [-1, 1] to `scores` (N,) in [0, 1], the
        probability of a live face.
    side : int
        Pixels.
    crop : LivenessCrop
    threshold : float
        Score from which a face passes as live.
    precision : str
        "fp32" or "int8".
    synthetic : bool
        Whether the spoofs that it was trained and measured on were computed; its figures are no certification then.
    """

    KEY: ClassVar[str] = "liveness"
    TITLE: ClassVar[str] = "liveness network"
    COMPILED: ClassVar[tuple[str, ...]] = (LIVENESS,)

    file: str
    side: int
    crop: LivenessCrop
    threshold: float
    precision: str
    synthetic: bool

    @property
    def networks(self) -> Mapping[str, str]:
        """One."""
        return {LIVENESS: self.file}

    def named(self, names: Mapping[str, str]) -> LivenessRecord:
        """The same with another name of its file."""
        return dataclasses.replace(self, file=names[LIVENESS])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        names = ("file", "side", "threshold", "precision", "synthetic")
        return {name: getattr(self, name) for name in names} | {"crop": asdict(self.crop)} | super().to_dict()

    @classmethod
    def from_dict(cls, content: Any, files: Collection[str], wrong: Wrong) -> LivenessRecord:
        """Read a manifest's ``liveness``.

        Parameters
        ----------
        content : object
            From JSON.
        files : collection of str
            Names that the manifest lists.
        wrong : callable

        Raises
        ------
        Exception
            What ``wrong`` gives, if a field is missing or not of its kind.
        """
        if not isinstance(content, dict):
            raise wrong("liveness", content, "an object with file, side, crop and threshold")
        file, side, threshold = content.get("file"), content.get("side"), content.get("threshold")
        if not isinstance(file, str) or file not in files:
            raise wrong("liveness.file", file, "the name of a listed file")
        if not isinstance(side, int) or isinstance(side, bool) or not _SMALLEST <= side <= _LARGEST or side % 16:
            raise wrong("liveness.side", side, f"a multiple of 16 from {_SMALLEST} to {_LARGEST}")
        # Above 0, for else every face would pass.
        if not _number(threshold) or not 0 < threshold <= 1:
            raise wrong("liveness.threshold", threshold, "a number above 0, and 1 at most")
        if content.get("precision") not in LIVENESS_PRECISIONS:
            raise wrong("liveness.precision", content.get("precision"), f"one of {', '.join(LIVENESS_PRECISIONS)}")
        if not isinstance(content.get("synthetic"), bool):
            raise wrong("liveness.synthetic", content.get("synthetic"), "true or false")
        return cls(
            file=file,
            side=side,
            crop=_crop(content.get("crop"), wrong),
            threshold=float(threshold),
            precision=str(content["precision"]),
            synthetic=bool(content["synthetic"]),
            **cls.common(content, files, wrong),
        )


def _crop(content: Any, wrong: Wrong) -> LivenessCrop:
    if not isinstance(content, dict):
        raise wrong("liveness.crop", content, "an object with around, size and down")
    around, size, down = content.get("around"), content.get("size"), content.get("down", 0.0)
    if around not in CROPS:
        raise wrong("liveness.crop.around", around, f"one of {', '.join(CROPS)}")
    if not _number(size) or not 0.5 <= size <= 16:
        raise wrong("liveness.crop.size", size, "a number from 0.5 to 16")
    if not _number(down) or not abs(down) <= 4:
        raise wrong("liveness.crop.down", down, "a number from -4 to 4")
    return LivenessCrop(str(around), float(size), float(down))


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
