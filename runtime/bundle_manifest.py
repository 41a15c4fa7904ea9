"""The manifest of a bundle: ``manifest.json``, format version 1."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from immunecam.errors import InputError
from immunecam.runtime.liveness_record import LivenessRecord
from immunecam.runtime.masking_record import MaskingRecord
from immunecam.runtime.part_record import PartRecord
from immunecam.runtime.plan_record import PlanRecord
from immunecam.runtime.trust.signature import SIGNATURE

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "KINDS",
    "MANIFEST",
    "MOST_VERSION",
    "PARTS",
    "READ_AGAIN",
    "SUBSPACE",
    "BundleManifest",
    "FileRecord",
    "check_file_name",
    "is_plain_name",
    "manifest_to_bytes",
]

MANIFEST = "manifest.json"
SUBSPACE = "subspace.safetensors"
FORMAT = "immunecam-bundle"
FORMAT_VERSION = 1
KINDS = ("edge", "ais", "pin")
MOST_VERSION = 2**53 - 1  # what every reader of JSON holds exactly
READ_AGAIN = "copy the bundle again from where it was made"
PARTS: tuple[type[LivenessRecord] | type[MaskingRecord], ...] = (LivenessRecord, MaskingRecord)
"""Optional parts that a bundle may have, besides what it purifies by."""

_SIDE = 112
_PRECISIONS = ("fp32", "fp16", "int8")
_ROLES = ("analyzer", "purifier", "restorer")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_FILE_BYTES = 2**31 - 1  # what one ONNX file (a protobuf message) may be


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (64 lower-case hexadecimal digits) of a file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True, eq=False)
class BundleManifest:
    """What a manifest says, checked.

    Attributes
    ----------
    kind : str
        The model: "edge", "ais" or "pin".
    k : int
        Number of eigenfaces, K.
    height, width : int
        Pixels of a face; format version 1 knows 112 x 112 only.
    value_range : tuple of float
        Range of a face's values: (-1, 1).
    options : Mapping
        The model's named options.
    precision : Mapping of str
        "fp32", "fp16" or "int8" of "analyzer" and "basis", and of "restorer" where there is one.
    files : Mapping of FileRecord
        Every file of the bundle but the manifest itself.
    graphs : Mapping of str
        File name of each ONNX graph by role: "analyzer", and optionally "purifier" and "restorer". A bundle with a
        restorer purifies by projection and restoration.
    plans : tuple of PlanRecord
        Compiled plans of the graphs, each for one kind of machine; a bundle need not have any.
    parts : Mapping of PartRecord
        Optional parts that the bundle has, by the `KEY` of their records.
    name : str
        What the bundle is called wherever it lies, for rollback protection; "" if it was never signed.
    version : int
        0 or more; a device that remembers versions loads no lower one of the same name. 0 if there is none.
    provenance, quality, parity : Mapping
        How it was trained, what was measured, and how far the ONNX graphs are from PyTorch.
    content : Mapping
        The whole manifest as read, with keys that this version does not know.
    """

    kind: str
    k: int
    height: int
    width: int
    value_range: tuple[float, float]
    options: Mapping[str, Any]
    precision: Mapping[str, str]
    files: Mapping[str, FileRecord]
    graphs: Mapping[str, str]
    plans: tuple[PlanRecord, ...]
    parts: Mapping[str, PartRecord]
    name: str
    version: int
    provenance: Mapping[str, Any]
    quality: Mapping[str, Any]
    parity: Mapping[str, Any]
    content: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_bytes(cls, raw: bytes, where: str) -> BundleManifest:
        """Parse and check a manifest.

        Parameters
        ----------
        raw : bytes
            The content of ``manifest.json``.
        where : str
            What to call the manifest in an error.

        Raises
        ------
        InputError
            If it is not JSON, not a bundle's manifest, of another format version, or a field is wrong.
        """
        try:
            content = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_repeats)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not valid JSON ({error}): copy the bundle again.") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise InputError(f"{where} is not a bundle's manifest: its format is {_shown(found)}, not {FORMAT!r}.")
        version = content.get("format_version")
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise InputError(
                f"{where} has the format version {_shown(version)}, but this immunecam reads version "
                f"{FORMAT_VERSION}: install a matching immunecam or export the bundle again."
            )
        return _Reader(content, where).manifest()

    @property
    def liveness(self) -> LivenessRecord | None:
        """The liveness network, where the bundle has one."""
        found = self.parts.get(LivenessRecord.KEY)
        return found if isinstance(found, LivenessRecord) else None

    @property
    def masking(self) -> MaskingRecord | None:
        """A mask and a recogniser of masked faces, where the bundle has them."""
        found = self.parts.get(MaskingRecord.KEY)
        return found if isinstance(found, MaskingRecord) else None

    @property
    def all_plans(self) -> tuple[PlanRecord, ...]:
        """Those of the graphs, and those of the parts."""
        return (*self.plans, *(plan for part in self.parts.values() for plan in part.plans))

    def plans_of(self, role: str) -> tuple[PlanRecord, ...]:
        """Plans of a graph, or of a part's network."""
        return tuple(plan for plan in self.all_plans if plan.role == role)

    def compiled_file(self, role: str) -> str | None:
        """Name of the ONNX file that plans of a role are compiled from; None if there is none."""
        own = (part.networks[role] for part in self.parts.values() if role in part.networks)
        return self.graphs.get(role) or next(own, None)

    def compiled_sha256(self, role: str) -> str | None:
        """The hash of that file."""
        name = self.compiled_file(role)
        return None if name is None else self.files[name].sha256


