"""The work folder: everything that took time, by the hash of what it depends on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from immunecam.errors import InputError
from immunecam.files import written_whole

__all__ = ["Store", "digest"]

_log = logging.getLogger(__name__)


def digest(key: Any) -> str:
    """SHA-256 of a plain value's JSON."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


class Store:
    """Named arrays in files, so that an interrupted evaluation goes on where it was.

    Parameters
    ----------
    folder : path
        Made if missing.
    others : sequence of path
        Work folders of other parts, which are read and not written.
    """

    def __init__(self, folder: str | Path, others: Sequence[str | Path] = ()) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the work folder {str(folder)!r} cannot be made ({error.strerror}): name another with --work"
            ) from None
        for other in others:
            if not Path(other).is_dir():
                raise InputError(f"the work folder {str(other)!r} to merge does not exist: give one that a part wrote")
        self._places = [self.folder, *map(Path, others)]

    def get(self, key: Any, compute: Callable[[], Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """The arrays of a key, computed if no folder has them whole."""
        name = f"{digest(key)}.safetensors"
        found = self.find(key)
        if found is not None:
            return found
        arrays = {title: np.ascontiguousarray(value) for title, value in compute().items()}
        try:
            with written_whole(self.folder / name) as partial:
                save_file(arrays, partial)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"the work folder {str(self.folder)!r} cannot be written ({error}): free some space"
            ) from None
        return arrays

    def find(self, key: Any) -> dict[str, NDArray[Any]] | None:
        """The arrays of a key, if a folder has them whole."""
        name = f"{digest(key)}.safetensors"
        for place in self._places:
            try:
                return dict(load_file(place / name))
            except FileNotFoundError:
                continue
            except (OSError, SafetensorError) as error:
                _log.warning("%s is damaged and is computed again: %s", place / name, error)
        return None
