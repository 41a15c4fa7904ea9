"""A bundle as a folder ``NAME.immune/``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from immunecam.errors import InputError
from immunecam.files import read_regular
from immunecam.runtime.bundle_manifest import MANIFEST, READ_AGAIN, FileRecord

__all__ = ["BundleFolder"]


class BundleFolder:
    """Reads regular files that lie directly in the folder.

    See :class:`immunecam.runtime.bundle_source.BundleSource`.
    """

    def __init__(self, path: Path) -> None:
        """Open a folder.

        Raises
        ------
        InputError
            If it has no manifest.
        """
        if not (path / MANIFEST).exists():
            raise InputError(f"{path} is not a bundle: it has no {MANIFEST}.")
        self.path = path
        # Some installers link every file of a package to a cache, so the real folder is the manifest's.
        self._root = (path / MANIFEST).resolve().parent

    def read(self, name: str, limit: int) -> bytes:
        path = self.path / name
        try:
            if path.resolve(strict=True).parent != self._root:
                raise InputError(
                    f"The bundle file {path} is a link to {path.resolve()}, but a bundle's files must lie in its "
                    f"own folder: {READ_AGAIN}."
                )
            return read_regular(path, limit)
        except FileNotFoundError:
            raise InputError(f"The bundle file {path} is missing, but the manifest lists it: {READ_AGAIN}.") from None
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise InputError(f"The bundle file {path} cannot be read ({reason}): {READ_AGAIN}.") from None

    def has(self, name: str) -> bool:
        return os.path.lexists(self.path / name)

    def expect(self, files: Mapping[str, FileRecord]) -> None:
        """Nothing: files that the manifest does not list are left alone."""

    def close(self) -> None:
        """Nothing is held open."""
