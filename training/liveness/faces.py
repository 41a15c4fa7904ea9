"""Live and spoofed faces with their labels, in memory and as one file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from immunecam.errors import InputError
from immunecam.files import written_whole
from immunecam.models.liveness import AUXILIARY, check_side
from immunecam.models.liveness_loss import LIVE, SPOOF, LivenessLabels

__all__ = ["LivenessSet"]

_FORMAT = "immunecam-liveness-set-1"


@dataclass(frozen=True, eq=False)
class LivenessSet:
    """Faces, labels, and what the labels' numbers mean.

    Attributes
    ----------
    pixels : Tensor
        (N, 3, side, side) uint8 RGB.
    labels : LivenessLabels
    attribute_names, type_names, illumination_names : tuple of str
        Of the classes; the first type and illumination are "live".
    origin : str
        Where the faces are from, for reports: "synthetic: ..." or the name of a set.
    """

    pixels: Tensor
    labels: LivenessLabels
    attribute_names: tuple[str, ...]
    type_names: tuple[str, ...]
    illumination_names: tuple[str, ...]
    origin: str

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[1] != 3 or self.pixels.shape[2] != self.pixels.shape[3]:
            raise InputError(f"liveness faces must be (N, 3, side, side), got {tuple(self.pixels.shape)}")
        try:
            check_side(self.side)
        except ValueError as error:
            raise InputError(str(error)) from None
        if len(self.pixels) != len(self.labels):
            raise InputError(f"{len(self.pixels)} liveness faces have {len(self.labels)} labels: give one for each")
        for task in self.tasks:
            labels = self.labels.of(task)
            if labels is None or len(labels) != len(self):
                raise InputError(
                    f"{len(self)} liveness faces have other numbers of labels for {task}: give one for each"
                )
        for task, names in (("spoof_type", self.type_names), ("illumination", self.illumination_names)):
            labels = self.labels.of(task)
            if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
                raise InputError(
                    f"liveness labels for {task} are {int(labels.min())} to {int(labels.max())}, "
                    f"but there are {len(names)} names: correct the labels"
                )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def side(self) -> int:
        """Of the pictures, in pixels."""
        return int(self.pixels.shape[-1])

    @property
    def synthetic(self) -> bool:
        """Whether the spoofs were computed; no figure about them may go without that word."""
        return self.origin.startswith("synthetic")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The auxiliary tasks that there are labels for."""
        return tuple(task for task in AUXILIARY if self.labels.of(task) is not None)

    def at(self, chosen: Tensor) -> LivenessSet:
        """Some of the faces, by index or mask."""
        return dataclasses.replace(self, pixels=self.pixels[chosen], labels=self.labels.at(chosen))

    def halves(self) -> tuple[LivenessSet, LivenessSet]:
        """Every second face of each class, and the others: to choose by, and to judge by."""
        first = torch.zeros(len(self), dtype=torch.bool)
        for value in (LIVE, SPOOF):
            first[torch.nonzero(self.labels.live == value).flatten()[::2]] = True
        return self.at(first), self.at(~first)

    def check(self, tasks: Iterable[str]) -> None:
        """Refuse a set that cannot train these tasks.

        Raises
        ------
        InputError
            If all faces are live, or all spoofs, or a task's labels are missing.
        """
        spoofs = int((self.labels.live == SPOOF).sum())
        if spoofs in (0, len(self)):
            only, other = ("live faces", "spoofs") if spoofs == 0 else ("spoofs", "live faces")
            raise InputError(f"the set {self.origin!r} has {len(self)} faces, all of them {only}: add {other}")
        missing = [task for task in tasks if self.labels.of(task) is None]
        if missing:
            raise InputError(
                f"the set {self.origin!r} has no labels for {' and '.join(missing)}: "
                f"leave these tasks out (it has {', '.join(self.tasks) or 'live or spoof only'}), or add the labels"
            )

    def check_like(self, other: LivenessSet) -> None:
        """Refuse faces of another size than the other set's, or cut otherwise.

        Raises
        ------
        InputError
        """
        if self.side != other.side:
            raise InputError(
                f"the faces of {self.origin!r} are {self.side} px wide and those of {other.origin!r} {other.side}: "
                "make both alike"
            )
        if self.synthetic != other.synthetic:
            raise InputError(
                f"the faces of {self.origin!r} are cut otherwise than those of {other.origin!r}: take two synthetic "
                "sets, or none"
            )

    @property
    def sha256(self) -> str:
        """Of pixels and all labels: what a run was trained on."""
        digest = hashlib.sha256(self.pixels.contiguous().numpy().tobytes())
        for name in ("live", *self.tasks):
            value = self.labels.of(name)
            assert value is not None
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def counts(self) -> dict[str, int]:
        """Number of faces by type, of types that there are."""
        if self.labels.spoof_type is None:
            live = int((self.labels.live == LIVE).sum())
            return {"live": live, "spoof": len(self) - live}
        numbers = self.labels.spoof_type.bincount(minlength=len(self.type_names)).tolist()
        return {name: number for name, number in zip(self.type_names, numbers, strict=True) if number}

    def save(self, path: str | Path) -> None:
        """Write one .safetensors file, whole or not at all."""
        names = ("live", *self.tasks)
        tensors = {"pixels": self.pixels.contiguous()}
        tensors |= {name: value.contiguous() for name in names if (value := self.labels.of(name)) is not None}
        about = {
            "format": _FORMAT,
            "origin": self.origin,
            "attributes": self.attribute_names,
            "types": self.type_names,
            "illuminations": self.illumination_names,
        }
        with written_whole(Path(path)) as partial:
            save_file(tensors, partial, metadata={"about": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> LivenessSet:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If it is something else, or damaged.
        """
        if Path(path).is_dir():
            raise InputError(f"{str(path)!r} is a folder, but a set of `immunecam liveness make` is a file: give that")
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["about"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if about["format"] != _FORMAT:
                raise ValueError(f"its format is {about['format']!r}, wanted {_FORMAT!r}")
            pixels = tensors.pop("pixels")
            return cls(
                pixels,
                LivenessLabels(**tensors),
                tuple(about["attributes"]),
                tuple(about["types"]),
                tuple(about["illuminations"]),
                str(about["origin"]),
            )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"the liveness set {str(path)!r} cannot be read ({error}): make it anew by `immunecam liveness make`"
            ) from None
