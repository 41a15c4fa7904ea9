"""What a template store holds, read and checked as a whole: seals, roster, structure."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.runtime.gate.keys import Cipher, GateKey, SealBroken

__all__ = [
    "APPLICATION_ID",
    "SCHEMA",
    "SCHEMA_VERSION",
    "NotThisStore",
    "Person",
    "Roster",
    "Seals",
    "StoreContent",
    "StoreDamaged",
    "meta",
    "read_roster",
]

APPLICATION_ID = int.from_bytes(b"ICgt", "big")
SCHEMA_VERSION = 2

SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE people (id INTEGER PRIMARY KEY, person TEXT NOT NULL UNIQUE)",
    "CREATE TABLE templates ("
    " person_id INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE,"
    " number INTEGER NOT NULL CHECK (number >= 0),"
    " quality REAL NOT NULL,"
    " created TEXT NOT NULL,"
    " sealed BLOB NOT NULL,"
    " PRIMARY KEY (person_id, number)) WITHOUT ROWID",
    "CREATE TABLE anchors ("
    " chain TEXT PRIMARY KEY, seq INTEGER NOT NULL, hash TEXT NOT NULL, mac BLOB NOT NULL) WITHOUT ROWID",
)

_MODULUS = 1 << 256
_STATE = struct.Struct(">QQ32s32s")
_NO_POINT = bytes(32)


class NotThisStore(InputError):
    """The file is another application's, or of another key: or its first pages are damaged."""


class StoreDamaged(InputError):
    """The file is not what was written: a page, a row or a seal is broken. The last good backup can replace it."""


@dataclass(frozen=True)
class Roster:
    """Count and keyed sum of all templates, and the operating point's hash: what is missing or came back is noticed.

    The sum is the multiset hash MSet-Add-Hash (Clarke et al., ASIACRYPT 2003): HMAC-SHA256 of every template, added
    modulo 2**256, so that a change costs one addition. It is stored sealed.

    Attributes
    ----------
    generation : int
        Number of changes since the store was made.
    count, total : int
    point : bytes
        SHA-256 of the operating point as it lies in the file; zeros as long as there is none.
    """

    generation: int = 0
    count: int = 0
    total: int = 0
    point: bytes = _NO_POINT

    def changed(self, added: Sequence[int], removed: Sequence[int]) -> Roster:
        """After a change, by the hashes of its templates."""
        total = (self.total + sum(added) - sum(removed)) % _MODULUS
        return Roster(self.generation + 1, self.count + len(added) - len(removed), total, self.point)

    def calibrated(self, sealed: bytes) -> Roster:
        """After a change of the operating point, as it lies in the file."""
        return replace(self, generation=self.generation + 1, point=hashlib.sha256(sealed).digest())

    def has_point(self, sealed: object) -> bool:
        """Whether what lies in the file as the operating point, None for nothing, is this store's last one."""
        if isinstance(sealed, bytes):
            return self.point == hashlib.sha256(sealed).digest()
        return sealed is None and self.point == _NO_POINT

    def to_bytes(self) -> bytes:
        """80 bytes."""
        return _STATE.pack(self.generation, self.count, self.total.to_bytes(32, "big"), self.point)

    @classmethod
    def from_bytes(cls, data: bytes) -> Roster:
        """Of :meth:`to_bytes`."""
        generation, count, total, point = _STATE.unpack(data)
        return cls(generation, count, int.from_bytes(total, "big"), point)