def check_file_name(name: Any) -> None:
    """Refuse a file name that is not plain, so that no manifest reaches outside its folder.

    Raises
    ------
    InputError
        Unless the name is 1 to 100 of ``A-Z a-z 0-9 . _ + -``, does not begin with a dot, plus or minus,
        and is not the manifest's or the signature's own.
    """
    if not is_plain_name(name):
        raise InputError(
            f"The bundle's manifest lists the file name {_shown(name)}, but a name must be plain: letters, digits, "
            f"'.', '_', '+' and '-' without a folder, and not {MANIFEST} or {SIGNATURE}."
        )


def is_plain_name(name: Any) -> bool:
    """Whether a manifest may list a file of this name, see :func:`check_file_name`."""
    return isinstance(name, str) and bool(_PLAIN_NAME.fullmatch(name)) and name not in (MANIFEST, SIGNATURE)


def manifest_to_bytes(content: Mapping[str, Any]) -> bytes:
    """Content of a ``manifest.json`` from plain values; whether they make a valid one is not checked.

    Raises
    ------
    TypeError, ValueError
        If there is something in it that JSON lacks.
    """
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


class _Reader:
    """Takes a manifest apart, naming the field that is wrong."""

    def __init__(self, content: dict[str, Any], where: str) -> None:
        self.content = content
        self.where = where

    def manifest(self) -> BundleManifest:
        kind = self.content.get("kind")
        if kind not in KINDS:
            raise self.wrong("kind", kind, f"one of {', '.join(KINDS)}")
        shapes = self.mapping("shapes")
        for side in ("height", "width"):
            if shapes.get(side) != _SIDE:
                raise self.wrong(f"shapes.{side}", shapes.get(side), str(_SIDE))
        k = shapes.get("k")
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= _SIDE * _SIDE:
            raise self.wrong("shapes.k", k, f"an integer from 1 to {_SIDE * _SIDE}")
        value_range = self.content.get("value_range")
        if value_range != [-1, 1]:
            raise self.wrong("value_range", value_range, "[-1, 1]")
        precision = self.mapping("precision")
        parts = ("analyzer", "basis", "restorer") if "restorer" in self.mapping("graphs") else ("analyzer", "basis")
        for part in parts:
            if precision.get(part) not in _PRECISIONS:
                raise self.wrong(f"precision.{part}", precision.get(part), f"one of {', '.join(_PRECISIONS)}")
        files = self.files()
        graphs = self.graphs(files)
        return BundleManifest(
            kind=str(kind),
            k=k,
            height=_SIDE,
            width=_SIDE,
            value_range=(-1.0, 1.0),
            options=self.mapping("options", optional=True),
            precision=precision,
            files=files,
            graphs=graphs,
            plans=self.plans(files, graphs),
            parts=self.parts(files),
            name=self.name(),
            version=self.version(),
            provenance=self.mapping("provenance", optional=True),
            quality=self.mapping("quality", optional=True),
            parity=self.mapping("parity", optional=True),
            content=MappingProxyType(self.content),
        )

    def files(self) -> Mapping[str, FileRecord]:
        records: dict[str, FileRecord] = {}
        for name, record in self.mapping("files").items():
            check_file_name(name)
            if not isinstance(record, dict):
                raise self.wrong(f"files.{name}", record, "an object with sha256 and bytes")
            sha256, size = record.get("sha256"), record.get("bytes")
            if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
                raise self.wrong(f"files.{name}.sha256", sha256, "64 lower-case hexadecimal digits")
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_FILE_BYTES:
                raise self.wrong(f"files.{name}.bytes", size, f"an integer from 0 to {_MAX_FILE_BYTES}")
            records[name] = FileRecord(sha256, size)
        if SUBSPACE not in records:
            raise self.wrong("files", sorted(records), f"a list that has {SUBSPACE}")
        return MappingProxyType(records)

    def graphs(self, files: Mapping[str, FileRecord]) -> Mapping[str, str]:
        graphs = self.mapping("graphs")
        if "analyzer" not in graphs:
            raise self.wrong("graphs", dict(graphs), "an object that has an analyzer")
        for role, name in graphs.items():
            if role not in _ROLES:
                raise self.wrong("graphs", role, f"made of the roles {', '.join(_ROLES)}")
            if not isinstance(name, str) or name not in files:
                raise self.wrong(f"graphs.{role}", name, "the name of a listed file")
        return graphs

    def plans(self, files: Mapping[str, FileRecord], graphs: Mapping[str, str]) -> tuple[PlanRecord, ...]:
        found = self.content.get("plans", [])
        if not isinstance(found, list):
            raise self.wrong("plans", found, "a list")
        plans = [PlanRecord.from_dict(entry, f"plans[{index}]", self.wrong) for index, entry in enumerate(found)]
        for index, plan in enumerate(plans):
            if plan.file not in files:
                raise self.wrong(f"plans[{index}].file", plan.file, "the name of a listed file")
            if plan.role not in graphs:
                raise self.wrong(f"plans[{index}].role", plan.role, "the role of a graph of this bundle")
        return tuple(plans)

    def parts(self, files: Mapping[str, FileRecord]) -> Mapping[str, PartRecord]:
        there = (part for part in PARTS if part.KEY in self.content)
        return MappingProxyType({part.KEY: part.from_dict(self.content[part.KEY], files, self.wrong) for part in there})

    def name(self) -> str:
        name = self.content.get("name", "")
        if not isinstance(name, str) or (name and not _PLAIN_NAME.fullmatch(name)):
            raise self.wrong("name", name, "1 to 100 of A-Z a-z 0-9 . _ + -, the first a letter, digit or _")
        return name

    def version(self) -> int:
        version = self.content.get("version", 0)
        if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= MOST_VERSION:
            raise self.wrong("version", version, f"an integer from 0 to {MOST_VERSION}")
        return version

    def mapping(self, key: str, *, optional: bool = False) -> Mapping[str, Any]:
        value = self.content.get(key, {} if optional else None)
        if not isinstance(value, dict):
            raise self.wrong(key, value, "an object")
        return MappingProxyType(value)

    def wrong(self, key: str, found: Any, wanted: str) -> InputError:
        return InputError(f"{self.where}: {key} is {_shown(found)}, but it must be {wanted}: export the bundle again.")


def _shown(found: Any) -> str:
    """A value for an error, which stays one sentence whatever stands there."""
    text = repr(found)
    return text if len(text) <= 80 else text[:77] + "..."


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON allows a key twice; two readers could then see two different manifests."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice")
    return content
