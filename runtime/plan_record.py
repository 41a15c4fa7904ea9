"""What a manifest says of a compiled plan: its file, the graph it is of, and the key of everything it depends on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["LIVENESS", "MASK", "MASKED_RECOGNIZER", "PLAN_PRECISIONS", "PLAN_ROLES", "PlanKey", "PlanRecord"]

PLAN_ROLES = ("analyzer", "restorer")
"""Graphs that run on a card; mutation and projection between them are kernels."""

LIVENESS = "liveness"
"""Role of a plan of the liveness network; it stands in the network's own record, which older versions pass over."""

MASK, MASKED_RECOGNIZER = "mask", "recognizer"
"""Roles of plans of a masking part; likewise."""

PLAN_PRECISIONS = ("fp32", "fp16", "int8")

_LARGEST_BATCH = 65_536
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PlanKey:
    """Everything that a plan depends on; where one of these is another, another plan is needed.

    Attributes
    ----------
    onnx_sha256 : str
        Of the bundle's ONNX file that it was built from.
    tensorrt : str
        TensorRT's version, "10.3.0".
    gpu : str
        The card's name.
    compute_capability : str
        "8.7".
    driver : str
        Newest CUDA version that the driver knows, "12.6".
    precision : str
        "fp32", "fp16" or "int8", as written into the graph before it was built.
    batch : (int, int, int)
        Smallest, most usual and largest number of faces of a call.
    flags : tuple of str
        Options of the build that change the plan, "NAME=VALUE" or "NAME".
    """

    onnx_sha256: str
    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str
    precision: str
    batch: tuple[int, int, int]
    flags: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        return content | {"batch": list(self.batch), "flags": list(self.flags)}

    def flag(self, name: str) -> str | None:
        """The value of a flag ("" if it has none), or None if it was not given."""
        for given in self.flags:
            head, _, value = given.partition("=")
            if head == name:
                return value
        return None


@dataclass(frozen=True)
class PlanRecord:
    """A plan of a bundle.

    Attributes
    ----------
    file : str
        Name of a listed file of the bundle.
    role : str
        "analyzer", "restorer", or a role of an optional part's networks.
    key : PlanKey
    parity : Mapping
        What was measured of it against ONNX Runtime before it was stored.
    """

    file: str
    role: str
    key: PlanKey
    parity: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {"file": self.file, "role": self.role, "key": self.key.to_dict(), "parity": dict(self.parity)}

    @classmethod
    def from_dict(
        cls,
        content: Any,
        where: str,
        wrong: Callable[[str, Any, str], Exception],
        roles: Sequence[str] = PLAN_ROLES,
    ) -> PlanRecord:
        """Read an entry of a manifest's ``plans``.

        Parameters
        ----------
        content : object
            From JSON.
        where : str
            What to call the entry, "plans[0]".
        wrong : callable
            Makes the error of a field from its name, what was found and what was wanted.
        roles : sequence of str
            That may stand there.

        Raises
        ------
        Exception
            What ``wrong`` gives, if a field is missing or not of its kind.
        """
        if not isinstance(content, dict):
            raise wrong(where, content, "an object with file, role and key")
        file, role, parity = content.get("file"), content.get("role"), content.get("parity", {})
        if not isinstance(file, str):
            raise wrong(f"{where}.file", file, "the name of a listed file")
        if not isinstance(role, str) or role not in roles:
            raise wrong(f"{where}.role", role, f"one of {', '.join(roles)}")
        if not isinstance(parity, dict):
            raise wrong(f"{where}.parity", parity, "an object")
        return cls(file, role, _key(content.get("key"), f"{where}.key", wrong), parity)


def _key(content: Any, where: str, wrong: Callable[[str, Any, str], Exception]) -> PlanKey:
    if not isinstance(content, dict):
        raise wrong(where, content, "an object")
    texts = {}
    for name in ("onnx_sha256", "tensorrt", "gpu", "compute_capability", "driver", "precision"):
        value = content.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= 200:
            raise wrong(f"{where}.{name}", value, "a text")
        texts[name] = value
    if not _SHA256.fullmatch(texts["onnx_sha256"]):
        raise wrong(f"{where}.onnx_sha256", texts["onnx_sha256"], "64 lower-case hexadecimal digits")
    if texts["precision"] not in PLAN_PRECISIONS:
        raise wrong(f"{where}.precision", texts["precision"], f"one of {', '.join(PLAN_PRECISIONS)}")
    batch, flags = content.get("batch"), content.get("flags", [])
    sizes = tuple(batch) if isinstance(batch, list) and all(type(size) is int for size in batch) else ()
    if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2] <= _LARGEST_BATCH:
        raise wrong(f"{where}.batch", batch, f"three integers from 1 to {_LARGEST_BATCH}, none below the one before")
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise wrong(f"{where}.flags", flags, "a list of texts")
    return PlanKey(**texts, batch=sizes, flags=tuple(flags))
