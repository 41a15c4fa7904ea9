"""The ends of audit trails that a template store remembers, out of reach of whoever cuts a trail."""

from __future__ import annotations

import hmac
import sqlite3
from pathlib import Path
from threading import RLock

from immunecam.errors import InputError
from immunecam.runtime.gate.store_content import Seals
from immunecam.runtime.gate.store_file import told

__all__ = ["StoreAnchors"]


class StoreAnchors:
    """An :class:`Anchor` in a store's table.

    Parameters
    ----------
    store : Path
    connection : sqlite3.Connection
        Of the store.
    seals : Seals
    mutex : RLock
        Who holds it has the connection.
    """

    def __init__(self, store: Path, connection: sqlite3.Connection, seals: Seals, mutex: RLock) -> None:
        self._store, self._connection, self._seals, self._mutex = store, connection, seals, mutex

    def read_anchor(self, chain: str) -> tuple[int, str] | None:
        """Number and hash of the last record of an audit trail that is known here; None if there is none.

        Raises
        ------
        InputError
            If it was changed by somebody without the key.
        """
        with self._mutex, told(self._store, "read"):
            query = "SELECT seq, hash, mac FROM anchors WHERE chain = ?"
            row = self._connection.execute(query, (chain,)).fetchone()
        if row is None:
            return None
        seq, digest, mac = row
        if not isinstance(mac, bytes) or not hmac.compare_digest(mac, self._seals.sign_anchor(chain, seq, digest)):
            raise InputError(
                f"the template store {str(self._store)!r} holds an anchor of the audit trail that was changed"
            )
        return int(seq), str(digest)

    def anchored_chains(self) -> list[str]:
        """Names of the audit trails that have an anchor here."""
        with self._mutex, told(self._store, "read"):
            return [str(row[0]) for row in self._connection.execute("SELECT chain FROM anchors ORDER BY chain")]

    def write_anchor(self, chain: str, seq: int, digest: str) -> None:
        """Remember the last record of an audit trail."""
        with self._mutex, told(self._store, "written"):
            mac = self._seals.sign_anchor(chain, seq, digest)
            self._connection.execute("INSERT OR REPLACE INTO anchors VALUES (?, ?, ?, ?)", (chain, seq, digest, mac))
