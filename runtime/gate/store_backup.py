"""The backup that follows a template store: written after every change, and checked before it replaces the last."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

from immunecam.errors import InputError
from immunecam.files import create_durably, remove_partials, written_whole
from immunecam.runtime.gate.keys import GateKey
from immunecam.runtime.gate.store_content import StoreDamaged
from immunecam.runtime.gate.store_file import told
from immunecam.runtime.gate.store_header import Setting
from immunecam.runtime.gate.store_restore import backup_of, check_copy

__all__ = ["StoreBackup"]

_log = logging.getLogger(__name__)


class StoreBackup:
    """Keeps the last good copy of an open store.

    Parameters
    ----------
    store : Path
    key : GateKey
    setting : Setting
    connection : sqlite3.Connection
        Of the store.
    mutex : RLock
        Who holds it has the connection.

    Attributes
    ----------
    path : Path
    due : bool
        Whether the store has changed since.
    """

    def __init__(
        self, store: Path, key: GateKey, setting: Setting, connection: sqlite3.Connection, mutex: RLock
    ) -> None:
        self.path, self.due = backup_of(store), False
        self._store, self._key, self._setting = store, key, setting
        self._connection, self._mutex = connection, mutex
        self._deferred = False

    def write(self) -> None:
        """Copy the store.

        Raises
        ------
        InputError
            If the disk fails, or the store turns out to be damaged; the backup before it stays.
        """
        with self._mutex, told(self._store, "backed up"), self._alone():
            remove_partials(self.path)  # with people in them who may have been deleted since
            with written_whole(self.path, durable=True) as partial:
                create_durably(partial, b"")
                copy = sqlite3.connect(partial, isolation_level=None)
                try:
                    self._connection.backup(copy)
                finally:
                    copy.close()
                check_copy(partial, self._key, self._setting)
                self.due = False

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process after the other, or an older copy could come last; the lock is on the folder."""
        descriptor = os.open(self._store.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def write_or_warn(self) -> None:
        """Copy it; a disk that fails is told in the log, for the change itself is safe."""
        try:
            self.write()
        except StoreDamaged:
            raise
        except InputError as error:
            _log.warning("%s; the change is in the store, but not yet in its backup", error)

    def after_change(self) -> None:
        """Copy it, unless that is put off."""
        self.due = True
        if not self._deferred:
            self.write_or_warn()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """One backup at the end of a block of many changes, in place of one after each."""
        with self._mutex:
            self._deferred = True
        try:
            yield
        finally:
            with self._mutex:
                self._deferred = False
                if self.due:
                    self.write()

    def forget(self) -> None:
        """Take the backup away and write it anew: somebody who was deleted must not stay in it."""
        self.path.unlink(missing_ok=True)
        self.write_or_warn()
