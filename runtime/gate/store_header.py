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


def unlock(connection: sqlite3.Connection, key: GateKey, setting: Setting, where: str) -> Seals:
    """The store's seals, if key and setting are its own."""
    store_id = meta(connection, "store id", where)
    if not hmac.compare_digest(meta(connection, "key check", where), Seals.check_value(key, store_id)):
        raise NotThisStore(f"{where} was made with another key: give the key that it was made with")
    header = [meta(connection, name, where) for name in _HEADER]
    recognizer, purification = (header[i].decode("utf-8", "replace") for i in (0, 2))
    seals = Seals(key, store_id, recognizer, purification)
    if not hmac.compare_digest(meta(connection, "header", where), seals.sign_header(*header)):
        raise StoreDamaged(f"{where} is damaged: what it says of its recogniser and setting was changed")
    for what, name, wanted in (
        ("recogniser", "recognizer", setting.recognizer),
        ("purification setting", "purification", setting.purification),
        ("size of embeddings", "size", str(setting.size)),
    ):
        found = meta(connection, name, where).decode("utf-8", "replace")
        if found != wanted:
            told_names = ""
            if name != "size":
                old = meta(connection, f"{name} name", where).decode("utf-8", "replace")
                new = setting.recognizer_name if name == "recognizer" else setting.purification_name
                told_names = f" ({old} {found[:12]}, not {new} {wanted[:12]})"
            raise InputError(
                f"{where} holds templates made with another {what}{told_names}, which cannot be compared: use "
                "that one, or enrol again into a new store"
            )
    return seals
