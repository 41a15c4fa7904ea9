"""The SQLite file of a template store: opening it, and its errors as one sentence."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from immunecam.errors import InputError
from immunecam.runtime.gate.store_content import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, NotThisStore, StoreDamaged

__all__ = ["StoreLock", "check_structure", "connect", "create_schema", "is_settled", "told"]

_BUSY_MS = 10_000


@contextmanager
def told(path: Path, doing: str) -> Iterator[None]:
    """SQLite's errors as sentences: what cannot be done to which store, why, and what to do."""
    what = f"the template store {str(path)!r}"
    try:
        yield
    except sqlite3.DatabaseError as error:
        reason = str(error)
        unwritable = "unable to open" in reason and path.exists() and not os.access(path.parent, os.W_OK)
        if "full" in reason:
            raise InputError(
                f"{what} cannot be {doing}, because the disk is full: it is as it was, free some space"
            ) from None
        if "readonly" in reason or "read-only" in reason or unwritable:
            raise InputError(
                f"{what} cannot be {doing}, because its disk or file is read-only: it is as it was"
            ) from None
        if "locked" in reason or "busy" in reason:
            raise InputError(
                f"{what} cannot be {doing}: another process has kept it for {_BUSY_MS // 1000} s"
            ) from None
        if "unable to open" in reason or "I/O" in reason:
            raise InputError(f"{what} cannot be {doing} ({reason}): check disk, folder and rights") from None
        raise StoreDamaged(f"{what} is damaged ({reason})") from None  # what else SQLite can say of our statements
    except OSError as error:
        raise InputError(f"{what} cannot be {doing} ({error.strerror}): check disk, folder and rights") from None


def connect(path: Path, *, read_only: bool = False, immutable: bool = False) -> sqlite3.Connection:
    """A connection that waits until what it commits is on the disk, and overwrites what it deletes.

    Parameters
    ----------
    path : Path
    read_only : bool
    immutable : bool
        Nobody writes the file, and its log is empty: a read-only disk, or a backup.

    Raises
    ------
    sqlite3.DatabaseError
        To be told by :func:`told`.
    """
    mode = "ro" if read_only or immutable else "rwc"
    # file:// before the path, or one that begins with two slashes would be taken for a host's.
    uri = f"file://{quote(str(path.absolute()))}?mode={mode}{'&immutable=1' if immutable else ''}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA foreign_keys = ON")
        if mode == "rwc":
            connection.execute("PRAGMA secure_delete = ON")
            (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if journal != "wal":
                raise InputError(
                    f"the template store {str(path)!r} cannot use a write-ahead log: put it on a local disk"
                )
            connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def create_schema(connection: sqlite3.Connection, entries: dict[str, bytes]) -> None:
    """Tables and first entries of a new store, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in SCHEMA:
            connection.execute(statement)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", entries.items())
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check_structure(connection: sqlite3.Connection, where: str) -> None:
    """Refuse a file of somebody else, of another version, or whose pages are damaged.

    Raises
    ------
    InputError
        If it is another application's, or of another schema version.
    StoreDamaged
        If SQLite's own check finds a fault.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise NotThisStore(f"{where} is a database, but no template store: give the path of another, or of a new one")
    if version != SCHEMA_VERSION:
        raise NotThisStore(
            f"{where} has the schema version {version}, but this immunecam reads {SCHEMA_VERSION}: use the version "
            "that wrote it, or enrol again"
        )
    faults = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if faults != ["ok"]:
        raise StoreDamaged(f"{where} is damaged ({' '.join(str(faults[0]).split())[:120]})")
    if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise StoreDamaged(f"{where} is damaged (a template belongs to nobody)")


def is_settled(path: Path) -> bool:
    """Whether the store's log is empty, and it lies where nothing can be written: nobody can be writing it."""
    log = path.with_name(path.name + "-wal")
    return (not log.exists() or log.stat().st_size == 0) and not os.access(path.parent, os.W_OK)


class StoreLock:
    """Shared by all who have a store open, alone for whoever replaces it by its backup.

    The lock is on a file beside the store, for SQLite keeps its own locks on the store. It ends with the process.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.with_name(path.name + ".lock")
        self._descriptor: int | None = None

    def share(self) -> None:
        """Wait for whoever replaces the store; without a file, as on a read-only disk, there is no such process."""
        try:
            self._descriptor = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def alone(self) -> bool:
        """Whether nobody else has the store open; nobody can open it until :meth:`share_again`."""
        if self._descriptor is None:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            return False
        return True

    def share_again(self) -> None:
        """Let others in."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def release(self) -> None:
        """Give it up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
