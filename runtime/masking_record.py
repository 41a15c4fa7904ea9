"""What a manifest says of a bundle's mask and its recogniser: files, channels, and which key they are of."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from immunecam.runtime.part_record import PartRecord, Wrong
from immunecam.runtime.plan_record import MASK, MASKED_RECOGNIZER

__all__ = ["MASKING_GRAPHS", "MaskingRecord"]

MASKING_GRAPHS = (MASK, "picture", MASKED_RECOGNIZER)
"""Roles of the graphs, see :class:`MaskingRecord`."""

_POSITIONS = (14, 28, 56, 112)
_FREQUENCIES = 64
_CHECK = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class MaskingRecord(PartRecord):
    """A frequency mask of grey faces and a recogniser of masked ones; what all parts have is told by `PartRecord`.

    Attributes
    ----------
    graphs : Mapping of str
        Names of listed ONNX files. "mask": `faces` (N, 112, 112) float32 in [-1, 1] to `channels` (N, C, P, P), not yet
        in the key's order. "picture": `channels` to `faces`, what those channels show by themselves. "recognizer":
        `channels`, in the key's order, to `embedding` (N, E).
    frequencies : tuple of int
        The C that are kept, ascending, of 1 to 63.
    positions : int
        Blocks a side, P.
    size : int
        Length of an embedding, E.
    key_check : str
        32 hex digits that tell the masking key from others. The key is not in the bundle. What the recogniser has
        learnt is, though, and its first layer undoes the order: the bundle is as secret as the key.
    """

    KEY: ClassVar[str] = "masking"
    TITLE: ClassVar[str] = "masking part"
    COMPILED: ClassVar[tuple[str, ...]] = (MASK, MASKED_RECOGNIZER)

    graphs: Mapping[str, str]
    frequencies: tuple[int, ...]
    positions: int
    size: int
    key_check: str

    @property
    def channels(self) -> int:
        """Of a masked face, C."""
        return len(self.frequencies)

    @property
    def networks(self) -> Mapping[str, str]:
        """As `graphs`; of "picture", which no gate needs, there are no plans."""
        return self.graphs

    def named(self, names: Mapping[str, str]) -> MaskingRecord:
        """The same with other names of its graphs."""
        return dataclasses.replace(self, graphs=MappingProxyType(dict(names)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {
            "frequencies": list(self.frequencies),
            "positions": self.positions,
            "size": self.size,
            "key_check": self.key_check,
            "graphs": dict(self.graphs),
        } | super().to_dict()

    @classmethod
    def from_dict(cls, content: Any, files: Collection[str], wrong: Wrong) -> MaskingRecord:
        """Read a manifest's ``masking``.

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
            raise wrong("masking", content, "an object with graphs, frequencies, positions, size and key_check")
        graphs, frequencies = content.get("graphs"), content.get("frequencies")
        named = isinstance(graphs, dict) and all(isinstance(graphs.get(role), str) for role in MASKING_GRAPHS)
        if not isinstance(graphs, dict) or not named or len(graphs) != len(MASKING_GRAPHS):
            raise wrong("masking.graphs", graphs, f"an object with a file for each of {', '.join(MASKING_GRAPHS)}")
        for role, name in graphs.items():
            if name not in files:
                raise wrong(f"masking.graphs.{role}", name, "the name of a listed file")
        known = isinstance(frequencies, list) and all(type(f) is int and 0 < f < _FREQUENCIES for f in frequencies)
        if not isinstance(frequencies, list) or not frequencies or not known or sorted(set(frequencies)) != frequencies:
            raise wrong("masking.frequencies", frequencies, f"different numbers of 1 to {_FREQUENCIES - 1}, ascending")
        positions, size, check = content.get("positions"), content.get("size"), content.get("key_check")
        if positions not in _POSITIONS or isinstance(positions, bool):
            raise wrong("masking.positions", positions, f"one of {', '.join(map(str, _POSITIONS))}")
        if not isinstance(size, int) or isinstance(size, bool) or not 8 <= size <= 8192:
            raise wrong("masking.size", size, "a whole number from 8 to 8192")
        if not isinstance(check, str) or not _CHECK.fullmatch(check):
            raise wrong("masking.key_check", check, "32 lower-case hexadecimal digits")
        return cls(
            graphs=MappingProxyType(graphs),
            frequencies=tuple(frequencies),
            positions=int(positions),
            size=size,
            key_check=check,
            **cls.common(content, files, wrong),
        )
