"""What a manifest says of a bundle's liveness network: its file, what it looks at, and what a live face scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, TypeGuard

from immunecam.runtime.plan_record import LIVENESS, PlanRecord

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
class LivenessRecord:
    """The liveness network of a bundle.

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
    provenance, quality, parity : Mapping
        How it was trained, what was measured, and how far the graph is from PyTorch.
    plans : tuple of PlanRecord
        TensorRT plans of it, each for one kind of machine.
    """

    file: str
    side: int
    crop: LivenessCrop
    threshold: float
    precision: str
    synthetic: bool
    provenance: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    plans: tuple[PlanRecord, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All that go where the network goes: its own, and those of its plans."""
        return (self.file, *dict.fromkeys(plan.file for plan in self.plans))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        more = {name: dict(getattr(self, name)) for name in ("provenance", "quality", "parity")}
        names = ("file", "side", "threshold", "precision", "synthetic")
        plans = {"plans": [plan.to_dict() for plan in self.plans]} if self.plans else {}
        return {name: getattr(self, name) for name in names} | {"crop": asdict(self.crop)} | more | plans

    @classmethod
    def from_dict(cls, content: Any, wrong: Callable[[str, Any, str], Exception]) -> LivenessRecord:
        """Read a manifest's ``liveness``.

        Parameters
        ----------
        content : object
            From JSON.
        wrong : callable
            Makes the error of a field from its name, what was found and what was wanted.

        Raises
        ------
        Exception
            What ``wrong`` gives, if a field is missing or not of its kind.
        """
        if not isinstance(content, dict):
            raise wrong("liveness", content, "an object with file, side, crop and threshold")
        file, side, threshold = content.get("file"), content.get("side"), content.get("threshold")
        if not isinstance(file, str):
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
        more = {name: content.get(name, {}) for name in ("provenance", "quality", "parity")}
        for name, value in more.items():
            if not isinstance(value, dict):
                raise wrong(f"liveness.{name}", value, "an object")
        plans = content.get("plans", [])
        if not isinstance(plans, list):
            raise wrong("liveness.plans", plans, "a list")
        return cls(
            file=file,
            side=side,
            crop=_crop(content.get("crop"), wrong),
            threshold=float(threshold),
            precision=str(content["precision"]),
            synthetic=bool(content["synthetic"]),
            **{name: MappingProxyType(value) for name, value in more.items()},
            plans=tuple(
                PlanRecord.from_dict(plan, f"liveness.plans[{index}]", wrong, (LIVENESS,))
                for index, plan in enumerate(plans)
            ),
        )


def _crop(content: Any, wrong: Callable[[str, Any, str], Exception]) -> LivenessCrop:
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
