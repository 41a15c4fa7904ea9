"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["create_durably", "read_regular", "remove_partials", "sync_folder", "write_durably", "written_whole"]


@contextmanager
def written_whole(target: Path, *, durable: bool = False) -> Iterator[Path]:
    """A name beside `target` to write to; what is there at the end of the block becomes `target`.

    A reader sees the old file or the new one, nothing between, and a block that raises leaves the old one. The name has
    the number of the process, for two may write the same file. `durable` waits until a power cut would leave the new
    one, too.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        if durable:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, target)
        if durable:
            sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(target: Path) -> None:
    """Remove what :func:`written_whole` left beside `target` in processes that were killed, with SQLite's files of it.

    Only for whoever has made sure that nobody else writes `target` now.
    """
    for left in target.parent.glob(f".{glob.escape(target.name)}.[0-9]*.partial*"):
        left.unlink(missing_ok=True)


def write_durably(target: Path, data: bytes) -> None:
    """Write a file whole or not at all, so that it also outlasts a power cut that comes right after.

    Raises
    ------
    OSError
        If it cannot be written; what was there is kept.
    """
    with written_whole(target, durable=True) as partial:
        partial.write_bytes(data)


def create_durably(target: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file that must not be there yet, as a key must not; when it returns, a power cut would leave it.

    Parameters
    ----------
    target : Path
    data : bytes
    mode : int
        Rights from the first moment on, less those that the umask takes: a secret is never readable by others, not
        even while it is written. By default its owner's alone.

    Raises
    ------
    FileExistsError
        If there is something of that name; it is left alone.
    OSError
        If it cannot be written; no part of it is left.
    """
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        sync_folder(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut: a renamed file is an entry of its folder.

    Raises
    ------
    OSError
        If that fails; not where the file system has no such thing.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """Up to ``limit + 1`` bytes of a regular file; more than `limit` tells the caller that there is more.

    Raises
    ------
    OSError
        If it cannot be read, or is something else than a file: a named pipe would hang the start of a device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return stream.read(limit + 1)
