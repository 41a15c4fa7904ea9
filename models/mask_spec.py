"""What is open about a mask: colours, positions, and the frequencies that are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from immunecam.models.block_dct import FREQUENCIES, POSITIONS

__all__ = ["COLOURS", "MaskSpec"]

COLOURS = {"grey": 1, "ycbcr": 3}
"""Colour planes by name."""


@dataclass(frozen=True)
class MaskSpec:
    """Which channels a masked face has; the order in which they come is the key's.

    Attributes
    ----------
    frequencies : tuple of tuples of int
        For each colour plane the kept ones, ascending, of 0 to 63 (8 times the vertical frequency plus the horizontal);
        as many for every plane. 0 is the mean of a block.
    positions : int
        Blocks a side, of `POSITIONS`.
    colours : str
        "grey" (luminance alone) or "ycbcr".

    Raises
    ------
    ValueError
        If an attribute is none of these.
    """

    frequencies: tuple[tuple[int, ...], ...]
    positions: int = 112
    colours: str = "grey"

    def __post_init__(self) -> None:
        if self.colours not in COLOURS:
            raise ValueError(f"unknown colours {self.colours!r} of a mask: use one of {', '.join(COLOURS)}")
        if self.positions not in POSITIONS:
            raise ValueError(
                f"a mask has {self.positions} positions a side: use one of {', '.join(map(str, POSITIONS))}"
            )
        planes = tuple(tuple(plane) for plane in self.frequencies)
        object.__setattr__(self, "frequencies", planes)
        if len(planes) != COLOURS[self.colours]:
            raise ValueError(f"a mask of {self.colours} has {COLOURS[self.colours]} colour planes, got {len(planes)}")
        for plane in planes:
            known = sorted(set(plane) & set(range(FREQUENCIES)))
            if not plane or list(plane) != known or len(plane) != len(planes[0]):
                raise ValueError(
                    "a mask keeps the same number of frequencies of every colour, ascending and of 0 to "
                    f"{FREQUENCIES - 1}, got {list(plane)}"
                )

    @classmethod
    def of(cls, frequencies: Sequence[int], positions: int = 112, colours: str = "grey") -> MaskSpec:
        """The same frequencies of every colour."""
        return cls((tuple(sorted(frequencies)),) * COLOURS.get(colours, 1), positions, colours)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MaskSpec:
        """What `to_dict` gave."""
        return cls(tuple(map(tuple, values["frequencies"])), values["positions"], values["colours"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @property
    def channels(self) -> int:
        """Of a masked face."""
        return sum(map(len, self.frequencies))

    @property
    def upsampling(self) -> int:
        """By which the explicit route would enlarge a 112x112 face."""
        return self.positions // POSITIONS[0]

    @property
    def whole(self) -> bool:
        """Whether nothing was dropped."""
        return len(self.frequencies[0]) == FREQUENCIES

    def index(self) -> list[int]:
        """Numbers of the kept channels among all 64 of every colour plane."""
        return [FREQUENCIES * number + f for number, plane in enumerate(self.frequencies) for f in plane]
