"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["read_regular", "sync_folder", "write_durably", "written_whole"]


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A name beside `target` to write to; what is there at the end of the block becomes `target`.

    A reader sees the old file or the new one, nothing between, and a block that raises leaves the old one. The name has
    the number of the process, for two may write the same file.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def write_durably(target: Path, data: bytes) -> None:
    """Write a file whole or not at all, so that it also outlasts a power cut that comes right after.

    Raises
    ------
    OSError
        If it cannot be written; what was there is kept.
    """
    with written_whole(target) as partial, open(partial, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(target.parent)


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
