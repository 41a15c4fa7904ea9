"""Rollback protection: the highest version of each bundle that a device has loaded, in a small file of its own.

An old bundle keeps its valid signature for ever, so a signature alone would let anybody put back one with a known
weakness. The file is the device's memory against that; it is as safe as the folder it lies in.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from immunecam.errors import InputError
from immunecam.files import read_regular, write_durably

__all__ = ["SeenVersions"]

_FORMAT, _FORMAT_VERSION = "immunecam-bundle-versions", 1
_LIMIT = 2**20
_log = logging.getLogger(__name__)


class SeenVersions:
    """Highest version seen, by the name that stands in the signed manifest.

    By name alone and not by key: when keys are rotated, an old bundle under the old key is as old as before.

    A missing file is that of a new device: it is made, with a warning in the log, when the first version above 0 is
    to be remembered. A damaged one is an error, because who can damage it could otherwise roll back. One that cannot
    be written is an error only where a higher version is to be remembered; a read-only system loads what it has seen.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Use a file, which need not exist; its folder must, before something is remembered."""
        self.path = Path(path)

    def highest(self, name: str) -> int:
        """Highest version of a bundle that was seen; 0 if none was.

        Raises
        ------
        InputError
            If the file is damaged or cannot be read.
        """
        return self._read().get(name, 0)

    def check(self, name: str, version: int, where: str) -> None:
        """Refuse a bundle that is older than one that was seen.

        Parameters
        ----------
        name, version
            From the bundle's manifest.
        where : str
            What to call the bundle in an error.

        Raises
        ------
        InputError
            If it is older, or the file is damaged or cannot be read.
        """
        self._refuse_older(self.highest(name), name, version, where)

    def remember(self, name: str, version: int, where: str) -> None:
        """Note that a bundle was loaded; returns when that would outlast a power cut.

        Raises
        ------
        InputError
            As :meth:`check`; or if the file must be written and cannot be.
        """
        if self._read().get(name, 0) == version:
            return  # nearly always, and then nothing has to be writable
        try:
            with self._alone():
                seen = self._read()
                self._refuse_older(seen.get(name, 0), name, version, where)  # another process may have seen more
                if not self.path.exists():
                    _log.warning("%s is new: versions of bundles are remembered from now on.", self.path)
                content = {"format": _FORMAT, "format_version": _FORMAT_VERSION, "highest": seen | {name: version}}
                text = json.dumps(content, indent=2, sort_keys=True) + "\n"
                write_durably(self.path, text.encode("utf-8"))
        except OSError as error:
            raise InputError(
                f"The version {version} of {where} cannot be remembered in {self.path} ({error.strerror}): make its "
                "folder writable, for without that an older bundle could be put back."
            ) from None

    def _refuse_older(self, highest: int, name: str, version: int, where: str) -> None:
        if version < highest:
            raise InputError(
                f"{where} is version {version} of {name!r}, but this device has seen version {highest} "
                f"({self.path}): install version {highest} or later."
            )

    def _read(self) -> dict[str, int]:
        try:
            raw = read_regular(self.path, _LIMIT)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._damaged(f"it cannot be read: {getattr(error, 'strerror', None) or error}") from None
        try:
            content = json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError):
            raise self._damaged("it is not valid JSON") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise self._damaged(f"its format is not {_FORMAT!r}")
        if content.get("format_version") != _FORMAT_VERSION:
            raise self._damaged(f"its format version is not {_FORMAT_VERSION}")
        highest = content.get("highest")
        if not isinstance(highest, dict) or not all(type(value) is int and value >= 0 for value in highest.values()):
            raise self._damaged("highest is not an object of versions")
        return highest

    def _damaged(self, why: str) -> InputError:
        return InputError(
            f"The file of seen bundle versions {self.path} cannot be used ({why}), so no bundle is loaded: restore it, "
            "or remove it on a device that you have examined."
        )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one process changes it at a time; the lock is the folder's, so no file is left by it."""
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
