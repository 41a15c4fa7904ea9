"""Templates at rest: a SQLite file whose embeddings are encrypted, and its last good backup."""

from __future__ import annotations

import datetime
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.runtime.gate.keys import GateKey, SealBroken
from immunecam.runtime.gate.matcher import TemplateMatrix
from immunecam.runtime.gate.operating_point import OperatingPoint
from immunecam.runtime.gate.person_name import check_name
from immunecam.runtime.gate.store_anchors import StoreAnchors
from immunecam.runtime.gate.store_backup import StoreBackup
from immunecam.runtime.gate.store_content import NotThisStore, Person, Roster, StoreContent, StoreDamaged, meta
from immunecam.runtime.gate.store_file import StoreLock, check_structure, connect, is_settled, told
from immunecam.runtime.gate.store_header import Setting, create_store, unlock
from immunecam.runtime.gate.store_restore import backup_of, generation_of, is_good, restore

__all__ = ["TemplateStore"]

_MAX_TEMPLATES = 100

_log = logging.getLogger(__name__)


class TemplateStore:
    """People and their templates. Made by :meth:`open`; safe to use from several threads and processes.

    Every change is one transaction that is on the disk (``synchronous = FULL``) when the call returns. Embeddings are
    encrypted (AES-256-GCM), each bound to its person, its place, the store, the recogniser and the purification
    setting; people's names are not encrypted. A row that was changed, swapped, removed or put back, a damaged page, and
    a file that is older than its backup are noticed when the store is opened, and its last good backup, `NAME.backup`
    beside it, then takes its place; the damaged file is kept as `NAME.damaged`. What cannot be noticed: that the file
    and its backup were replaced by older ones of both, or the file by an older one and the backup removed.

    Attributes
    ----------
    path : Path
    setting : Setting
    backup : StoreBackup
        What follows every change of the store.
    anchors : StoreAnchors
        Ends of audit trails.
    restored : str or None
        A sentence if the store was damaged and its backup took its place.
    """

    def __init__(
        self,
        path: Path,
        key: GateKey,
        setting: Setting | None,
        connection: sqlite3.Connection,
        lock: StoreLock,
        read_only: bool,
    ) -> None:
        """Use :meth:`open`."""
        self.path = path
        self.restored: str | None = None
        self._connection, self._lock, self._read_only = connection, lock, read_only
        self._mutex = threading.RLock()
        self._where = f"the template store {str(path)!r}"
        self._seals, self.setting = unlock(connection, key, setting, self._where)
        self.anchors = StoreAnchors(path, connection, self._seals, self._mutex)
        self.backup = StoreBackup(path, key, self.setting, connection, self._mutex)
        connection.execute("BEGIN")  # one state of the file, whatever others commit meanwhile
        self._content = StoreContent.read(connection, self._seals, self.setting.size, self._where)
        connection.execute("COMMIT")
        self._next: StoreContent | None = None
        self._gallery: TemplateMatrix | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        key: GateKey,
        setting: Setting | None,
        *,
        create: bool = False,
        read_only: bool = False,
    ) -> TemplateStore:
        """Open a store, check all of it, and restore it if it is damaged.

        Parameters
        ----------
        path : path
        key : GateKey
        setting : Setting or None
            Of the gate that will use it. None takes the store's own, for whoever compares nothing.
        create : bool
            Make a new one where there is neither a store nor a backup.
        read_only : bool
            Change nothing; works on a read-only disk.

        Raises
        ------
        InputError
            If there is none, the key is another, its templates were made with another setting, it is damaged beyond its
            backup, or the disk fails.
        BackendMissingError
            If cryptography is not installed.
        """
        file = Path(path)
        if create and not file.parent.is_dir():
            raise InputError(f"the folder {str(file.parent)!r} of the template store does not exist: make it first")
        lock = StoreLock(file)
        if create or file.exists():
            lock.share()
        try:
            missing = not file.exists() or file.stat().st_size == 0
            if missing and not backup_of(file).exists():
                if not create or setting is None:
                    raise InputError(f"there is no template store at {str(file)!r}: enrol somebody first")
                create_store(file, key, setting)
                missing = False
            reason = f"the template store {str(file)!r} is missing or empty" if missing else ""
            if not reason:
                try:
                    return cls._opened(file, key, setting, lock, read_only)
                except StoreDamaged as error:
                    reason = str(error)
                except NotThisStore as error:
                    # With a backup that this key opens, it is this store, whose first pages are damaged.
                    if not is_good(backup_of(file), key, setting):
                        raise
                    reason = str(error)
            if read_only:
                raise InputError(f"{reason}, and is not restored when opened read-only: open it with write access")
            restore(file, key, setting, lock, reason)
            store = cls._opened(file, key, setting, lock, read_only)
            store.restored = f"{reason}; its last good backup took its place"
            _log.warning("%s", store.restored)
            return store
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _opened(
        cls, path: Path, key: GateKey, setting: Setting | None, lock: StoreLock, read_only: bool
    ) -> TemplateStore:
        newest = generation_of(backup_of(path), key)  # before the store is read, which a backup never runs ahead of
        where = f"the template store {str(path)!r}"
        with told(path, "opened"):
            connection = connect(path, read_only=read_only, immutable=read_only and is_settled(path))
            try:
                check_structure(connection, where)
                store = cls(path, key, setting, connection, lock, read_only)
                if newest is not None and newest[0] == meta(connection, "store id", where):
                    missing = newest[1] - store.generation
                    if missing > 0:
                        raise StoreDamaged(f"{where} lacks the last {missing} changes, which its backup has")
                return store
            except BaseException:
                connection.close()
                raise

    def __len__(self) -> int:
        """Number of people."""
        return len(self.people())

    def people(self) -> list[Person]:
        """Everybody, by name, with changes by other processes."""
        with self._mutex:
            self._refresh()
            return sorted(self._content.people.values(), key=lambda person: person.person)

    def gallery(self) -> TemplateMatrix:
        """All templates for matching; the same object until something changes."""
        with self._mutex:
            self._refresh()
            if self._gallery is None:
                people = ((person.person, person.templates) for person in self._content.people.values())
                self._gallery = TemplateMatrix(people, self.setting.size)
            return self._gallery

    @property
    def generation(self) -> int:
        """Number of changes since the store was made: enrolments, deletions, calibrations."""
        return self._content.roster.generation

    def enrol(
        self,
        person: str,
        embeddings: NDArray[np.float32],
        *,
        qualities: Sequence[float] | None = None,
        replace: bool = False,
    ) -> int:
        """Add templates of a person; all of them are on the disk when it returns, or none.

        Parameters
        ----------
        person : str
            1 to 256 printable characters.
        embeddings : ndarray of float32, shape (T, E)
            Of unit length.
        qualities : sequence of float, optional
            0 to 1, one a template.
        replace : bool
            Drop the templates that the person has; else they are added to.

        Returns
        -------
        int
            Templates that the person has now.

        Raises
        ------
        InputError
            If an argument is not so, there would be more than 100 templates, or the disk fails.
        """
        check_name(person)
        rows = np.asarray(embeddings, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.setting.size or not len(rows):
            raise InputError(f"the templates are {rows.shape}, but they must be (T, {self.setting.size}) with T >= 1")
        if not (np.abs(np.linalg.norm(rows, axis=1) - 1) < 1e-3).all():  # NaN fails, too
            raise InputError("a template is not of unit length: give embeddings of the gate's recogniser")
        scores = [1.0] * len(rows) if qualities is None else [float(q) for q in qualities]
        if len(scores) != len(rows):
            raise UsageError(f"there are {len(scores)} qualities for {len(rows)} templates")
        now = _now()
        with self._change() as connection:
            old = self._content.people.get(person)
            kept = None if replace else old
            numbers, hashes = (kept.numbers, kept.hashes) if kept is not None else ((), ())
            if len(numbers) + len(rows) > _MAX_TEMPLATES:
                raise InputError(
                    f"{person!r} would have {len(numbers) + len(rows)} templates: {_MAX_TEMPLATES} at most"
                )
            if old is None:
                connection.execute("INSERT INTO people (person) VALUES (?)", (person,))
            (row,) = connection.execute("SELECT id FROM people WHERE person = ?", (person,)).fetchone()
            if replace:
                connection.execute("DELETE FROM templates WHERE person_id = ?", (row,))
            first = max(numbers, default=-1) + 1
            for number, (embedding, quality) in enumerate(zip(rows, scores, strict=True), first):
                bound = self._seals.bound(person, number, quality, now)
                sealed = self._seals.seal_template(embedding, bound)
                connection.execute("INSERT INTO templates VALUES (?, ?, ?, ?, ?)", (row, number, quality, now, sealed))
                hashes = (*hashes, self._seals.hash_template(sealed, bound))
            added = hashes[len(numbers) :]
            numbers = (*numbers, *range(first, first + len(rows)))
            templates = rows if kept is None else np.concatenate([kept.templates, rows])
            created = now if kept is None else kept.created
            removed = old.hashes if old is not None and replace else ()
            self._becomes(added, removed, person, Person(person, created, numbers, hashes, templates))
        return len(numbers)

    def delete(self, person: str) -> None:
        """Forget a person, in the store, its log and its backup; pages of the store are overwritten.

        Old blocks of log and backup, and on flash memory those of the store, may outlive that inside the medium, with
        templates encrypted. A damaged file that was put aside as `NAME.damaged` is left as it is.

        Raises
        ------
        InputError
            If nobody of that name is enrolled, or the disk fails.
        """
        with self._change() as connection:
            old = self._content.people.get(person)
            if old is None:
                raise InputError(f"nobody is enrolled as {person!r}: see `immunecam gate list`")
            connection.execute("DELETE FROM people WHERE person = ?", (person,))
            self._becomes((), old.hashes, person, None)
        with self._mutex, told(self.path, "written"):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if self.backup.due:
                self.backup.forget()

    def operating_point(self) -> OperatingPoint | None:
        """What the gate was calibrated to; None if it was not.

        Raises
        ------
        InputError
            If it was changed by somebody without the key.
        """
        with self._mutex, told(self.path, "read"):
            query = (
                "SELECT (SELECT value FROM meta WHERE name = 'roster'), "
                "(SELECT value FROM meta WHERE name = 'operating point')"
            )
            # One statement sees one state of the file: a threshold is compared with the roster that it belongs to.
            while (row := self._connection.execute(query).fetchone())[0] != self._content.sealed_roster:
                self._refresh()
            sealed = row[1]
            try:
                if not self._content.roster.has_point(sealed):
                    raise SealBroken
                opened = None if sealed is None else self._seals.open_meta("operating point", sealed)
            except SealBroken:
                raise StoreDamaged(f"{self._where} has a threshold that was changed: calibrate again") from None
            return None if opened is None else OperatingPoint.from_bytes(opened)

    def set_operating_point(self, point: OperatingPoint) -> None:
        """Keep what the gate was calibrated to.

        Raises
        ------
        InputError
            If it belongs to another recogniser or purification setting, or the disk fails.
        """
        if (point.recognizer, point.purification) != (self.setting.recognizer, self.setting.purification):
            raise InputError("the calibration is of another recogniser or purification setting than the store's")
        sealed = self._seals.seal_meta("operating point", point.to_bytes())
        with self._change() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('operating point', ?)", (sealed,))
            roster = self._content.roster.calibrated(sealed)
            self._next = StoreContent(roster, self._write_roster(roster), self._content.people)

    def close(self) -> None:
        """Write the log into the store and give the file back."""
        with self._mutex:
            try:
                if not self._read_only and self.backup.due:
                    self.backup.write_or_warn()
            finally:
                self._connection.close()
                self._lock.release()

    def __enter__(self) -> TemplateStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction on what the store holds now; the content in memory follows, and the backup."""
        if self._read_only:
            raise InputError(f"{self._where} cannot be written: it was opened read-only")
        with self._mutex:
            with told(self.path, "written"):
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    self._refresh(inside=True)
                    self._next = None
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            if self._next is not None:
                self._content, self._gallery = self._next, None
            self.backup.after_change()

    def _becomes(self, added: Sequence[int], removed: Sequence[int], person: str, now: Person | None) -> None:
        """Write the roster after a change, and keep what the content will be if it is committed."""
        roster = self._content.roster.changed(added, removed)
        self._next = self._content.changed(roster, self._write_roster(roster), person, now)

    def _write_roster(self, roster: Roster) -> bytes:
        sealed = self._seals.seal_meta("roster", roster.to_bytes())
        self._connection.execute("UPDATE meta SET value = ? WHERE name = 'roster'", (sealed,))
        return sealed

    def _refresh(self, *, inside: bool = False) -> None:
        """Read the store again if its roster is another, as after a change by this or another process."""
        with told(self.path, "read"):
            if meta(self._connection, "roster", self._where) == self._content.sealed_roster:
                return
            if not inside:
                self._connection.execute("BEGIN")
            try:
                self._content = StoreContent.read(self._connection, self._seals, self.setting.size, self._where)
            finally:
                if not inside:
                    self._connection.execute("COMMIT")
            self._gallery = None


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