class Seals:
    """The keys of one store in use. What is sealed is bound to the store, the recogniser and the purification setting.

    Parameters
    ----------
    key : GateKey
    store_id : bytes
        16 random bytes, which another store does not share.
    recognizer, purification : str
        Identities.
    """

    def __init__(self, key: GateKey, store_id: bytes, recognizer: str, purification: str) -> None:
        self._templates = Cipher(key.derive("templates"))
        self._meta = Cipher(key.derive("store meta"))
        self._roster_key = key.derive("roster")
        self._anchor_key = key.derive("audit anchor")
        self._header_key = key.derive("store header")
        self._store_id = store_id
        self._bound = _joined(store_id, recognizer.encode(), purification.encode())

    @staticmethod
    def check_value(key: GateKey, store_id: bytes) -> bytes:
        """16 bytes that tell whether a key is the store's, and nothing else about it."""
        return hmac.new(key.derive("key check"), store_id, hashlib.sha256).digest()[:16]

    def sign_header(self, *entries: bytes) -> bytes:
        """Tag of what the store says about itself."""
        return hmac.new(self._header_key, _joined(self._bound, *entries), hashlib.sha256).digest()

    def bound(self, person: str, number: int, quality: float, created: str) -> bytes:
        """What a template is bound to: with its place changed it does not open."""
        row = (person.encode(), str(number).encode(), struct.pack(">d", quality), created.encode())
        return _joined(b"template", self._bound, *row)

    def seal_template(self, embedding: NDArray[np.float32], bound: bytes) -> bytes:
        """An embedding (E,), encrypted."""
        return self._templates.seal(embedding.astype("<f4").tobytes(), bound)

    def open_template(self, sealed: bytes, bound: bytes) -> NDArray[np.float32]:
        """Of :meth:`seal_template`, or SealBroken."""
        return np.frombuffer(self._templates.open(sealed, bound), "<f4").astype(np.float32)

    def hash_template(self, sealed: bytes, bound: bytes) -> int:
        """What a template adds to the roster's sum."""
        return int.from_bytes(hmac.new(self._roster_key, _joined(bound, sealed), hashlib.sha256).digest(), "big")

    def seal_meta(self, name: str, value: bytes) -> bytes:
        """An entry of the table meta, encrypted."""
        return self._meta.seal(value, _joined(b"meta", self._bound, name.encode()))

    def open_meta(self, name: str, sealed: bytes) -> bytes:
        """Of :meth:`seal_meta`, or SealBroken."""
        return self._meta.open(sealed, _joined(b"meta", self._bound, name.encode()))

    def sign_anchor(self, chain: str, seq: int, digest: str) -> bytes:
        """Tag of an audit trail's anchor."""
        content = _joined(self._store_id, chain.encode(), str(seq).encode(), digest.encode())
        return hmac.new(self._anchor_key, content, hashlib.sha256).digest()


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody who is enrolled.

    Attributes
    ----------
    person : str
    created : str
        Time of the oldest template, UTC, ISO 8601.
    numbers : tuple of int
        Of the templates.
    hashes : tuple of int
        What the templates add to the roster's sum.
    templates : ndarray of float32, shape (T, E)
        Unit embeddings.
    """

    person: str
    created: str
    numbers: tuple[int, ...]
    hashes: tuple[int, ...]
    templates: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, eq=False)
class StoreContent:
    """Everything of a store, decrypted and checked.

    Attributes
    ----------
    roster : Roster
    sealed_roster : bytes
        As it lies in the file: while it is the same, nothing has changed.
    people : dict of str to Person
    """

    roster: Roster
    sealed_roster: bytes
    people: dict[str, Person]

    def changed(self, roster: Roster, sealed: bytes, person: str, now: Person | None) -> StoreContent:
        """After a change of one person, who may be gone."""
        people = dict(self.people)
        if now is None:
            del people[person]
        else:
            people[person] = now
        return StoreContent(roster, sealed, people)

    @classmethod
    def read(cls, connection: sqlite3.Connection, seals: Seals, size: int, where: str) -> StoreContent:
        """Read all of a store, within one transaction.

        Raises
        ------
        StoreDamaged
            If a seal is broken, a row is missing or too many, or a template has not `size` numbers.
        """
        damaged = f"{where} is damaged"
        sealed = meta(connection, "roster", where)
        roster = read_roster(sealed, seals, where)
        point = connection.execute("SELECT value FROM meta WHERE name = 'operating point'").fetchone()
        if not roster.has_point(None if point is None else point[0]):
            raise StoreDamaged(f"{damaged}: its threshold was changed, removed or put back")
        people: dict[str, Person] = {}
        total = count = 0
        query = (
            "SELECT person, number, quality, created, sealed "
            "FROM people LEFT JOIN templates ON person_id = people.id ORDER BY person, number"
        )
        for person, group in groupby(connection.execute(query), key=lambda row: row[0]):
            rows = list(group)
            try:
                bounds = [seals.bound(person, number, quality, made) for _, number, quality, made, _ in rows]
                embeddings = [seals.open_template(row[4], bound) for row, bound in zip(rows, bounds, strict=True)]
            except (SealBroken, TypeError, ValueError, AttributeError, struct.error):
                raise StoreDamaged(f"{damaged}: a template of {person!r} does not open") from None
            if any(embedding.shape != (size,) for embedding in embeddings):
                raise StoreDamaged(f"{damaged}: a template of {person!r} does not have {size} numbers")
            hashes = tuple(seals.hash_template(row[4], bound) for row, bound in zip(rows, bounds, strict=True))
            total, count = (total + sum(hashes)) % _MODULUS, count + len(rows)
            created = min(row[3] for row in rows)
            people[person] = Person(person, created, tuple(row[1] for row in rows), hashes, np.stack(embeddings))
        if (count, total) != (roster.count, roster.total):
            raise StoreDamaged(
                f"{damaged}: it holds {count} templates that do not add up to the {roster.count} of its roster, so "
                "rows were removed or put back"
            )
        return cls(roster, sealed, people)


def read_roster(sealed: bytes, seals: Seals, where: str) -> Roster:
    """A store's roster; StoreDamaged if it was changed."""
    try:
        return Roster.from_bytes(seals.open_meta("roster", sealed))
    except (SealBroken, struct.error):
        raise StoreDamaged(f"{where} is damaged: its roster was changed") from None


def meta(connection: sqlite3.Connection, name: str, where: str) -> bytes:
    """An entry of the table meta; StoreDamaged if it is missing."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    if row is None or not isinstance(row[0], bytes):
        raise StoreDamaged(f"{where} is damaged: it lacks the entry {name!r}")
    value: bytes = row[0]
    return value


def _joined(*parts: bytes) -> bytes:
    """Parts with their lengths, so that no two lists give the same bytes."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)
