"""What manifests say of every optional part of a bundle: networks of their own, which the purifier does without."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from immunecam.runtime.plan_record import PlanRecord

__all__ = ["PartRecord", "Wrong"]

Wrong = Callable[[str, Any, str], Exception]
"""Makes the error of a field from its name, what was found and what was wanted."""

_Record = TypeVar("_Record", bound="PartRecord")

_NOTES = ("provenance", "quality", "parity")


@dataclass(frozen=True, kw_only=True)
class PartRecord(ABC):
    """What parts have in common.

    Attributes
    ----------
    KEY : str
        Where it stands in a manifest, beside the graphs, so that versions that know of no such part read the bundle;
        also the command that puts it in, ``immunecam KEY export``.
    TITLE : str
        What it is called in an error.
    COMPILED : tuple of str
        Roles of the networks that TensorRT plans are made of.
    provenance, quality, parity : Mapping
        How it was trained, what was measured, and how far the graphs are from PyTorch.
    plans : tuple of PlanRecord
        TensorRT plans, each for one kind of machine.
    """

    KEY: ClassVar[str]
    TITLE: ClassVar[str]
    COMPILED: ClassVar[tuple[str, ...]]

    provenance: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    plans: tuple[PlanRecord, ...] = ()

    @property
    @abstractmethod
    def networks(self) -> Mapping[str, str]:
        """Names of listed ONNX files by role; no role is another part's or a graph's."""

    @abstractmethod
    def named(self: _Record, names: Mapping[str, str]) -> _Record:
        """The same with other names of its networks, by role."""

    @property
    def files(self) -> tuple[str, ...]:
        """All that go where the part goes: its networks', and those of its plans."""
        return tuple(dict.fromkeys([*self.networks.values(), *(plan.file for plan in self.plans)]))

    def without_plans(self: _Record) -> _Record:
        """The same, as it is before a card has seen it."""
        return dataclasses.replace(self, plans=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        plans = {"plans": [plan.to_dict() for plan in self.plans]} if self.plans else {}
        return {name: dict(getattr(self, name)) for name in _NOTES} | plans

    @classmethod
    def common(cls, content: Mapping[str, Any], files: Collection[str], wrong: Wrong) -> dict[str, Any]:
        """The fields that all parts have, of a manifest's entry.

        Parameters
        ----------
        content : Mapping
            From JSON.
        files : collection of str
            Names that the manifest lists.
        wrong : callable

        Raises
        ------
        Exception
            What ``wrong`` gives, if one is not of its kind.
        """
        notes = {name: content.get(name, {}) for name in _NOTES}
        for name, value in notes.items():
            if not isinstance(value, dict):
                raise wrong(f"{cls.KEY}.{name}", value, "an object")
        plans = content.get("plans", [])
        if not isinstance(plans, list):
            raise wrong(f"{cls.KEY}.plans", plans, "a list")
        records = []
        for index, plan in enumerate(plans):
            where = f"{cls.KEY}.plans[{index}]"
            records.append(PlanRecord.from_dict(plan, where, wrong, cls.COMPILED))
            if records[-1].file not in files:
                raise wrong(f"{where}.file", records[-1].file, "the name of a listed file")
        return {name: MappingProxyType(value) for name, value in notes.items()} | {"plans": tuple(records)}
