"""Where the bytes of a bundle come from: its folder, or an archive of one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from immunecam.errors import InputError
from immunecam.runtime.bundle_archive import BundleArchive
from immunecam.runtime.bundle_folder import BundleFolder
from immunecam.runtime.bundle_manifest import FileRecord

__all__ = ["BundleSource", "open_source"]


class BundleSource(Protocol):
    """Bytes by plain names; what they are is for the caller to check."""

    def read(self, name: str, limit: int) -> bytes:
        """Up to ``limit + 1`` bytes of a file.

        Raises
        ------
        InputError
            If it is missing, is no regular file of this bundle, or cannot be read.
        """

    def has(self, name: str) -> bool:
        """Whether there is anything under that name."""

    def expect(self, files: Mapping[str, FileRecord]) -> None:
        """Hear what the manifest lists, before any of it is read.

        Raises
        ------
        InputError
            If that alone shows that the bundle is not as its manifest says.
        """

    def close(self) -> None:
        """Give back what is open."""


def open_source(path: Path) -> BundleSource:
    """The folder or archive of that name.

    Raises
    ------
    InputError
        If there is none, or it cannot be that of a bundle.
    """
    if path.is_dir():
        return BundleFolder(path)
    if path.exists():
        return BundleArchive(path)
    raise InputError(f"There is no bundle at {path}: give the path of a folder or archive NAME.immune.")
