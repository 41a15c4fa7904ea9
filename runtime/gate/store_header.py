"""What a template store says about itself: its key's check value, recogniser and purification setting."""

from __future__ import annotations

import hmac
import os
import secrets
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from immunecam.errors import InputError
from immunecam.files import sync_folder
from immunecam.runtime.gate.keys import GateKey
from immunecam.runtime.gate.store_content import NotThisStore, Roster, Seals, StoreDamaged, meta
from immunecam.runtime.gate.store_file import connect, create_schema, told

__all__ = ["Setting", "create_store", "unlock"]

_HEADER = ("recognizer", "recognizer name", "purification", "purification name", "size")


@dataclass(frozen=True)
class Setting:
    """What templates were made with. Those of another setting cannot be compared.

    Attributes
    ----------
    recognizer : str
        Identity, :attr:`RecognizerSpec.identity`.
    purification : str
        "none", or the identity of the purifier.
    size : int
        Length of an embedding.
    recognizer_name, purification_name : str
        For people.
    """

    recognizer: str
    purification: str
    size: int
    recognizer_name: str = field(default="", compare=False)
    purification_name: str = field(default="", compare=False)


def create_store(path: Path, key: GateKey, setting: Setting) -> None:
    """A new store, empty, at a path where there is none."""
    store_id = secrets.token_bytes(16)
    seals = Seals(key, store_id, setting.recognizer, setting.purification)
    entries = {
        "store id": store_id,
        "key check": Seals.check_value(key, store_id),
        "recognizer": setting.recognizer.encode(),
        "recognizer name": setting.recognizer_name.encode(),
        "purification": setting.purification.encode(),
        "purification name": setting.purification_name.encode(),
        "size": str(setting.size).encode(),
        "roster": seals.seal_meta("roster", Roster().to_bytes()),
    }
    entries["header"] = seals.sign_header(*(entries[name] for name in _HEADER))
    with told(path, "made"):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        connection = connect(path)
        try:
            create_schema(connection, entries)
        finally:
            connection.close()
        sync_folder(path.parent)


def unlock(connection: sqlite3.Connection, key: GateKey, setting: Setting | None, where: str) -> tuple[Seals, Setting]:
    """The store's seals and setting, if the key is its own, and the setting, where one is given.

    Raises
    ------
    NotThisStore
        If the key is another.
    StoreDamaged
        If an entry is missing, or was changed.
    InputError
        If the setting is another.
    """
    store_id = meta(connection, "store id", where)
    if not hmac.compare_digest(meta(connection, "key check", where), Seals.check_value(key, store_id)):
        raise NotThisStore(f"{where} was made with another key: give the key that it was made with")
    header = [meta(connection, name, where) for name in _HEADER]
    entries = dict(zip(_HEADER, (entry.decode("utf-8", "replace") for entry in header), strict=True))
    seals = Seals(key, store_id, entries["recognizer"], entries["purification"])
    if not hmac.compare_digest(meta(connection, "header", where), seals.sign_header(*header)):
        raise StoreDamaged(f"{where} is damaged: what it says of its recogniser and setting was changed")
    own = Setting(
        entries["recognizer"],
        entries["purification"],
        int(entries["size"]),
        entries["recognizer name"],
        entries["purification name"],
    )
    if setting is not None and setting != own:
        what, old, new = "recogniser", own.recognizer, setting.recognizer
        names = (own.recognizer_name, setting.recognizer_name)
        if old == new:
            what, old, new = "purification setting", own.purification, setting.purification
            names = (own.purification_name, setting.purification_name)
        raise InputError(
            f"{where} holds templates made with another {what} ({names[0]}, {old[:12]}, not {names[1]}, {new[:12]}), "
            "which cannot be compared: use that one, or enrol again into a new store"
        )
    return seals, own
