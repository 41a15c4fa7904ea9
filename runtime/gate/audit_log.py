"""The audit trail: records are added at its end, bound to all before them, and never changed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from immunecam.errors import InputError, UsageError
from immunecam.files import sync_folder
from immunecam.runtime.gate.audit_anchor import Anchor, compare_with_anchor
from immunecam.runtime.gate.audit_chain import SCHEMA, ChainBroken, Link, file_name, file_number, next_line, read_line
from immunecam.runtime.gate.audit_clock import stamp, wall_seconds

__all__ = ["AuditLog", "Retention", "trail_files"]

_LOCK = "audit.lock"
_TAIL = 2**16

_log = logging.getLogger(__name__)

_Record: TypeAlias = tuple[str, dict[str, Any]]  # type and content


@dataclass(frozen=True)
class Retention:
    """How much is kept. Only whole files are dropped, oldest first, and never the one that is written.

    Attributes
    ----------
    file_bytes : int
        A file that has grown beyond this is followed by the next.
    total_bytes : int or None
        Of all files of a trail, and as much again of its pictures; None keeps everything.
    days : float or None
        Files whose last record is older are dropped, and images; None keeps them whatever their age.
    """

    file_bytes: int = 8 * 2**20
    total_bytes: int | None = None
    days: float | None = None

    @property
    def file_limit(self) -> int:
        """Where a file ends: so that at least three can be dropped before the total is reached."""
        return self.file_bytes if self.total_bytes is None else min(self.file_bytes, self.total_bytes // 4)

    def __post_init__(self) -> None:
        for name in ("file_bytes", "total_bytes", "days"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} of the retention is {value!r}, but it must be above 0")


class AuditLog:
    """An audit trail in a folder of its own. Safe to use from several threads and processes.

    A record that `append` has returned survives a power cut. A last line that one cut off is put aside when the trail
    is next written, and a record says so.

    Parameters
    ----------
    folder : path
        Made if it is not there.
    anchor : Anchor, optional
        Gets the last link after every record. Without one, records that are cut off the end cannot be missed.
    retention : Retention
    sync_s : float
        Seconds between two waits for the disk; 0 waits at every record. A power cut loses what came since the last.

    Attributes
    ----------
    folder : Path
    chain : str
        Random name of the trail.

    Raises
    ------
    InputError
        If the folder cannot be used, or its last file is no audit trail.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        anchor: Anchor | None = None,
        retention: Retention | None = None,
        sync_s: float = 0.0,
    ) -> None:
        if not sync_s >= 0:
            raise UsageError(f"sync_s is {sync_s!r}, but it must be seconds from 0 on")
        self.folder, self._anchor, self._sync_s = Path(folder), anchor, sync_s
        self._retention = retention or Retention()
        self._mutex = threading.RLock()
        self._file: Any = None
        self._number, self._size, self._synced = 0, -1, 0.0
        self._waiting = False  # whether a record was written that the disk may not have yet
        self._head, self.chain = Link(), ""
        with self._told():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with self._alone():
                self._catch_up()
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def head(self) -> Link:
        """The last record's link, as far as this object has seen it."""
        return self._head

    def append(self, kind: str, content: Mapping[str, Any]) -> Link:
        """Add a record: the content, `type`, both clocks, and the chain's entries.

        Raises
        ------
        InputError
            If it cannot be written: the trail is as it was before. Or if the anchor cannot be: the record stays. In
            both cases nothing that depends on the record should be done.
        """
        with self._alone():
            self._catch_up()
            if self._size > self._retention.file_limit:
                self._rotate()
            link = self._write(kind, content)
            self._keep_to_retention()
            return link

    def close(self) -> None:
        """Wait for the disk, tell the anchor what it does not know yet, and give the files back."""
        with self._mutex:
            if self._lock < 0:
                return
            try:
                with self._alone():
                    self._settle()
            finally:
                if self._file is not None:
                    self._file.close()
                os.close(self._lock)
                self._file, self._lock = None, -1

    def _settle(self) -> None:
        if self._file is None or not self._waiting:
            return
        os.fsync(self._file.fileno())
        if self._anchor is None:
            return
        known = self._anchor.read_anchor(self.chain)
        if known is not None and known[0] < self._head.seq:  # else another process has told it more
            self._anchor.write_anchor(self.chain, self._head.seq, self._head.hash)

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"the audit trail {str(self.folder)!r} cannot be written ({error.strerror}), and no decision is given "
                "without its record: check disk space and rights"
            ) from None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else appends meanwhile, neither thread nor process."""
        with self._mutex, self._told():
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        """Know the trail's end, whoever wrote it."""
        files = trail_files(self.folder)
        number = max(files, default=0)
        if not number:
            self._begin_file(1)
            self._head = Link()
            self.chain = secrets.token_hex(16)
            self._write("genesis", {"schema": SCHEMA, "chain": self.chain})
            return
        # An empty file has not got its first record, without which nobody would know whose it is.
        if number == self._number and 0 < self._size == files[number].stat().st_size:
            return
        repair, unreadable = self._read_end(files, number)
        # Before anything is written, for that overwrites the anchor.
        difference = self._difference(unreadable)
        for kind, content in filter(None, (repair, difference)):
            self._write(kind, content)

    def _read_end(self, files: Mapping[int, Path], number: int) -> tuple[_Record | None, int]:
        """Read the end of the last file, and take away a last line that is torn.

        Returns
        -------
        (str, dict) or None
            The record to write about what was found.
        int
            Lines after the last record that cannot be read.
        """
        before, self._file, self._size = self._file, None, -1
        if before is not None:
            before.close()
        self._file = files[number].open("ab", buffering=0)
        self._number = number
        self._size = files[number].stat().st_size
        data = _tail(files[number])
        torn = _torn(data)
        found = _last_whole(data[: len(data) - torn])
        if found is None:
            return self._begin_again(files, torn), 0
        record, self._head, unreadable = found
        self.chain = self._chain_of(files[number], record)
        if unreadable:
            # Not refused, for a door must go on; verification finds the changed line, and this record says when.
            _log.error("the last record of the audit trail %s was changed: it goes on in a new file", self.folder)
            self._begin_file(number + 1)
            return ("damage", {"schema": SCHEMA, "chain": self.chain, "unreadable_lines": unreadable}), unreadable
        if torn:
            os.ftruncate(self._file.fileno(), self._size - torn)
            self._size -= torn
            _log.warning("the last line of the audit trail %s was torn by a power cut: %d bytes", self.folder, torn)
            return ("repair", {"torn_bytes": torn}), 0
        return None, 0

    def _begin_again(self, files: Mapping[int, Path], torn: int) -> _Record:
        """A file that holds no whole line: the power was cut, or the disk full, as its first record was written."""
        before = max((number for number in files if number < self._number), default=0)
        kind = "genesis"
        self._head, self.chain = Link(), self.chain or secrets.token_hex(16)
        if before:
            found = _last_whole(_tail(files[before]))
            if found is None:
                raise InputError(
                    f"the audit trail {str(self.folder)!r} holds no readable record: look at it with `immunecam gate "
                    "audit verify`, and move it away to begin a new one"
                )
            record, self._head, _ = found
            self.chain, kind = self._chain_of(files[before], record), "continuation"
        os.ftruncate(self._file.fileno(), 0)
        self._size = 0
        return kind, {"schema": SCHEMA, "chain": self.chain, "torn_bytes": torn}

    @staticmethod
    def _chain_of(path: Path, record: Mapping[str, Any]) -> str:
        """The trail's name, which the first record of a file has."""
        if "chain" not in record:
            with path.open("rb") as file, contextlib.suppress(ChainBroken):
                record, _, _ = read_line(file.readline())
        return str(record.get("chain", ""))

    def _difference(self, unreadable: int) -> _Record | None:
        """What there is to say, for good, if the anchor knows of another end than is there."""
        known = self._anchor.read_anchor(self.chain) if self._anchor is not None else None
        if known is None:
            return None
        found = compare_with_anchor(Link(*known), self._head, unreadable, trail_files(self.folder))
        if found is not None:
            _log.error("the audit trail %s does not end where its anchor says: %s %s", self.folder, *found)
        return found

    def _begin_file(self, number: int) -> None:
        path = self.folder / file_name(number)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        before, self._file = self._file, os.fdopen(descriptor, "ab", 0)
        self._number, self._size = number, path.stat().st_size
        if before is not None:
            with before:
                os.fsync(before.fileno())
        sync_folder(self.folder)

    def _rotate(self) -> None:
        self._begin_file(self._number + 1)
        self._write("continuation", {"schema": SCHEMA, "chain": self.chain})

    def _write(self, kind: str, content: Mapping[str, Any]) -> Link:
        line, link = next_line(self._head, {**stamp(), **content, "type": kind})
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            synced = kind != "decision" or time.monotonic() - self._synced >= self._sync_s
            if synced:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError:
            with contextlib.suppress(OSError):  # what cannot be taken back is a torn line, which is repaired later
                os.ftruncate(self._file.fileno(), self._size)
            raise
        self._size += len(line)
        self._head, self._waiting = link, not synced
        if self._anchor is not None and synced:  # it must never know of more than a power cut leaves
            self._anchor.write_anchor(self.chain, link.seq, link.hash)
        return link

    def _keep_to_retention(self) -> None:
        """Drop the oldest files by age and size; the record that says so keeps the chain's beginning known."""
        kept, now = self._retention, time.time()
        if kept.total_bytes is None and kept.days is None:
            return
        files = trail_files(self.folder)
        sizes = {number: path.stat().st_size for number, path in files.items()}
        total, dropped, through = sum(sizes.values()), [], None
        for number in sorted(files)[:-1]:
            found = _last_whole(_tail(files[number]))
            if found is None or found[2]:  # evidence of a change is not thrown away
                break
            record, link, _ = found
            ended = wall_seconds(record)
            old = kept.days is not None and ended is not None and now - ended > kept.days * 86400
            large = kept.total_bytes is not None and total > kept.total_bytes
            if not old and not large:
                break
            total -= sizes[number]
            dropped.append(number)
            through = link
        if through is None:
            return
        # First the record, then the deed: a power cut in between leaves files that are dropped the next time.
        self._write("retention", {"dropped_through": through.seq, "dropped_hash": through.hash})
        for number in dropped:
            files[number].unlink(missing_ok=True)
        sync_folder(self.folder)


