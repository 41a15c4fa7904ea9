"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["sync_folder", "written_whole"]


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


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk: a file's own fsync does not write its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
