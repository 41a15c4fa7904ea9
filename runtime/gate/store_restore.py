"""The last good backup of a template store: checking it, and putting it in the place of a damaged store."""

from __future__ import annotations

from pathlib import Path

from immunecam.errors import InputError
from immunecam.files import create_durably, remove_partials, written_whole
from immunecam.runtime.gate.keys import GateKey
from immunecam.runtime.gate.store_content import StoreContent, StoreDamaged, meta, read_roster
from immunecam.runtime.gate.store_file import StoreLock, check_structure, connect, told
from immunecam.runtime.gate.store_header import Setting, unlock

__all__ = ["backup_of", "check_copy", "generation_of", "is_good", "restore"]


def backup_of(path: Path) -> Path:
    """Where the backup of a store lies."""
    return path.with_name(path.name + ".backup")


def check_copy(path: Path, key: GateKey, setting: Setting | None) -> None:
    """Open a copy that nobody writes, and read all of it."""
    where = f"the copy {str(path)!r} of a template store"
    with told(path, "checked"):
        connection = connect(path, immutable=True)
        try:
            check_structure(connection, where)
            seals, own = unlock(connection, key, setting, where)
            StoreContent.read(connection, seals, own.size, where)
        finally:
            connection.close()


def is_good(path: Path, key: GateKey, setting: Setting | None) -> bool:
    """Whether there is a copy at a path that this key opens and nothing is wrong with."""
    try:
        if not path.exists():
            return False
        check_copy(path, key, setting)
    except InputError:
        return False
    return True


def generation_of(path: Path, key: GateKey) -> tuple[bytes, int] | None:
    """Id of the store that a copy is of, and the number of its last change; None if there is no copy to tell."""
    where = f"the copy {str(path)!r} of a template store"
    try:
        if not path.exists():
            return None
        with told(path, "read"):
            connection = connect(path, immutable=True)
            try:
                seals, _ = unlock(connection, key, None, where)
                roster = read_roster(meta(connection, "roster", where), seals, where)
                return meta(connection, "store id", where), roster.generation
            finally:
                connection.close()
    except InputError:
        return None


def restore(path: Path, key: GateKey, setting: Setting | None, lock: StoreLock, reason: str) -> None:
    """Put the backup in the place of a damaged store, which is kept beside it as `NAME.damaged`."""
    backup = backup_of(path)
    if not backup.exists():
        raise InputError(f"{reason}, and it has no backup: enrol again into a new store, or repair the file")
    try:
        check_copy(backup, key, setting)
    except StoreDamaged as error:
        raise InputError(f"{reason}, and its backup is, too ({error}): enrol again into a new store") from None
    if not lock.alone():
        raise InputError(f"{reason}, and another process has it open: stop that one, then open the store again")
    with told(path, "restored"):
        try:
            # Whatever is cut off here begins anew at the next opening: until the last step the store stays damaged.
            remove_partials(path)
            with written_whole(path, durable=True) as partial:
                create_durably(partial, backup.read_bytes())
                for suffix in ("", "-wal"):
                    old = path.with_name(path.name + suffix)
                    if old.exists():
                        with written_whole(old.with_name(f"{path.name}.damaged{suffix}")) as aside:
                            create_durably(aside, old.read_bytes())
                # Before the copy arrives: SQLite would write the old log into it.
                path.with_name(path.name + "-wal").unlink(missing_ok=True)
                path.with_name(path.name + "-shm").unlink(missing_ok=True)
        finally:
            lock.share_again()