def trail_files(folder: Path) -> dict[int, Path]:
    """Files of a trail by number."""
    found = ((file_number(path.name), path) for path in folder.iterdir())
    return {number: path for number, path in found if number is not None}


def _tail(path: Path) -> bytes:
    """The end of a file, at least a whole line if there is one."""
    with path.open("rb") as file:
        size, length = file.seek(0, os.SEEK_END), _TAIL
        while True:
            start = file.seek(max(0, size - length))
            data = file.read()
            if start == 0 or data[: len(data) - _torn(data)].count(b"\n") > 1:
                return data
            length *= 2


def _torn(data: bytes) -> int:
    """Bytes at the end that a power cut left of a record: after the last line's end, or a line with holes."""
    torn = len(data) - (data.rfind(b"\n") + 1)
    body = data[: len(data) - torn]
    # A block that never reached the disk reads as zeros, which JSON never has.
    while body and b"\0" in body[body.rfind(b"\n", 0, len(body) - 1) + 1 :]:
        start = body.rfind(b"\n", 0, len(body) - 1) + 1
        torn += len(body) - start
        body = body[:start]
    return torn


def _last_whole(data: bytes) -> tuple[dict[str, Any], Link, int] | None:
    """The last record that can be read, its link, and the number of lines after it that cannot."""
    for unreadable, line in enumerate(reversed(data[: len(data) - _torn(data)].splitlines())):
        with contextlib.suppress(ChainBroken):
            record, link, _ = read_line(line)
            return record, link, unreadable
    return None
