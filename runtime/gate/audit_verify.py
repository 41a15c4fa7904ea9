"""Whether an audit trail is as it was written: nothing edited, removed, put in another order or cut off."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from immunecam.errors import InputError
from immunecam.runtime.gate.audit_anchor import Anchor
from immunecam.runtime.gate.audit_chain import GENESIS, ChainBroken, Link, read_line
from immunecam.runtime.gate.audit_clock import wall_seconds
from immunecam.runtime.gate.audit_log import trail_files

__all__ = ["AuditFault", "AuditReport", "verify_trail"]

_MAX_FAULTS = 100
_MAX_LINE = 2**24


@dataclass(frozen=True)
class AuditFault:
    """Something that was done to a trail.

    Attributes
    ----------
    kind : str
        "edited", "missing", "order", "cut-off", "rewritten" or "beginning".
    where : str
        File and line, or the trail.
    what : str
        A sentence.
    """

    kind: str
    where: str
    what: str


@dataclass
class AuditReport:
    """What verification found.

    Attributes
    ----------
    chain : str
        Name of the trail.
    files, records : int
    first, last : Link
        The last one may be noted elsewhere, to be compared the next time.
    anchored : Link or None
        The link that the store or the caller knew.
    faults : list of AuditFault
        At most 100.
    notes : list of str
        What is no fault: repairs after power cuts, records that the anchor did not know, files dropped by retention,
        clocks that went back.
    """

    chain: str = ""
    files: int = 0
    records: int = 0
    first: Link = field(default_factory=Link)
    last: Link = field(default_factory=Link)
    anchored: Link | None = None
    faults: list[AuditFault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "intact": self.intact,
            "chain": self.chain,
            "files": self.files,
            "records": self.records,
            "first_seq": self.first.seq,
            "head": str(self.last),
            "anchored": str(self.anchored) if self.anchored is not None else None,
            "faults": [vars(fault) for fault in self.faults],
            "notes": self.notes,
        }


def verify_trail(
    folder: str | os.PathLike[str], *, anchor: Anchor | None = None, head: Link | None = None
) -> AuditReport:
    """Read a whole trail and check every link.

    The hashes alone show any change that is not carried through to the end. Whoever may write the files can cut records
    off the end, or write the whole trail anew: that shows only against an anchor (the template store keeps one), or
    against a head that was noted elsewhere. Nothing shows that trail and anchor were both put back to an older state,
    nor what was done by somebody who has the gate's key.

    Parameters
    ----------
    folder : path
    anchor : Anchor, optional
        The template store of the gate.
    head : Link, optional
        A link of this trail that is known from elsewhere.

    Raises
    ------
    InputError
        If it cannot be read, or holds no file of an audit trail.
    """
    path = Path(folder)
    try:
        with _settled(path):
            sizes = {number: (file, file.stat().st_size) for number, file in sorted(trail_files(path).items())}
            walk = _Walk(AuditReport(files=len(sizes)), anchor)
            if sizes:
                walk.meet_anchor(*sizes[min(sizes)])
    except OSError as error:
        raise InputError(
            f"the audit trail {str(path)!r} cannot be read ({error.strerror}): check path and rights"
        ) from None
    if not sizes:
        raise InputError(f"{str(path)!r} holds no audit trail: give the folder of one, with files audit-00000001.jsonl")
    if head is not None:
        walk.known[head.seq] = head.hash
        walk.report.anchored = max(head, walk.report.anchored or head, key=lambda link: link.seq)
    before = min(sizes) - 1
    for number, (file, size) in sizes.items():
        if number != before + 1:
            walk.fault("missing", file.name, f"files {before + 1} to {number - 1} are missing before it")
        before = number
        try:
            for line_number, line in _lines(file, size):
                walk.line(f"{file.name}:{line_number}", line, last=number == max(sizes))
        except OSError as error:
            raise InputError(f"the audit trail's {str(file)!r} cannot be read ({error.strerror}): check it") from None
    walk.end()
    return walk.report


class _Walk:
    """From record to record."""

    def __init__(self, report: AuditReport, anchor: Anchor | None) -> None:
        self.report, self._anchor = report, anchor
        self.known: dict[int, str] = {}  # hashes that records must have, by number
        self._before: Link | None = None
        self._start: Link | None = None
        self._dropped: Link | None = None
        self._dropping = -1  # number of the record that says so
        self._anchored: int | None = None
        self._unanchored: list[range] = []  # records that no anchor knew when they were the last
        self._clock: float | None = None
        self._unreadable = 0  # lines since the last record

    def fault(self, kind: str, where: str, what: str) -> None:
        if len(self.report.faults) < _MAX_FAULTS:
            self.report.faults.append(AuditFault(kind, where, what))

    def meet_anchor(self, file: Path, size: int) -> None:
        """Ask the anchor, while nobody appends: it must not know of records that come later than what is read."""
        for _, line in _lines(file, size):
            try:
                record, _, _ = read_line(line)
            except ChainBroken:
                return
            self.report.chain = str(record.get("chain", ""))
            break
        known = self._anchor.read_anchor(self.report.chain) if self._anchor is not None else None
        if known is not None:
            self.known[known[0]], self._anchored = known[1], known[0]
            self.report.anchored = Link(*known)
        if self._anchor is None:
            return
        for chain in self._anchor.anchored_chains():
            other = self._anchor.read_anchor(chain) if chain != self.report.chain else None
            if other is not None:
                gone = f"the anchor knows the trail {chain}, of {other[0] + 1} records, which is not in this folder"
                self.fault("missing", "the trail", gone)

    def line(self, where: str, line: bytes, *, last: bool) -> None:
        if not line.endswith(b"\n") and last:
            self.report.notes.append(f"{where}: {len(line)} bytes torn by a power cut; the next record repairs it")
            return
        try:
            record, link, before = read_line(line)
        except ChainBroken:
            self.fault("edited", where, "it is no record, or its content is not what its hash says")
            self._unreadable += 1
            return
        self._follow(where, link, before, str(record.get("type")))
        self._look(where, record, link)
        self.report.records += 1
        self.report.last = self._before = link
        self._unreadable = 0

    def _follow(self, where: str, link: Link, before: Link, kind: str) -> None:
        if self._before is None:
            self.report.first, self._start = link, before
            if (link.seq == 0) != (kind == "genesis" and before.hash == GENESIS):
                self.fault("beginning", where, f"record {link.seq} of type {kind!r} is no beginning")
        elif link.seq > self._before.seq + 1:
            first, last = self._before.seq + 1, link.seq - 1
            missing = last - first + 1 - self._unreadable  # the others are there, but edited, which has been said
            if missing > 0:
                self.fault("missing", where, f"of the records {first} to {last}, {missing} are missing")
        elif link.seq <= self._before.seq:
            self.fault("order", where, f"record {link.seq} stands after record {self._before.seq}")
        elif before.hash != self._before.hash:
            self.fault("edited", where, f"record {link.seq} is not bound to the one before, which was replaced")
        known = self.known.get(link.seq)
        if known is not None and known != link.hash:
            self.fault(
                "rewritten", where, f"record {link.seq} is not the one that the anchor knows: it was written anew"
            )

    def _look(self, where: str, record: dict[str, Any], link: Link) -> None:
        kind, notes = record.get("type"), self.report.notes
        if kind == "cut-off":
            first, last = _whole(record, "missing_from"), _whole(record, "missing_to")
            self.fault("cut-off", where, f"records {first} to {last} were cut off before it was written")
        elif kind == "rewritten":
            known = _whole(record, "record")
            self.fault("rewritten", where, f"record {known} was not the one that the anchor knew: it was written anew")
        elif kind == "unanchored":
            self._unanchored.append(range(_whole(record, "unanchored_from"), _whole(record, "unanchored_to") + 1))
        elif kind == "retention":
            self._dropped = Link(_whole(record, "dropped_through"), str(record.get("dropped_hash")))
            self._dropping = link.seq
        elif torn := _whole(record, "torn_bytes"):
            notes.append(f"{where}: repaired after a power cut, {torn} bytes of a torn line")
        now = wall_seconds(record)
        if now is not None:
            if self._clock is not None and now < self._clock - 1:
                notes.append(f"{where}: the clock went back by {self._clock - now:.0f} s at record {link.seq}")
            self._clock = now

    def end(self) -> None:
        report = self.report
        if self._anchored is not None:
            self._unanchored.append(range(self._anchored + 1, report.last.seq + 1))
        for since in filter(None, self._unanchored):
            report.notes.append(
                f"records {since[0]} to {since[-1]} came after the last that the anchor knew: the power was cut, or "
                "somebody else wrote them"
            )
        if self._start is not None and self._start.seq >= 0:
            if self._dropped == self._start and any(self._dropping in since for since in self._unanchored):
                gone = f"records up to {self._start.seq} are gone, by a record of retention that no anchor knew"
                self.fault("beginning", "the trail", gone)
            elif self._dropped == self._start:
                report.notes.append(f"records up to {self._start.seq} were dropped by retention")
            else:
                self.fault(
                    "beginning",
                    "the trail",
                    f"it begins with record {report.first.seq}, and no retention dropped the rest",
                )
        for seq in sorted(self.known):
            if seq > report.last.seq:
                self.fault("cut-off", "the trail", f"records {report.last.seq + 1} to {seq} were cut off its end")


def _whole(record: Mapping[str, Any], name: str) -> int:
    """A number of a record; 0 where there is none, for who forges records may write anything."""
    value = record.get(name)
    return value if isinstance(value, int) else 0


def _lines(file: Path, size: int) -> Iterator[tuple[int, bytes]]:
    """Lines of the first `size` bytes, with their numbers; what is longer than any record comes in pieces."""
    with file.open("rb") as opened:
        number = 0
        while size > 0:
            line = opened.readline(min(size, _MAX_LINE))
            if not line:
                return
            number += 1
            size -= len(line)
            yield number, line


@contextmanager
def _settled(folder: Path) -> Iterator[None]:
    """Nobody appends meanwhile; where the lock cannot be opened, as on a read-only disk, nobody can."""
    try:
        descriptor = os.open(folder / "audit.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
